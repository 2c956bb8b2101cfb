"""Sinks by their formulas on dense maps and hidden states in float64, and what is found on models that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import interp
from interp.errors import InputError
from interp.heads.sinks import Sinks
from interp.results.settings import checksum
from tests.interp import dense
from tests.interp.tiny import ARCHITECTURES, LAYERS, right_padded, token_ids, who_sees_whom
from tests.interp.words import text_of

MODELS = ("llama", "gemma2", "gpt2", "gpt_oss", "bert")
LENGTHS = (40, 23)
SETTINGS = {"threshold": 0.2, "hidden_threshold": 0.15, "min_queries": 4, "massive_size": 1.0, "massive_ratio": 3.0}


def alphas(p: Tensor, causal: bool, n: int) -> np.ndarray:
    """alpha [H, n] of one sequence's map [H, T, T], by a loop over keys. Windows: only queries that see the key count."""
    columns = []
    for k in range(n):
        seen = [q for q in range(k if causal else 0, n) if float(p[:, q, k].max()) > 0]
        columns.append(p[:, seen, k].sum(-1) / len(seen))
    return torch.stack(columns, -1).numpy()


@pytest.fixture(scope="module", params=MODELS)
def run(request, own_model, eager_model) -> tuple[str, Sinks, list[list[np.ndarray]], list[Tensor]]:
    """A result on two padded sequences; of each sequence and layer alpha [H, n]; of each place the dense hidden states."""
    name = request.param
    rows, ids, keep = right_padded(LENGTHS, seed=3)
    result = interp.heads.sinks(interp.load(own_model(name)), rows, **SETTINGS)
    eager = eager_model(name)
    maps = dense.eager_maps(eager, ids, keep)
    causal = name != "bert"
    expected = [[alphas(p[b], causal, n) for p in maps] for b, n in enumerate(LENGTHS)]
    blocks = eager.encoder.layer if name == "bert" else eager.transformer.h if name == "gpt2" else eager.model.layers
    states: list[list[Tensor]] = []
    handles = [blocks[0].register_forward_pre_hook(lambda m, given, named: states.append([given[0]]), with_kwargs=True)]
    handles += [b.register_forward_hook(lambda m, given, out: states[-1].append(first(out))) for b in blocks]
    list(dense.alone(eager, ids, keep))
    for handle in handles:
        handle.remove()
    return name, result, expected, [torch.stack([x[0] for x in sample]) for sample in states]


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_alpha_is_the_mean_that_the_queries_give(run):
    name, result, expected, _ = run
    for layer in range(LAYERS):
        mean = np.stack([x[layer][:, : LENGTHS[1]] for x in expected]).mean(0)
        np.testing.assert_allclose(result.alpha[layer, :, : LENGTHS[1]], mean, atol=3e-6, err_msg=name)
        np.testing.assert_allclose(
            result.alpha[layer, :, LENGTHS[1] :], expected[0][layer][:, LENGTHS[1] :], atol=3e-6, err_msg=name
        )
    assert result.samples.tolist() == [2] * LENGTHS[1] + [1] * (LENGTHS[0] - LENGTHS[1])


def test_sink_rate_is_the_share_of_heads_and_samples_above_the_threshold(run):
    _, result, expected, _ = run
    for k in range(LENGTHS[0]):
        per_sample = [
            np.mean([x[layer][:, k] > SETTINGS["threshold"] for layer in range(LAYERS)])
            for x, n in zip(expected, LENGTHS, strict=True)
            if k < n
        ]
        assert result.rate[k] == pytest.approx(np.mean(per_sample), abs=1e-12)
        error = np.std(per_sample, ddof=1) / 2**0.5 if len(per_sample) == 2 else np.nan
        assert result.rate_stderr[k] == pytest.approx(error, abs=1e-12, nan_ok=True)


def test_columns_are_those_of_the_rule(run):
    name, result, expected, _ = run
    found = []
    for b, (x, n) in enumerate(zip(expected, LENGTHS, strict=True)):
        for layer in range(LAYERS):
            for head, alpha in enumerate(x[layer]):
                last = n if name == "bert" else n - SETTINGS["min_queries"]
                places = [k for k in range(last) if alpha[k] > SETTINGS["hidden_threshold"]]
                found += [(b, layer, head, k, k != places[0]) for k in places]
    assert len(found) > 10
    rows = result.columns[["sample", "layer", "head", "position", "is_hidden"]]
    assert list(rows.itertuples(index=False, name=None)) == found
    assert result.hidden["is_hidden"].all()
    assert result.hidden["alpha"].is_monotonic_decreasing


def test_chance_is_uniform_attention(run):
    name, result, _, _ = run
    architecture = ARCHITECTURES.get(name)
    for layer in range(LAYERS):
        levels = []
        for n in LENGTHS:
            keep = torch.ones(1, n, dtype=torch.bool)
            seen = torch.ones(1, n, n).bool() if architecture is None else who_sees_whom(architecture, layer, keep)
            p = (seen / seen.sum(-1, keepdim=True)).double()
            levels.append(alphas(p, architecture is not None, n)[0])
        expected = (levels[0][: LENGTHS[1]] + levels[1]) / 2
        np.testing.assert_allclose(result.chance[layer, : LENGTHS[1]], expected, atol=1e-6)
        np.testing.assert_allclose(result.chance[layer, LENGTHS[1] :], levels[0][LENGTHS[1] :], atol=1e-6)


def test_the_residual_stream_is_that_of_the_hidden_states(run):
    name, result, _, states = run
    assert result.stream["place"].tolist() == list(range(LAYERS + 1))
    for place in range(LAYERS + 1):
        sizes = [x[place].abs() for x in states]
        medians = [float(x.median()) for x in sizes]
        row = result.stream.iloc[place]
        assert row["median"] == pytest.approx(np.mean(medians), rel=1e-4), name
        assert row["largest"] == pytest.approx(max(float(x.max()) for x in sizes), rel=1e-4)
        ratios = [float(x.max()) / m for x, m in zip(sizes, medians, strict=True)]
        assert row["largest_ratio"] == pytest.approx(max(ratios), rel=1e-4)
        counts = [int(((x > 1.0) & (x >= 3.0 * m)).sum()) for x, m in zip(sizes, medians, strict=True)]
        assert row["massive"] == pytest.approx(sum(counts), abs=1)  # one may lie within rounding of a bound
        assert row["samples_with"] == sum(count > 0 for count in counts)
    assert result.stream["massive"].sum() > 0


def test_the_largest_activations_are_named(run):
    _, result, _, states = run
    for row in result.activations.itertuples():
        value = float(states[row.sample][row.place][row.position, row.dimension])
        assert row.value == pytest.approx(value, rel=1e-4)
        assert row.ratio == pytest.approx(abs(row.value) / row.median)
        assert row.is_massive == (abs(row.value) > 1.0 and row.ratio >= 3.0)
        of_rank = [x[row.place].abs().flatten().topk(row.rank).values[-1] for x in states]
        assert abs(row.value) == pytest.approx(float(max(of_rank)), rel=1e-4)
    assert result.activations.groupby("place").size().tolist() == [3] * (LAYERS + 1)


def test_padding_on_the_left_changes_nothing(own_model):
    model = interp.load(own_model("llama"))
    rows, _, _ = right_padded(LENGTHS, seed=3)
    right = interp.heads.sinks(model, rows, **SETTINGS)
    left = interp.heads.sinks(model, model.batch(rows, padding="left"), **SETTINGS)
    np.testing.assert_allclose(left.alpha, right.alpha, atol=2e-6)
    keys = ["sample", "layer", "head", "position", "token", "is_hidden"]
    pd.testing.assert_frame_equal(left.columns[keys], right.columns[keys])
    np.testing.assert_allclose(left.columns["value_norm"], right.columns["value_norm"], rtol=1e-5)
    np.testing.assert_allclose(left.columns["mean_value_norm"], right.columns["mean_value_norm"], rtol=1e-5)
    for table in ("stream", "activations"):
        pd.testing.assert_frame_equal(getattr(left, table), getattr(right, table), rtol=1e-5)


def test_value_norms_are_those_of_the_head_that_is_read(own_model):
    model = interp.load(own_model("llama"))
    ids = token_ids((40,), seed=5).tolist()
    capture = model.capture(ids, [], value_norms=True)
    rows = interp.heads.sinks(model, ids, **SETTINGS).columns
    assert {0, 3} <= set(rows["head"])
    for row in rows.itertuples():
        norms = capture["value_norm"][row.layer][0, row.head // 2]  # two query heads on each KV head
        assert row.value_norm == pytest.approx(float(norms[row.position]))
        assert row.mean_value_norm == pytest.approx(float(norms.mean()))


def test_a_text_is_cut_into_windows_and_ids_are_not(own_model, tokenizer):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(token_ids((200,), seed=9))
    result = interp.heads.sinks(model, text)
    assert result.alpha.shape == (LAYERS, 4, 64)
    assert result.samples.tolist() == [3] * 64  # 63 words and BOS; the last 11 words are left out
    assert result.settings["inputs"]["sequences"] == 3
    assert interp.heads.sinks(model, text, window=None).alpha.shape[2] == 201
    assert interp.heads.sinks(model, token_ids((90,)).tolist()).alpha.shape[2] == 90
    assert interp.heads.sinks(model, text, window=256).alpha.shape[2] == 201


def test_edits_in_force_apply(own_model):
    model = interp.load(own_model("gpt2"))
    ids = token_ids((30,)).tolist()
    with model.edited(interp.edits.uniform(layers=[0])):
        result = interp.heads.sinks(model, ids)
    np.testing.assert_allclose(result.alpha[0], np.repeat(result.chance[:1], 4, axis=0), atol=1e-6)


def test_a_result_is_kept_and_shown(own_model, tokenizer, tmp_path: Path):
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    text = text_of(token_ids((200,), seed=9))
    result = interp.heads.sinks(model, text)
    again = Sinks.load(result.save(tmp_path / "sinks"))
    assert again.alpha.tobytes() == result.alpha.tobytes()
    assert interp.heads.sinks(model, text).alpha.tobytes() == result.alpha.tobytes()
    pd.testing.assert_frame_equal(again.columns, result.columns)
    pd.testing.assert_frame_equal(again.stream, result.stream)
    assert again.settings == result.settings
    assert len(again.to_frame()) == LAYERS * 4 * 64
    assert again.counted == 54
    assert "massive activations (|x| > 100 and >= 1000 times the median): none; the largest ratio is" in repr(again)
    assert len(again.plot().data) == 7
    assert len(interp.heads.sinks(model, text, massive=False).plot().data) == 3


def test_tokens_in_labels_are_escaped(own_model):
    result = interp.heads.sinks(interp.load(own_model("gpt2")), token_ids((30,)).tolist())
    result.activations["token"] = "<b>&"
    shown = [text for trace in result.plot().data for text in (trace.customdata if trace.name == "largest" else ())]
    assert shown
    assert all("&lt;b&gt;&amp;" in text and "<b>" not in text for text in shown)


def test_one_token(own_model):
    result = interp.heads.sinks(interp.load(own_model("llama")), [5])
    assert result.alpha.shape == (LAYERS, 4, 1)
    np.testing.assert_allclose(result.alpha, 1.0)  # it sees itself alone
    assert result.rate.tolist() == [1.0]
    assert np.isnan(result.rate_stderr).all()
    assert len(result.columns) == 0
    assert "Sink_0 = 100.0%" in result.summary()
    result.plot()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": 1.5}, "sinks: threshold: expected a number from 0 to 1, got 1.5"),
        ({"hidden_threshold": -0.1}, "sinks: hidden_threshold: expected a number from 0 to 1, got -0.1"),
        ({"threshold": float("nan")}, "sinks: threshold: expected a number from 0 to 1, got nan"),
        ({"massive_ratio": float("inf")}, "sinks: massive_ratio: expected a number of at least 0, got inf"),
        ({"min_queries": -1}, "sinks: min_queries: expected a whole number of at least 0, got -1"),
        ({"window": 1}, "sinks: window: expected a whole number of at least 2, got 1"),
        ({"top": True}, "sinks: top: expected a whole number of at least 1, got True"),
        ({"massive": 1}, "sinks: massive: expected True or False, got 1"),
    ],
)
def test_settings_out_of_range_are_refused(given, message, own_model):
    with pytest.raises(InputError, match=message):
        interp.heads.sinks(interp.load(own_model("llama")), [3, 4, 5], **given)


def test_a_position_that_is_not_there_is_refused(own_model):
    result = interp.heads.sinks(interp.load(own_model("llama")), [3, 4, 5])
    with pytest.raises(InputError, match="position: expected a whole number from 0 to 2, got 3"):
        result.plot(position=3)


def test_a_model_of_two_stacks_is_refused():
    import transformers

    config = transformers.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=30)
    model = interp.load(transformers.T5ForConditionalGeneration(config).eval())
    with pytest.raises(InputError, match="sinks reads token ids through one stack of layers"):
        interp.heads.sinks(model, [3, 4, 5])


def test_the_checksum_tells_inputs_apart(own_model):
    model = interp.load(own_model("llama"))
    result = interp.heads.sinks(model, [3, 4, 5])
    assert result.settings["inputs"]["sha256"] == [checksum(model.batch([3, 4, 5]))]


def test_what_is_massive_is_found_where_it_was_put(own_model):
    """One weight of the output projection of block 0 is made huge: what it writes stays in one dimension from there on."""
    own = own_model("llama")
    model = type(own)(own.config)
    model.load_state_dict(own.state_dict())
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[7] *= 30_000
    result = interp.heads.sinks(interp.load(model.eval()), token_ids((30,)).tolist())
    assert (result.stream["massive"] > 0).tolist() == [False, True, True]
    assert set(result.activations.loc[result.activations["place"] > 0, "dimension"]) == {7}
    assert "massive activations (|x| > 100 and >= 1000 times the median): none" not in result.summary()
