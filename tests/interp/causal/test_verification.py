"""Verification where the answer is known: metrics that are sums over heads, the trained two-layer model, the demo model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import interp
from interp import causal, edits
from interp.causal.resampling import intervals
from interp.causal.verification import Verification
from interp.errors import InputError, RunError
from interp.heads.samples import RepeatedRandom, Source
from interp.models.editing import edits_on
from interp.scores import HeadScores
from tests.interp.tiny import right_padded, tiny_t5, token_ids

IDS = token_ids((5, 9), seed=3)
FOUND = ["L1H3", "L1H1"]


@pytest.fixture
def model(own_model: Callable[[str], PreTrainedModel]) -> interp.HookedModel:
    return interp.load(own_model("llama"))


def squares(model: interp.HookedModel) -> Tensor:
    """For each sequence the sum over the heads of layer 1 of ||z||^2, which is 0 of an ablated head, whatever the others do."""
    return model.capture(IDS, [], layers=[1], outputs=True)["output"][1].square().sum((1, 2, 3))


def by_head(model: interp.HookedModel) -> np.ndarray:
    """||z||^2 of each head of layer 1, [sequences, heads]."""
    return model.capture(IDS, [], layers=[1], outputs=True)["output"][1].square().sum((2, 3)).double().numpy()


def test_effects_are_what_the_ablated_heads_had_in_the_metric(model: interp.HookedModel):
    of = by_head(model)
    result = causal.verify(model, FOUND, squares, worse="lower")
    frame = result.to_frame()
    assert list(frame["heads"]) == ["", "L1H3 L1H1", "L1H0 L1H2"]
    assert frame["effect"].to_numpy() == pytest.approx(
        [0, -of[:, [1, 3]].sum(1).mean(), -of[:, [0, 2]].sum(1).mean()], rel=1e-5
    )
    error = of[:, [1, 3]].sum(1).std(ddof=1) / 5**0.5
    assert frame["effect_stderr"][1] == pytest.approx(error, rel=1e-4)
    assert result.of_size().stderr == pytest.approx(error, rel=1e-4)
    assert frame["stderr"][0] == pytest.approx(of.sum(1).std(ddof=1) / 5**0.5, rel=1e-4)


def test_the_p_value_counts_the_controls_that_are_as_bad(model: interp.HookedModel):
    of = by_head(model).mean(0)
    order = np.argsort(of)
    for place, head in enumerate(order):
        result = causal.verify(model, [(1, int(head))], squares, worse="lower").of_size()
        assert result.controls == 3
        assert result.share == pytest.approx((3 - place) / 3)
        assert result.p_value == pytest.approx((4 - place) / 4)
        assert result.least_p_value == 0.25
        opposite = causal.verify(model, [(1, int(head))], squares, worse="higher").of_size()
        assert opposite.p_value == pytest.approx((1 + place) / 4)


def test_mean_and_uniform_ablation_do_what_they_say(model: interp.HookedModel):
    z = model.capture(IDS, [], layers=[1], outputs=True)["output"][1].double()
    mean = z.mean((0, 2))  # [heads, width]
    change = IDS.shape[1] * mean.square().sum(1)[None] - z.square().sum((2, 3))
    task = causal.Task("squares", squares, "lower", batches=(model.batch(IDS),))
    result = causal.verify(model, FOUND, task, ablation="mean").to_frame()
    assert result["effect"].to_numpy()[1:] == pytest.approx(
        [float(change[:, h].sum(1).mean()) for h in ([1, 3], [0, 2])], rel=1e-4
    )
    elsewhere = causal.verify(model, FOUND, squares, worse="lower", ablation="mean", reference=IDS).to_frame()
    pd.testing.assert_series_equal(elsewhere["effect"], result["effect"])
    with model.edited(edits.uniform(*FOUND)):
        uniform = float(squares(model).double().mean())
    found = causal.verify(model, FOUND, squares, worse="lower", ablation="uniform").to_frame()
    assert found["value"][1] == pytest.approx(uniform)


def test_each_condition_is_measured_once_with_its_edit_alone(model: interp.HookedModel):
    seen = []

    def metric(edited: interp.HookedModel) -> float:
        seen.append([repr(edit) for edit in edits_on(edited.host.layers)])
        return float(len(seen))

    causal.verify(model, FOUND, metric, worse="higher", sizes=(1, 2))
    assert seen == [
        [],
        ["ablate(heads=((1, 3),))"],
        ["ablate(heads=((1, 0),))"],
        ["ablate(heads=((1, 2),))"],
        ["ablate(heads=((1, 3), (1, 1)))"],
        ["ablate(heads=((1, 0), (1, 2)))"],
    ]


def test_edits_in_force_are_part_of_every_condition(model: interp.HookedModel):
    with model.edited(edits.ablate("L1H0")):
        inside = causal.verify(model, FOUND, squares, worse="lower").to_frame()
    of = by_head(model)
    assert inside["effect"][2] == pytest.approx(-of[:, 2].mean(), rel=1e-5)


@pytest.mark.parametrize("wrong", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_as_before_after_a_metric_that_fails(model: interp.HookedModel, wrong: type[BaseException]):
    before = squares(model)

    def metric(edited: interp.HookedModel) -> float:
        if edits_on(edited.host.layers):
            raise wrong("stopped")
        return 0.0

    with pytest.raises(wrong, match="stopped"):
        causal.verify(model, FOUND, metric, worse="higher")
    assert not edits_on(model.host.layers)
    assert torch.equal(squares(model), before)


def test_same_seed_same_numbers_and_another_seed_other_controls(model: interp.HookedModel):
    def verified(seed: int) -> Verification:
        return causal.verify(model, ["L1H3", "L0H2"], squares, worse="lower", controls=4, seed=seed)

    first, again, other = verified(1), verified(1), verified(2)
    pd.testing.assert_frame_equal(first.to_frame(), again.to_frame(), check_exact=True)
    assert first.of_size() == again.of_size()
    assert list(first.table["heads"]) != list(other.table["heads"])


def test_intervals_hold_the_mean_and_are_about_as_wide_as_their_standard_error_says(model: interp.HookedModel):
    of = by_head(model)
    many = np.random.default_rng(0).normal(size=400)

    def metric(edited: interp.HookedModel) -> np.ndarray:
        return many * float(squares(edited).mean() - of.sum(1).mean())

    result = causal.verify(model, FOUND, metric, worse="lower").of_size()
    low, high = result.interval
    assert low < result.effect < high
    assert high - low == pytest.approx(2 * 1.96 * result.stderr, rel=0.1)
    narrow = causal.verify(model, FOUND, metric, worse="lower", level=0.5).of_size().interval
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * result.stderr, rel=0.1)


def test_found_heads_and_controls_are_resampled_on_the_same_samples():
    found = np.random.default_rng(0).normal(size=12)
    drawn = intervals(found, np.stack([found - 1, found - 1]), level=0.95, seed=0, is_all=True)
    assert drawn.found[1] - drawn.found[0] > 0.5
    assert drawn.difference == pytest.approx((1, 1))


def test_one_sample_has_no_interval_but_that_of_drawn_controls(model: interp.HookedModel):
    def metric(edited: interp.HookedModel) -> float:
        return float(squares(edited).mean())

    drawn = causal.verify(model, ["L1H3", "L0H2"], metric, worse="lower", controls=4).of_size()
    assert np.isnan(drawn.interval).all()
    assert np.isnan(drawn.stderr)
    low, high = drawn.control_interval
    assert drawn.control_low <= low < drawn.control_mean < high <= drawn.control_high
    everything = causal.verify(model, FOUND, metric, worse="lower")
    assert np.isnan(everything.of_size().control_interval).all()
    assert "nan" not in everything.summary()


def test_it_is_read_back_equal_and_plots_its_marks(model: interp.HookedModel, tmp_path: Path):
    result = causal.verify(model, ["L1H3", "L1H1", "L1H0"], squares, worse="lower", sizes=(1, 3), controls=3)
    back = Verification.load(result.save(tmp_path))
    pd.testing.assert_frame_equal(back.to_frame(), result.to_frame(), check_exact=True)
    assert back.of_size(1) == result.of_size(1)
    assert back.summary() == result.summary()
    assert back.settings == result.settings
    figure = result.plot()
    same, other, mean, found = figure.data
    assert len(same.x) == 1  # L1H2 alone against L1H3
    assert len(other.x) == 3
    assert list(found.y) == pytest.approx([result.of_size(1).effect, result.of_size(3).effect])
    assert list(mean.y) == pytest.approx([result.of_size(1).control_mean, result.of_size(3).control_mean])
    assert found.customdata[1, 0] == "L1H3 L1H1 L1H0"
    assert "2 of layer 1 came from the nearest layers" in result.summary()


def test_heads_of_an_encoder_decoder_are_compared_within_their_stack():
    model = interp.load(tiny_t5())
    batch = model.batch(token_ids((2, 9)), decoder=token_ids((2, 5), seed=1))

    def metric(edited: interp.HookedModel) -> Tensor:
        logits = edited.capture(batch, [], logits=True).logits
        assert logits is not None
        return logits[:, -1, 7]

    result = causal.verify(model, ["cross.L0H1", "encoder.L1H2"], metric, worse="lower", exclude="cross.L0H0")
    controls = result.table.loc[result.table["condition"] == "control", "heads"]
    assert set(controls) == {f"encoder.L1H{e} cross.L0H{c}" for e in (0, 1, 3) for c in (2, 3)}
    assert result.of_size().is_all
    assert (result.to_frame()["effect"].abs()[1:] > 0).all()


def test_names_of_tasks_are_no_markup(model: interp.HookedModel):
    task = causal.Task("<b>loss</b>", squares, "lower", unit="<i>nats</i>")
    figure = causal.verify(model, FOUND, task).plot()
    assert "<b>" not in figure.layout.title.text
    assert "<i>" not in figure.layout.yaxis.title.text


def test_a_long_title_is_broken_into_lines_that_fit_the_figure(model: interp.HookedModel):
    name = "loss on the second copy of repeated random tokens & of more that is said of them"
    figure = causal.verify(model, FOUND, causal.Task(name, squares, "lower", unit="nats")).plot()
    lines = figure.layout.title.text.split("<br>")
    assert " ".join(lines) == name.replace("&", "&amp;")
    assert len(lines) > 1
    # Letters of 14 pixels are some 7 wide.
    assert all(7 * len(line) <= figure.layout.width for line in lines)
    assert "nats) before zero ablation" in figure.layout.title.subtitle.text


def test_the_line_at_no_change_is_seen_on_light_and_on_dark_ground(model: interp.HookedModel):
    [line] = causal.verify(model, FOUND, causal.Task("squares", squares, "lower")).plot().layout.shapes
    for ground in ("#ffffff", "#1a1b1e"):
        assert contrast(line.line.color, ground) >= 3


def contrast(one: str, other: str) -> float:
    """Of two colours, by the definition of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_heads_of_a_scan_are_those_above_the_threshold_strongest_first(model: interp.HookedModel, scores: HeadScores):
    frame = scores.to_frame()
    rows = frame["detector"] == "induction"
    frame.loc[rows, "is_above"] = frame.loc[rows, "layer"].eq(1) & frame.loc[rows, "head"].isin([0, 2])
    given = HeadScores(frame, scores.settings)
    expected = sorted(
        ["L1H0", "L1H2"], key=lambda name: -frame[rows & frame["layer"].eq(1)].set_index("head")["score"][int(name[-1])]
    )
    assert causal.heads_above(given, "induction") == expected
    assert list(causal.verify(model, given, squares, detector="induction", worse="lower").heads) == expected
    with pytest.raises(InputError, match="detector: say whose heads are meant, one of previous_token"):
        causal.heads_above(given)
    frame.loc[rows, "is_above"] = False
    with pytest.raises(InputError, match=r"no head is above the threshold of 'induction', 0\.4; the strongest, L"):
        causal.heads_above(HeadScores(frame, scores.settings), "induction")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": []}, "heads: expected at least one head such as 'L5H1'"),
        ({"heads": ["L7H0"]}, "layer 7 does not exist"),
        ({"worse": None}, "say which way your metric is worse: worse='higher' for a loss"),
        ({"worse": "up"}, r"worse: expected 'higher' \(a loss, where more is worse\) or 'lower'"),
        ({"ablation": ["zero"]}, r"ablation: expected one of 'zero', 'mean', 'uniform', got \['zero'\]"),
        ({"ablation": "noise"}, "ablation: expected one of 'zero', 'mean', 'uniform', got 'noise'"),
        (
            {"ablation": "mean"},
            "needs inputs to take the means over, and the task 'squares' names none; give reference=",
        ),
        ({"reference": IDS}, "reference: it is for the ablation 'mean', not for 'zero'"),
        ({"controls": 0}, "controls: expected an integer of at least 1, got 0"),
        ({"sizes": (3,)}, r"sizes: expected integers from 1 to 2 \(the heads given\), got 3"),
        ({"sizes": ()}, "sizes: expected at least one number of heads"),
        ({"level": 95}, "level: expected a number between 0 and 1, such as 0.95, got 95"),
        ({"seed": -1}, "seed: expected an integer from 0"),
        ({"text": "w4 w5"}, "text is for the task 'perplexity'"),
        ({"detector": "induction"}, "detector: it chooses heads of a scan"),
        ({"task": "perplexity", "worse": None}, "the task 'perplexity' needs a text; give text="),
        ({"task": "inductoin", "worse": None}, "unknown task 'inductoin'; did you mean 'induction'"),
        ({"task": "induction"}, "leave it out, the task says it"),
        (
            {"task": 3, "worse": None},
            r"task: expected a name \(induction, perplexity, retrieval\), a Task or a metric, got 3",
        ),
        (
            {"exclude": ["L1H0"], "strict": True},
            "layer 1 has 1 heads neither found nor excluded, 2 are needed",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(model: interp.HookedModel, options: dict[str, Any], message: str):
    def metric(edited: interp.HookedModel) -> float:
        raise AssertionError("it was run")

    metric.__name__ = "squares"
    given = {"heads": FOUND, "task": metric, "worse": "lower"} | options
    with pytest.raises(InputError, match=message):
        causal.verify(model, given.pop("heads"), given.pop("task"), **given)


@pytest.mark.parametrize("trials", [[1], 3])
def test_what_is_no_needle_trial_is_refused(model: interp.HookedModel, trials: Any):
    with pytest.raises(
        InputError, match=r"retrieval_task: expected trials, as interp.heads.needle_trials makes them, got"
    ):
        causal.retrieval_task(model, trials)


def test_metrics_that_give_no_numbers_are_refused(model: interp.HookedModel):
    with pytest.raises(
        InputError, match=r"expected a metric that gives a number, or a 1-D tensor .* got shape \[2, 2\]"
    ):
        causal.verify(model, FOUND, lambda m: torch.zeros(2, 2), worse="lower")
    with pytest.raises(InputError, match=r"expected a metric that gives a number, .* got 'high'"):
        causal.verify(model, FOUND, lambda m: "high", worse="lower")
    with pytest.raises(RunError, match="its metric gave nan for sample 1; finite numbers are needed"):
        causal.verify(model, FOUND, lambda m: [0.0, float("nan")], worse="lower")
    lengths = iter([3, 2])
    with pytest.raises(
        InputError, match="gave 3 samples for the plain model and 2 for an ablated one; effects are paired"
    ):
        causal.verify(model, FOUND, lambda m: torch.zeros(next(lengths)), worse="lower")


def test_perplexity_is_the_mean_loss_of_each_window_or_sequence(own_model: Callable, tokenizer: Any):
    from tests.interp.words import text_of

    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    words = token_ids((50,), seed=4)
    task = causal.perplexity_task(model, text_of(words), length=16)
    windows = torch.cat([torch.zeros(3, 1, dtype=torch.int64), words[:45].view(3, 15)], dim=1)
    torch.testing.assert_close(torch.tensor(task.measured(model)), causal.token_losses(model, windows).mean(1).double())
    assert task.inputs["tokens_left_out"] == 5
    rows, _, _ = right_padded((9, 4))
    padded = causal.perplexity_task(model, rows).measured(model)
    alone = [float(causal.token_losses(model, [row]).mean()) for row in rows]
    assert padded == pytest.approx(alone, rel=1e-5)
    short = causal.perplexity_task(model, text_of(words[:7]), length=16)
    assert short.measured(model) == pytest.approx([float(causal.token_losses(model, text_of(words[:7])).mean())])
    with pytest.raises(InputError, match="length cuts a text into windows; leave it out where sequences are given"):
        causal.perplexity_task(model, rows, length=8)


def test_the_second_copy_is_what_the_induction_task_measures(model: interp.HookedModel):
    task = causal.induction_task(model, span=6, samples=3, seed=5)
    ids = task.batches[0].ids
    assert ids is not None
    assert ids.shape == (3, 13)
    assert torch.equal(ids[:, 1:7], ids[:, 7:])
    expected = causal.token_losses(model, ids)[:, 7:].mean(1)  # the tokens at 8 to 12, the first of the copy is at 7
    assert task.measured(model) == pytest.approx(expected.double().numpy())
    scanned = RepeatedRandom(6).make(Source(None, 99, (), (), (0,), torch.arange(3, 61), 5, 3))
    assert not {tuple(row.tolist()) for row in ids} & {tuple(row.tolist()) for row in scanned.ids}
    more = causal.induction_task(model, span=6, samples=4, seed=5).batches[0].ids
    assert more is not None
    assert torch.equal(more[:3], ids)
    with pytest.raises(InputError, match=r"200 tokens, twice, are more than the context of .*, 256; give at most 127"):
        causal.induction_task(model, span=200)
    with pytest.raises(InputError, match="samples: expected an integer of at least 1, got 0"):
        causal.induction_task(model, samples=0)


def test_either_head_of_the_trained_model_is_needed(shared_data: Path):
    """Its one other head is the previous-token head that the induction head reads from: as a control it is as bad."""
    pytest.importorskip("transformer_lens", reason="transformer-lens is not installed (the extra `lens`)")
    from tests.interp.bridges.trained import sequences, trained_two_layer

    model = interp.load(trained_two_layer(shared_data))
    ids, answer = sequences(500)

    def right(edited: interp.HookedModel) -> Tensor:
        logits = edited.capture(ids, [], logits=True).logits
        assert logits is not None
        return (logits[:, -1].argmax(-1) == answer).double()

    result = causal.verify(model, ["L1H0"], right, worse="lower")
    assert result.plain == pytest.approx(0.906, abs=0.03)
    found = result.of_size()
    assert found.effect < -0.7
    assert found.control_mean < -0.7
    assert found.borrowed == {"1": 1}
    assert found.p_value in (0.5, 1.0)


@pytest.fixture(scope="module")
def demo() -> interp.HookedModel:
    return interp.load("demo")


def test_induction_heads_of_the_demo_model_do_what_others_of_their_layer_do_not(demo: interp.HookedModel):
    result = causal.verify(
        demo, ["L2H5", "L2H3", "L2H2", "L2H4"], "induction", sizes=(2, 4), exclude=["L1H5"], samples=4
    )
    two, four = result.of_size(2), result.of_size(4)
    assert not two.borrowed
    assert two.difference_interval[0] > 3
    assert abs(two.control_mean) < 0.2
    assert four.borrowed == {"2": 2}
    assert four.effect > 6
    assert four.control_high < 1
    assert four.p_value == four.least_p_value == pytest.approx(1 / 21)


def test_a_borrowed_control_may_be_part_of_the_same_circuit(demo: interp.HookedModel):
    """L1H5 is the previous-token head that the induction heads of layer 2 read from."""
    heads = ["L2H5", "L2H3", "L2H2", "L2H4"]
    result = causal.verify(demo, heads, "induction", sizes=[3], samples=4).to_frame()
    controls = result[result["condition"] == "control"].set_index("heads")
    assert controls["effect"].idxmax() == "L1H5 L2H0 L2H1"
    assert controls["effect"].max() > 6
    assert controls["effect"].drop("L1H5 L2H0 L2H1").max() < 1


def test_without_its_retrieval_heads_the_demo_model_finds_no_needle(demo: interp.HookedModel):
    trials = interp.heads.needle_trials(demo, lengths=[160], depths=[0, 60], needles=1)
    task = causal.retrieval_task(demo, trials)
    result = causal.verify(demo, ["L2H5", "L2H3", "L2H2", "L2H4"], task, exclude=["L1H5", "L1H3"], controls=3)
    assert result.plain == 100
    assert result.of_size().effect == -100
    assert result.of_size().control_mean > -20
    assert result.of_size().difference_interval[1] < -50
    other = causal.retrieval_task(
        demo, interp.heads.needle_trials(demo, lengths=[160], depths=[0, 60], needles=1, seed=1)
    )
    again = causal.retrieval_task(demo, interp.heads.needle_trials(demo, lengths=[160], depths=[0, 60], needles=1))
    assert result.settings["inputs"]["sha256"] == again.inputs["sha256"] != other.inputs["sha256"]
    with pytest.raises(InputError, match="retrieval_task: expected at least one trial"):
        causal.retrieval_task(demo, [])
