"""Surface statistics against their formulas on the models' own dense maps, and what they say of the demo model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError
from interp.heads.surface import SurfaceStatistics, surface
from interp.heads.token_classes import is_punctuation
from interp.inputs.batch import Batch
from interp.inputs.tokens import Token
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, BERT, HEADS, LAYERS, right_padded, tiny_t5, token_ids, who_sees_whom
from tests.interp.words import text_of

Build = Callable[[str], PreTrainedModel]

LENGTHS = (23, 40, 31)
EDGES = (0, 1, 2, 4, 8, 16, 32, np.inf)
EVEN = {"even": lambda token: token.id % 2 == 0}


def by_formula(p: Tensor, ids: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """Each statistic [B, H] of a map [B, H, T, T], from the docstring. Sequence by sequence, without its padding."""
    rows: dict[str, list[Tensor]] = {}
    for map_, row, kept in zip(p, ids, keep, strict=True):
        n = int(kept.sum())
        a, even = map_[:, :n, :n], (row[:n] % 2 == 0).double()
        apart = (torch.arange(n)[:, None] - torch.arange(n)).abs()
        values = {
            "previous_token": torch.stack([a[:, i, i - 1] for i in range(1, n)]).mean(0),
            "current_token": torch.stack([a[:, i, i] for i in range(n)]).mean(0),
            "next_token": torch.stack([a[:, i, i + 1] for i in range(n - 1)]).mean(0),
            "even": (a @ even).mean(-1),
            "entropy": -torch.special.xlogy(a, a).sum(-1).mean(-1),
            "distance": (a * apart).sum(-1).mean(-1),
            "peak": a.max(-1).values.mean(-1),
        }
        for name, value in values.items():
            rows.setdefault(name, []).append(value)
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_oss", "bert"])
def test_each_statistic_is_its_formula(name: str, own_model: Build, eager_model: Build):
    _, ids, keep = right_padded(LENGTHS, seed=3)
    result = surface(interp.load(own_model(name)), Batch(ids, keep), classes=EVEN)
    maps = dense.eager_maps(eager_model(name), ids, keep)
    architecture = BERT if name == "bert" else ARCHITECTURES[name]
    expected = set(result.statistics)
    assert expected == set(by_formula(maps[0], ids, keep)) - ({"next_token"} if architecture.is_causal else set())
    for layer in range(LAYERS):
        exact = by_formula(maps[layer], ids, keep)
        uniform = who_sees_whom(architecture, layer, keep).double()[:, None]
        chance = by_formula(uniform / uniform.sum(-1, keepdim=True), ids, keep)
        for statistic in result.statistics:
            rows = result.to_frame().query("layer == @layer and statistic == @statistic")
            scale = max(1.0, float(exact[statistic].abs().max()))
            want = exact[statistic].numpy()
            # float32 activations of the model under test: the tolerance of tests/interp/models/test_statistics.py.
            np.testing.assert_allclose(rows["value"], want.mean(0), rtol=0, atol=3e-5 * scale)
            np.testing.assert_allclose(rows["stderr"], want.std(0, ddof=1) / 3**0.5, rtol=0, atol=3e-5 * scale)
            np.testing.assert_allclose(rows["chance"], float(chance[statistic].mean()), rtol=0, atol=1e-5 * scale)
            assert (rows["samples"] == 3).all()


def test_the_profile_is_the_mass_by_distance(own_model: Build, eager_model: Build):
    _, ids, keep = right_padded(LENGTHS, seed=3)
    result = surface(interp.load(own_model("llama")), Batch(ids, keep))
    assert result.edges == (0, 1, 2, 4, 8, 16, 32, -1)
    assert result.profile.shape == (LAYERS, HEADS, 7)
    apart = (torch.arange(40)[:, None] - torch.arange(40)).abs()
    for layer, p in enumerate(dense.eager_maps(eager_model("llama"), ids, keep)):
        for number, (low, high) in enumerate(pairwise(EDGES)):
            mass = (p * ((apart >= low) & (apart < high))).sum(-1).sum(-1) / keep.sum(-1)[:, None]
            np.testing.assert_allclose(result.profile[layer, :, number], mass.mean(0), atol=3e-5)
    np.testing.assert_allclose(result.profile.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(result.uniform.sum(-1), 1.0, atol=1e-5)


def test_padding_on_the_left_changes_nothing(own_model: Build, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    texts = [text_of(token_ids((n,), seed=n)) for n in (9, 20)]
    left = surface(model, model.batch(texts, padding="left")).to_frame()
    right = surface(model, model.batch(texts, padding="right")).to_frame()
    np.testing.assert_allclose(left["value"], right["value"], atol=3e-5)
    np.testing.assert_allclose(left["chance"], right["chance"], atol=3e-5)


def test_classes_of_tokens_are_told_by_what_they_are(own_model: Build, tokenizer):
    """Of ids that are given the tokens are read back, and padding is in no class."""
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    seen: list[tuple[str, bool]] = []

    def remember(token: Token) -> bool:
        seen.append((token.text, token.is_special))
        return False

    surface(model, model.batch([[0, 5, 6], [0, 7]]), classes={"none": remember})
    assert seen == [("<s>", True), ("w5", False), ("w6", False), ("<s>", True), ("w7", False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [(".", True), (" ,", True), ("”", True), ("a.", False), ("", False), (" ", False), ("+", False)],
)
def test_punctuation_is_nothing_but_punctuation(text: str, expected: bool):
    assert is_punctuation(Token(0, 0, text, None, None, is_special=False)) is expected


def test_one_token_has_no_previous_one(own_model: Build):
    result = surface(interp.load(own_model("llama")), [[5]])
    frame = result.to_frame()
    assert "previous_token   not defined: no query has such a key" in result.summary()
    assert frame.query("statistic == 'previous_token'")["value"].isna().all()
    assert frame.query("statistic == 'previous_token'")["samples"].eq(0).all()
    assert frame.query("statistic == 'current_token'")["value"].eq(1).all()
    assert frame.query("statistic == 'entropy'")["value"].eq(0).all()


def test_layers_of_stacks_that_see_other_tokens_are_refused():
    model = interp.load(tiny_t5())
    with pytest.raises(
        InputError, match="layers: expected layers of one stack that attends over the input's own tokens"
    ):
        surface(model, token_ids((1, 8)))
    result = surface(model, token_ids((1, 8)), layers=["encoder.0", "encoder.1"])
    assert result.layers == ("encoder.0", "encoder.1")
    assert "next_token" in result.statistics


def test_a_class_may_not_have_the_name_of_a_statistic(own_model: Build):
    with pytest.raises(InputError, match="classes: 'entropy' is the name of another statistic"):
        surface(interp.load(own_model("llama")), [[5, 6]], classes={"entropy": is_punctuation})


def test_it_is_kept_and_drawn(own_model: Build, tmp_path: Path):
    result = surface(interp.load(own_model("llama")), token_ids((2, 30)))
    back = SurfaceStatistics.load(result.save(tmp_path))
    assert back.to_frame().equals(result.to_frame())
    assert np.array_equal(back.profile, result.profile)
    assert repr(back) == repr(result)
    panels = result.plot()
    assert len(panels.data) == 2 * len(result.statistics)
    assert sum(len(trace.x) for trace in panels.data if trace.mode == "markers") == LAYERS * HEADS * len(
        result.statistics
    )
    profile = result.plot_profile("L0H1")
    assert list(profile.data[0].y) == result.profile[0, 1].tolist()
    with pytest.raises(InputError, match="heads: 'L9H9' is not among those measured, written as 'L0H0'"):
        result.plot_profile("L9H9")
    with pytest.raises(InputError, match="there is no statistic 'entropi' here; did you mean 'entropy'"):
        result.of("entropi")


def test_the_demo_model_has_a_previous_token_head_and_sinks():
    model = interp.load("demo")
    prose = Path(interp.__file__).parent / "demo" / "prose.txt"
    result = surface(model, model.windows(prose, length=128))
    assert result.settings["inputs"]["sequences"] == len(model.windows(prose, length=128))
    previous = result.of("previous_token").iloc[0]
    assert (previous["layer"], previous["head"]) == (1, 5)
    assert previous["value"] > 0.85
    sinks = result.of("special").head(4)
    assert set(sinks["layer"]) <= {1, 2}
    assert (sinks["value"] > 0.3).all()
    assert (sinks["chance"] < 0.05).all()
