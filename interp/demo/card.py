"""The model card, written from the training record and the evaluation; nothing in it is typed by hand."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from interp.demo.curve import Row, read_curve
from interp.demo.evaluate import SINK_THRESHOLD
from interp.demo.figures import Evaluation, Head
from interp.demo.files import write_atomically, write_json
from interp.demo.needles import DIGITS, WORDS
from interp.demo.settings import TrainSettings
from interp.demo.windows import MOST_NEEDLES, SHORTEST_SPAN

EVALUATION = "evaluation.json"
CARD = "README.md"
BEST = 5
"""So many heads are listed per score."""


def write_card(folder: Path, evaluation: Evaluation) -> Path:
    """Write evaluation.json and README.md into a folder that `train_demo` wrote; the card's path comes back."""
    write_json(folder / EVALUATION, evaluation.to_mapping())
    record = json.loads((folder / "training.json").read_text())
    card = render_card(record, evaluation, read_curve(folder / "training_curve.csv"))
    write_atomically(folder / CARD, card.encode())
    return folder / CARD


def evaluation_tables(evaluation: Evaluation) -> str:
    """The figures as Markdown tables that also read well in a terminal; parts that were not evaluated are left out."""
    parts = (_prose, _heads, _copies, _needles, _sample)
    return "\n\n".join(text for part in parts if (text := part(evaluation)))


def render_card(record: dict[str, Any], evaluation: Evaluation, curve: Sequence[Row]) -> str:
    """The whole card as Markdown."""
    return "\n\n".join([_head(record), _recipe(record), evaluation_tables(evaluation), _curve(curve), _limits()]) + "\n"


def _head(record: dict[str, Any]) -> str:
    settings = TrainSettings.from_mapping(record["settings"])
    text = record["text"]
    return f"""---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The demo model of interp

A small language model in Llama architecture, trained from scratch by `interp train-demo` so that attention heads can be
studied in seconds on a laptop. It is meant to have previous-token heads, induction heads, first-token sinks and heads that
retrieve needles; how far it has them is measured below. It is no good for anything else.

| | |
|---|---|
| parameters | {record["parameters"]:,} (float32; embedding tied to the unembedding) |
| shape | {settings.layers} layers, width {settings.width}, MLP {settings.mlp_width}, {settings.heads} query heads on \
{settings.kv_heads} KV heads of width {settings.head_width} |
| context | {settings.context:,} tokens, rotary positions |
| tokenizer | own byte-level BPE of {settings.vocabulary:,} tokens; digits one by one; adds BOS by itself; \
text never becomes a special token |
| training | {record["tokens_seen"]:,} tokens in {settings.steps:,} steps, \
{record["seconds"]:,.0f} seconds on {record["machine"]} |
| licence | weights and tokenizer: Apache-2.0; the texts are in the public domain in the US |

Load it with `interp.load("demo")`, or with `AutoModelForCausalLM.from_pretrained` on this folder.

## Data

{len(text["training"])} novels in English in the public domain (editions of Project Gutenberg, as kept by the GITenberg
organisation; front and back matter removed), {text["training_bytes"]:,} bytes, {text["training_tokens"]:,} tokens:
{_titles(text["training"])}

Held out, never trained on: {_titles(text["held_out"])}
SHA-256 of all names and texts: `{text["sha256"]}`."""


def _recipe(record: dict[str, Any]) -> str:
    settings = TrainSettings.from_mapping(record["settings"])
    rows, begin = [], 0
    for phase in settings.phases:
        prose = 1 - phase.repeat - phase.needle
        end = math.ceil(phase.until * settings.steps)
        rows.append(
            (
                f"{begin:,} to {end:,}",
                phase.context,
                phase.tokens,
                f"{prose:.0%}",
                f"{phase.repeat:.0%}",
                f"{phase.needle:.0%}",
            )
        )
        begin = end
    table = _table(("steps", "window", "tokens a step", "prose", "repeated random spans", "needles"), rows)
    return f"""## Recipe

Every window starts with BOS. Shares of windows:

{table}

- Repeated random spans: tokens drawn uniformly from the vocabulary without special tokens, length log-uniform from
  {SHORTEST_SPAN} tokens to half of what is left of the window, then (in half of the cases after up to as many tokens of
  prose) the same span again; so on until the window is full. Loss weight of the first copy: {settings.random_weight}.
- Needles: up to {MOST_NEEDLES} sentences such as "The secret number of Clara is 48213." at random depths between sentences of
  prose, the value random ({DIGITS} digits, or {WORDS} words); each is asked again, as the same words up to the value, at a
  random later place. Loss weight of the value: {settings.random_weight} where it is stated, {settings.answer_weight} where
  it is asked for.
- Muon on the matrices (rate {settings.matrix_rate}, weight decay {settings.weight_decay}), Adam on the embedding and the
  norms (rate {settings.other_rate}); warmup over {settings.warmup * settings.steps:.0f} steps, linear decay to 0 over the last
  {settings.decay:.0%} of the steps; gradient norm clipped at {settings.clip}; seed {settings.seed}.

To train it again: `interp train-demo --text FOLDER --out DIR --seed {settings.seed}`, FOLDER holding the books above. All
settings are in `training.json`. Figures below: `interp eval-demo DIR --text FOLDER`; each
has the command that gives it alone.{_notes(record)}"""


def _notes(record: dict[str, Any]) -> str:
    """What a person wrote into the record about the run, if anything."""
    return "".join(f"\n\n{note}" for note in record.get("notes", []))


def _titles(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(name.replace("-", " ") for name in names) + ".", 120)


def _prose(evaluation: Evaluation) -> str:
    if not evaluation.prose:
        return ""
    rows = [
        (row.book, f"{row.tokens:,}", f"{row.nats_per_token:.3f}", f"{row.perplexity:.1f}", f"{row.bits_per_byte:.3f}")
        for row in evaluation.prose
    ]
    return _section(
        "Prose, held-out books",
        "prose",
        _table(("book", "tokens", "nats per token", "perplexity per token", "bits per byte"), rows),
    )


def _heads(evaluation: Evaluation) -> str:
    if not evaluation.heads:
        return ""

    def best(score: Callable[[Head], float]) -> list[Head]:
        return sorted(evaluation.heads, key=score, reverse=True)[:BEST]

    rows = [
        *(("previous token", _name(h), f"{h.previous_token:.3f}", "") for h in best(lambda h: h.previous_token)),
        *(
            ("induction", _name(h), f"{h.induction:.3f}", f"± {h.induction_stderr:.3f}")
            for h in best(lambda h: h.induction)
        ),
        *(
            (
                "first-token sink",
                _name(h),
                f"{h.first_token:.3f}",
                f"{h.first_token_share:.0%} of samples above {SINK_THRESHOLD}",
            )
            for h in best(lambda h: h.first_token)
        ),
    ]
    sinks = sum(head.first_token > SINK_THRESHOLD for head in evaluation.heads)
    chance = ", ".join(f"{name.replace('_', ' ')} {score:.3f}" for name, score in evaluation.chance.items())
    note = (
        "Previous token: mean of A[i,i-1] over held-out prose, T = 128. Induction: BOS, then 50 random tokens twice,\n"
        "mean of A[i,i-49] over the second half, mean and standard error over 5 seeds. First-token sink: mean over 64\n"
        f"samples of alpha_0 at T = 64. Chance (uniform attention): {chance}.\n"
        f"Heads whose mean alpha_0 exceeds {SINK_THRESHOLD}: {sinks} of {len(evaluation.heads)}."
    )
    return _section("Heads", "heads", _table(("score", "head", "value", ""), rows) + "\n\n" + note)


def _copies(evaluation: Evaluation) -> str:
    if not evaluation.copies:
        return ""
    rows = [
        (row.span, f"{row.first_copy:.3f}", f"{row.second_copy:.3f}", f"{row.second_copy_accuracy:.1%}")
        for row in evaluation.copies
    ]
    header = (
        "span, tokens",
        "first copy, nats per token",
        "second copy, nats per token",
        "second copy, most likely token right",
    )
    note = (
        f"A uniform guess costs {evaluation.copies[0].uniform:.3f} nats. The first copy costs more than that:\n"
        "its weight in training is low, so that the model does not learn to expect noise where prose could stand."
    )
    return _section("Repeated random spans", "copies", _table(header, rows) + "\n\n" + note)


def _needles(evaluation: Evaluation) -> str:
    if not evaluation.needles:
        return ""
    rows = []
    for row in evaluation.needles:
        recall = " ".join(f"{value:.0%}" for value in row.recall)
        rows.append(
            (row.distractors, recall, f"{row.recall_numbers:.0%}", f"{row.recall_words:.0%}", row.trials_per_depth)
        )
    header = ("other needles", "recall at depth 0, 1/9, ... 1", "numbers", "words", "trials a depth")
    note = (
        "The question ends the full context; a trial counts when greedy decoding gives the whole value (exact match)."
    )
    return _section("Needle recall by depth", "needles", _table(header, rows) + "\n\n" + note)


def _sample(evaluation: Evaluation) -> str:
    if not evaluation.sample:
        return ""
    quoted = "\n".join(f"> {line}".rstrip() for line in evaluation.sample.splitlines())
    return _section("A sample", "sample", f"Temperature 0.7, fixed seed, not chosen:\n\n{quoted}")


def _section(title: str, part: str, body: str) -> str:
    return f"## {title}\n\n`interp eval-demo DIR --text FOLDER --parts {part}`\n\n{body}"


def _curve(curve: Sequence[Row]) -> str:
    def first_above(column: str) -> str:
        return next((f"{row['step']:.0f}" for row in curve if row[column] > 0.5), "never")

    return f"""## Training curve

`training_curve.csv`: {len(curve)} rows, written by `interp train-demo` while it trains: step, losses (training, held-out
prose, first and second copy of 50 random tokens) and scores of every head. The best previous-token score passes 0.5 at step
{first_above("best_previous_token")}, the best induction score at step {first_above("best_induction")}."""


def _limits() -> str:
    return """## Limits

Small, and trained briefly on old novels: it knows no facts, follows no instructions, and repeats the prejudices of its
books. Repeated random spans and needles were trained for, so heads that serve them are stronger here than in models trained
on text alone: a figure from this model shows that a method works, not how common a behaviour is."""


def _name(head: Head) -> str:
    return f"L{head.layer}H{head.head}"


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
