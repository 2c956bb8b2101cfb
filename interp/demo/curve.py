"""The training curve: losses and head scores over steps, one row per measurement, kept as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from interp.demo.corpus import Corpus
from interp.demo.files import write_atomically
from interp.demo.scores import head_scores, repeated_tokens, token_losses
from interp.demo.tokenizer import BOS_ID

SPAN = 50
PROSE_LENGTH = 128
ROWS = 4
SEED = 20_000
"""Seed of the measuring inputs: the same inputs at every step, none of them a training window."""


@dataclass(frozen=True)
class Probe:
    """The fixed inputs of all measurements of a run: `repeated` int64 [4, 101], `prose` int64 [4, 128], both with BOS."""

    repeated: Tensor
    prose: Tensor

    @classmethod
    def make(cls, corpus: Corpus, vocabulary: int) -> Probe:
        """Inputs from the held-out `corpus`."""
        generator = np.random.default_rng(SEED)
        pieces = [np.append([BOS_ID], corpus.piece(generator, PROSE_LENGTH - 1)) for _ in range(ROWS)]
        return cls(repeated_tokens(SEED, ROWS, SPAN, vocabulary), torch.from_numpy(np.stack(pieces)))


Row = dict[str, float]


def measure(model: LlamaForCausalLM, probe: Probe, step: int, context: int, train_loss: float) -> Row:
    """One row. Losses in nats per token; the first token of the second copy is left out of the copies' losses."""
    losses = token_losses(model, probe.repeated)
    induction = head_scores(model, probe.repeated, offset=SPAN - 1, start=SPAN + 1).mean(0)
    previous = head_scores(model, probe.prose, offset=1, start=1).mean(0)
    first = head_scores(model, probe.prose[:, :64], offset=None, start=0).mean(0)
    row: Row = {
        "step": step,
        "context": context,
        "train_loss": train_loss,
        "held_out_loss": float(token_losses(model, probe.prose).mean()),
        "first_copy_loss": float(losses[:, :SPAN].mean()),
        "second_copy_loss": float(losses[:, SPAN + 1 :].mean()),
        "best_induction": float(induction.max()),
        "best_previous_token": float(previous.max()),
        "best_first_token_sink": float(first.max()),
    }
    for name, scores in (("induction", induction), ("previous_token", previous)):
        for layer, heads in enumerate(scores.tolist()):
            for head, score in enumerate(heads):
                row[f"{name}_L{layer}H{head}"] = score
    return row


def write_curve(rows: list[Row], path: Path) -> None:
    """Write the rows as CSV with four decimals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(int(v) if k in ("step", "context") else f"{v:.4f}" for k, v in row.items())
    write_atomically(path, text.getvalue().encode())


def read_curve(path: Path) -> list[Row]:
    """The rows of a file that `write_curve` wrote."""
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
