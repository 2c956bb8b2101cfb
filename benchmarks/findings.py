"""The findings on the demo model that the pages of docs/methods tell and their own short examples do not print.

    python benchmarks/findings.py                  # all of them, several minutes
    python benchmarks/findings.py importance sinks

Every number comes from the demo model and the texts that come with it, with the seeds that stand here.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import interp
from interp import causal
from interp.models.hooked import HookedModel

PROSE = (Path(interp.__file__).parent / "demo" / "prose.txt").read_text(encoding="utf-8")
# The demo model has only seen lines of about 70 characters.
WRAPPED = "\n\n".join(textwrap.fill(paragraph, 70) for paragraph in PROSE.split("\n\n"))
COMPARED = [
    "size",
    "effect",
    "control_mean",
    "control_low",
    "control_high",
    "difference",
    "difference_interval_low",
    "difference_interval_high",
    "controls",
    "borrowed",
    "p_value",
    "least_p_value",
]


def verification(model: HookedModel) -> None:
    scores = interp.scan(model, ["induction", "first_token_sink"], text=PROSE, window=512, progress=False)
    sizes = (1, 2, 3, 4)
    for ablation in ("zero", "mean", "uniform"):
        found = causal.verify(model, scores, "induction", detector="induction", sizes=sizes, ablation=ablation)
        told(
            f"induction heads, {ablation} ablation; loss before: {found.values[0].mean():.3f}",
            found.compared()[COMPARED],
        )
    alone = causal.verify(model, scores, "induction", detector="induction", exclude=["L1H5"])
    told("induction heads, no control set with L1H5", alone.compared()[COMPARED])

    prose = causal.perplexity_task(model, WRAPPED, length=128)
    for ablation in ("zero", "mean"):
        found = causal.verify(model, scores, prose, detector="first_token_sink", ablation=ablation)
        told(
            f"sink heads on wrapped prose, {ablation} ablation; loss before: {found.values[0].mean():.3f}",
            found.compared()[COMPARED],
        )
        worse = found.to_frame().query("condition == 'control'")["effect"] >= found.compared()["effect"].iloc[0]
        print(f"control sets at least as bad: {int(worse.sum())} of {len(worse)}")
    unwrapped = causal.verify(
        model, scores, causal.perplexity_task(model, PROSE, length=128), detector="first_token_sink"
    )
    told(
        f"the same on prose without line ends; loss before: {unwrapped.values[0].mean():.3f}",
        unwrapped.compared()[COMPARED],
    )

    options = {"lengths": [256, 512], "depths": [0, 50, 100], "needles": 2}
    heads = interp.heads.retrieval(model, **options, progress=False).found()
    needles = causal.retrieval_task(model, interp.heads.needle_trials(model, **options, seed=1))
    for exclude in ((), ("L1H5",)):
        found = causal.verify(model, heads, needles, exclude=exclude)
        told(
            f"retrieval heads {heads}, no control set with {list(exclude)}; recall before: {found.values[0].mean():.1f}",
            found.compared()[COMPARED],
        )
        controls = found.to_frame().query("condition == 'control'")
        print(
            controls["value"].round(1).sort_values().tolist(), *controls.loc[controls["value"] < 50, "heads"], sep="\n"
        )


def importance(model: HookedModel) -> None:
    middle = len(WRAPPED) // 2
    windows = model.windows(WRAPPED[:middle], 128)
    held_out = causal.perplexity_task(model, WRAPPED[middle:], length=128)
    first = causal.importance(model, windows)
    told("importance", first.to_frame().sort_values("rank")[["name", "importance", "stderr"]])
    curve = causal.pruning_curve(model, first, held_out, steps=8, draws=3)
    told("least important first", curve.compared())
    backwards = causal.pruning_curve(model, first.ranking()[::-1], held_out, steps=8, draws=1)
    told("most important first", backwards.compared())
    plain = causal.verify(model, ["L0H0"], held_out, controls=1).values[0].mean()
    names = first.table["name"].tolist()
    alone = pd.Series([_ablated(model, held_out, [name]) - plain for name in names], index=names)
    for form in ("token", "sequence"):
        for normalize in (False, True):
            variant = causal.importance(model, windows, form=form, normalize=normalize)
            by_name = variant.table.set_index("name")["importance"]
            correlation = by_name.rank().corr(alone[by_name.index].rank())
            gone = _ablated(model, held_out, variant.ranking()[:12])
            print(
                f"{form}, normalize={normalize}: rank correlation with ablation {correlation:.2f}, loss with 12 gone {gone:.2f}"
            )


def _ablated(model: HookedModel, task: causal.Task, heads: list[str]) -> float:
    with model.edited(interp.edits.ablate(*heads)):
        return float(torch.as_tensor(task.metric(model), dtype=torch.float64).mean())


def retrieval(model: HookedModel) -> None:
    for counting in ("code", "set"):
        found = interp.heads.retrieval(model, needles=10, counting=counting, progress=False)
        told(
            f"counting by {counting}, {int(found.counted.sum())} trials count",
            found.to_frame().sort_values("score", ascending=False).head(5),
        )
    told("recall, %", found.recall_grid())
    asked = interp.heads.retrieval(model, needles=10, prompt="question", progress=False)
    print(f"asked in other words: {int(asked.counted.sum())} trials count")
    trials = interp.heads.needle_trials(model, lengths=[200, 400, 600], depths=[0, 50, 100], needles=2)
    four = ["L2H2", "L2H3", "L2H4", "L2H5"]
    sets = [
        [],
        *([head] for head in four),
        four,
        ["L2H0", "L2H1", "L3H0", "L3H1"],
        ["L3H2", "L3H3", "L3H4", "L3H5"],
        ["L1H5"],
    ]
    for heads in sets:
        with model.edited(interp.edits.ablate(*heads) if heads else interp.edits.scale("L0H0", factor=1.0)):
            print(f"recall with {heads or 'nothing'} ablated: {interp.heads.needle_recall(model, trials).mean():.0f} %")


def sinks(model: HookedModel) -> None:
    found = interp.heads.sinks(model, PROSE)
    hidden = found.hidden
    print(found.summary())
    print("hidden sinks by token:", hidden["token"].value_counts().head(3).to_dict())
    print("hidden sinks by layer:", hidden["layer"].value_counts().to_dict())


def faithfulness(model: HookedModel) -> None:
    pieces = re.split(r"(?<=[.!?]) ", PROSE.replace("\n", " "))
    sentences = [piece.strip() for piece in pieces if 40 <= len(piece) <= 160]
    print(f"{len(sentences)} sentences")
    for ablation in ("zero", "cut", "mean"):
        for measure in ("probability", "logit"):
            found = interp.flow.faithfulness(model, sentences, ablation=ablation, measure=measure, progress=False)
            table = found.table()
            told(f"{ablation}, {measure}", table[table["reference"] == "ablation"][["method", "mean", "stderr"]])
            if (ablation, measure) == ("zero", "probability"):
                told(
                    "with the gradient norm", table[table["reference"] == "gradient_norm"][["method", "mean", "stderr"]]
                )


def told(title: str, table: pd.DataFrame | np.ndarray) -> None:
    print(f"\n{title}")
    print(table.to_string(index=False) if isinstance(table, pd.DataFrame) else table)


FINDINGS: dict[str, Callable[[HookedModel], None]] = {
    each.__name__: each for each in (verification, importance, retrieval, sinks, faithfulness)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("findings", nargs="*", metavar="FINDING", help=f"of {', '.join(FINDINGS)}; all without")
    chosen = parser.parse_args().findings or list(FINDINGS)
    unknown = sorted(set(chosen) - set(FINDINGS))
    if unknown:
        parser.error(f"unknown: {unknown}; known: {list(FINDINGS)}")
    pd.set_option("display.width", 200, "display.float_format", "{:.4f}".format)
    model = interp.load("demo")
    for name in chosen:
        print(f"\n== {name}")
        FINDINGS[name](model)


if __name__ == "__main__":
    main()
