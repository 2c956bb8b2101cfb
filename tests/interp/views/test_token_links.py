"""Token links against their definition on whole maps in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp.errors import InputError, RunError
from interp.inputs.tokens import TokenRow, token_row
from interp.views import TokenLinks, token_links
from interp_kernels import Mask, attend
from interp_kernels.api import Attended
from tests.interp.dense import eager_maps
from tests.interp.models.test_memory import Largest
from tests.interp.tiny import ARCHITECTURES, BERT, HEADS, right_padded
from tests.interp.views.dense_links import DenseLinks, dense_links

Build = Callable[[str], PreTrainedModel]
T = 33
TOP = 5


def check(found: TokenLinks, exact: DenseLinks, p: Tensor, bound: float) -> None:
    """Every number within ``bound`` of the definition, sums within it for each of their terms; links name keys of that weight."""
    n, t = exact.rows.shape
    assert np.abs(found.weights - exact.tile.numpy()).max() <= bound
    for name, value in exact.sums().items():
        assert np.abs(getattr(found, name) - value.numpy()).max() <= t * bound, name
    assert np.abs(found.first - p.numpy()).max() <= bound
    for (places, values), (keys, weights), rows, first in (
        ((found.keys, found.key_weights), exact.keys(TOP), exact.rows, 0),
        ((found.queries, found.query_weights), exact.queries(TOP), exact.tile.T, exact.start),
    ):
        assert values.shape == np.array(weights).shape == (n, min(TOP, rows.shape[1]))
        assert np.abs(values - np.array(weights)).max() <= bound
        some = places >= 0
        # Weights that differ by less than rounding may change places, and the least may vanish.
        assert np.abs(rows.numpy()[np.nonzero(some)[0], places[some] - first] - values[some]).max() <= bound
        assert np.array(weights)[~some].max(initial=0.0) <= bound
        assert (values[~some] == 0).all()
        assert (np.array(keys)[some] >= 0).mean() > 0.9


@pytest.mark.parametrize("padding", [(T,), (19, T)], ids=["alone", "beside a longer one"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "bert"])
def test_links_of_architectures_are_those_of_their_own_maps(
    name: str, padding: tuple[int, ...], own_model: Build, eager_model: Build
) -> None:
    lists, ids, keep = right_padded(padding, seed=4)
    model = interp.load(own_model(name))
    batch = model.batch(lists)
    maps = model.maps(batch)
    exact = eager_maps(eager_model(name), ids, keep)
    plain = eager_maps((BERT if name == "bert" else ARCHITECTURES[name]).build(kernel="eager"), ids, keep)
    length = padding[0]
    start, stop = 6, min(20, length)
    for layer, own in enumerate(exact):
        bound = 2 * float((plain[layer].double() - own).abs().max()) + 16 * torch.finfo(torch.float32).eps
        for head in (0, HEADS - 1):
            found = token_links(maps[layer], batch.token_rows[0], head=head, start=start, size=14, top=TOP)
            wanted = dense_links(own[0, head], torch.arange(length), start, stop)
            assert len(found.tokens) == length
            check(found, wanted, own[0, head, start:stop, 0], bound)


def drawn(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Attended, tuple[Tensor, Tensor, Tensor]]:
    """Attention of two sequences with four query heads on two KV heads."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, heads, T, 6, generator=generator, dtype=torch.float64).to(dtype) for heads in (4, 2, 2))
    return attend(2 * q, k, v, **options), (2 * q, k, v)


def dense_map(q: Tensor, k: Tensor, visible: Tensor, sinks: Tensor | None = None) -> Tensor:
    """P [B, H, T, T] of these, visible [B, 1, T, T]; 0 in rows without keys."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).exp() * visible
    total = weights.sum(-1, keepdim=True) + (0 if sinks is None else sinks.exp()[:, None, None])
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 0.0)


def row_of(columns: list[int]) -> TokenRow:
    return token_row([0] * len(columns), None, columns=columns)


@pytest.mark.parametrize("weighting", ["attention", "value_norm", "without_first"])
@pytest.mark.parametrize("kept", [slice(0, T), slice(7, T), slice(0, 25)], ids=["whole", "left-padded", "right-padded"])
@pytest.mark.parametrize("kind", ["causal", "full", "window", "sinks"])
def test_weightings_are_their_formulas_and_padding_does_not_count(kind: str, kept: slice, weighting: Any) -> None:
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    seen, mask = {
        "causal": (j <= i, Mask.causal()),
        "sinks": (j <= i, Mask.causal()),
        "full": (i + j >= 0, Mask.full()),
        "window": ((j <= i) & (i - j < 5), Mask.causal(window=5)),
    }[kind]
    keep = torch.ones(2, T, dtype=torch.bool)
    keep[1] = False
    keep[1, kept] = True
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64) if kind == "sinks" else None
    attended, (q, k, v) = drawn(mask=mask & Mask.from_padding(keep), sinks=sinks)
    p = dense_map(q, k, seen[None, None] & keep[:, None, None], sinks)
    tokens = torch.arange(T)[kept]
    start, size = 4, 12
    found = token_links(
        attended.map, row_of(tokens.tolist()), head=3, start=start, size=size, top=TOP, batch=1, weighting=weighting
    )
    exact = dense_links(
        p[1, 3],
        tokens,
        start,
        start + size,
        v[1, 1].norm(dim=-1) if weighting == "value_norm" else None,
        first=weighting != "without_first",
    )
    bound = 64 * torch.finfo(torch.float64).eps
    check(found, exact, p[1, 3][tokens][start : start + size, tokens[0]], bound)
    assert found.keys.tolist() == exact.keys(TOP)[0]
    assert found.queries.tolist() == exact.queries(TOP)[0]
    shown = slice(start, start + size)
    assert (found.visible == seen[tokens][:, tokens][shown, shown].numpy()).all()


def test_tokens_whose_columns_have_gaps_are_found() -> None:
    columns = [0, 1, 2, 5, 6, 9, 10, 11]
    keep = torch.zeros(2, T, dtype=torch.bool)
    keep[:, columns] = True
    attended, (q, k, _) = drawn(mask=Mask.causal() & Mask.from_padding(keep))
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    p = dense_map(q, k, (j <= i)[None, None] & keep[:, None, None])
    found = token_links(attended.map, row_of(columns), head=0, start=2, size=4, top=TOP)
    exact = dense_links(p[0, 0], torch.tensor(columns), 2, 6)
    check(found, exact, p[0, 0][columns][2:6, 0], 64 * torch.finfo(torch.float64).eps)


def test_equal_weights_are_listed_by_position_and_no_link_has_no_weight() -> None:
    zero = torch.zeros(1, 1, T, 4)
    found = token_links(attend(zero, zero, zero).map, ["x"] * T, head=0, start=1, size=3, top=4)
    assert found.keys.tolist() == [[0, 1, -1, -1], [0, 1, 2, -1], [0, 1, 2, 3]]
    assert found.queries.tolist() == [[1, 2, 3], [2, 3, -1], [3, -1, -1]]
    assert found.to_frame()[["query", "rank", "key"]].to_numpy().tolist()[:3] == [[1, 1, 0], [1, 2, 1], [2, 1, 0]]


def test_the_table_says_which_keys_lie_outside_of_the_window() -> None:
    attended, _ = drawn()
    frame = token_links(attended.map, [f"t{n}" for n in range(T)], head=1, start=10, size=5, top=40).to_frame()
    assert set(frame["query"]) == set(range(10, 15))
    assert (frame["is_outside"] == (frame["key"] < 10)).all()
    assert (frame["key_token"] == "t" + frame["key"].astype(str)).all()
    assert len(frame) == sum(range(11, 16))


def test_a_row_that_sees_nothing_has_no_links() -> None:
    keep = torch.ones(2, T, dtype=torch.bool)
    keep[:, :3] = False
    attended, _ = drawn(mask=Mask.causal() & Mask.from_padding(keep))
    found = token_links(attended.map, ["x"] * T, head=0, size=3, top=2, weighting="value_norm")
    assert (found.keys == -1).all()
    assert (found.weights == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": 4}, "head: expected a number from 0 to 3, got 4"),
        ({"head": True}, "head: expected a number from 0 to 3, got True"),
        ({"batch": 2}, "batch: expected a number from 0 to 1, got 2"),
        ({"start": T}, f"start: expected a token from 0 to {T - 1}, got {T}"),
        ({"start": -1}, "start: expected a token from 0"),
        ({"size": 0}, "size: expected a number from 1 to 1,024, got 0"),
        ({"size": 5000}, "size: expected a number from 1 to 1,024, got 5000"),
        ({"top": 65}, "top: expected a number from 1 to 64, got 65"),
        ({"weighting": "norm"}, "weighting: there is no 'norm'; did you mean"),
        ({"tokens": ["a"]}, "tokens: expected the text of each of the map's 33 tokens, got 1"),
        ({"tokens": "a text"}, "tokens: expected an entry of Batch.token_rows or a list of strings, got 'a text'"),
        ({"tokens": row_of([0, 40])}, "tokens: they stand at positions 0 to 40, and the map has 33"),
        ({"tokens": TokenRow(())}, "tokens: expected at least one token, got none"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    attended, _ = drawn()
    given = {"tokens": ["x"] * T, "head": 0, **options}
    with pytest.raises(InputError, match=message.replace("[", r"\[")):
        token_links(attended.map, given.pop("tokens"), **given)


def test_maps_that_are_no_self_attention_are_refused() -> None:
    attended, (q, k, v) = drawn()
    with pytest.raises(InputError, match=r"got 3 queries over 33 keys \(cross attention"):
        token_links(attend(q[:, :, -3:], k, v).map, ["x"] * T, head=0)
    with pytest.raises(InputError, match="map: it is weighted by its gradient"):
        token_links(attended.map.weighted_by(torch.ones_like(q)), ["x"] * T, head=0)
    with pytest.raises(InputError, match=r"map: expected an AttentionMap, .* got Tensor"):
        token_links(q, ["x"] * T, head=0)  # pyright: ignore[reportArgumentType]


def test_not_a_number_is_said() -> None:
    q = torch.ones(1, 1, 4, 2)
    q[0, 0, 2] = torch.nan
    with pytest.raises(RunError, match="holds NaN in the rows of tokens"):
        token_links(attend(q, torch.ones(1, 1, 4, 2), q).map, ["x"] * 4, head=0)


def test_no_tensor_grows_with_the_square_of_the_text() -> None:
    """Nor with window x text: the text is long enough for a window's rows to come in several strips."""
    t, size = 20_000, 256
    q = torch.zeros(1, 1, t, 2)
    lazy = attend(q, q, q, mask=Mask.causal(window=2)).map
    # The same operands, without the window that makes their attention quick: every row sees all keys before it.
    whole = attend(q[:, :, :1], q[:, :, :1], q[:, :, :1]).map
    wide = replace(
        lazy, operands=replace(lazy.operands, mask=whole.operands.mask), lse=torch.arange(1, t + 1).log()[None, None]
    )
    with Largest() as largest:
        found = token_links(wide, ["x"] * t, head=0, start=t - size, size=size)
    np.testing.assert_allclose(found.before, (t - size) / np.arange(t - size + 1, t + 1), rtol=1e-5)
    assert largest.bytes <= 9_000_000, largest.operation  # STRIP_CELLS in float32; size x t would be 20 MB
