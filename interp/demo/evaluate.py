"""Measure a demo model: prose, heads, copying of random spans, needles by depth. Every figure of the model card comes from here.

Each part draws its inputs from a seed of its own, so that one part alone gives the same figures as all together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from interp.demo.corpus import Book, Corpus, common_words, read_books
from interp.demo.figures import Copy, Evaluation, Head, Prose, Recall
from interp.demo.scores import head_scores, repeated_tokens, token_losses
from interp.demo.tokenizer import BOS_ID, SPECIAL_TOKENS, load_tokenizer
from interp.demo.windows import WindowMaker
from interp.errors import InputError
from interp.progress import Bar

PARTS = ("prose", "heads", "copies", "needles", "sample")
SPAN = 50
SINK_LENGTH = 64
SINK_THRESHOLD = 0.3
DEPTHS = 10
PROMPT = "It was a dark and stormy night, and"


def evaluate_demo(
    folder: Path,
    text: Path,
    *,
    parts: Sequence[str] = PARTS,
    prose_windows: int = 100,
    trials: int = 40,
    progress: bool = True,
) -> Evaluation:
    """Evaluate the model in `folder` (written by `train_demo`) with the books of folder `text`.

    `prose_windows`: at most so many windows of full context per held-out book, evenly spread; `trials`: needles per depth.
    Raises InputError for an unknown part, a folder without a training record, or a text without the run's held-out books.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise InputError(f"unknown parts {unknown}; known: {list(PARTS)}")
    record = folder / "training.json"
    if not record.is_file():
        raise InputError(f"{folder} holds no training.json; give a folder that train-demo wrote")
    names = json.loads(record.read_text())["text"]["held_out"]
    training, held_out = read_books(text, names)
    tokenizer = load_tokenizer(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    bench = _Bench(model, tokenizer, training, held_out, progress)
    figures: dict[str, Callable[[], Any]] = {
        "prose": lambda: bench.prose(prose_windows),
        "heads": bench.heads,
        "copies": bench.copies,
        "needles": lambda: [bench.needles(distractors, trials) for distractors in (0, 3)],
        "sample": bench.sample,
    }
    results = {part: figures[part]() if part in parts else None for part in PARTS}
    return Evaluation(
        prose=results["prose"] or [],
        heads=results["heads"] or [],
        chance=_chance() if "heads" in parts else {},
        copies=results["copies"] or [],
        needles=results["needles"] or [],
        sample=results["sample"] or "",
    )


def _chance() -> dict[str, float]:
    """Scores of uniform attention: the mean of 1 / (i + 1) over the queries that each score counts."""

    def mean(start: int, stop: int) -> float:
        return float(np.mean(1 / np.arange(start + 1, stop + 1)))

    return {
        "previous_token": mean(1, 128),
        "induction": mean(SPAN + 1, 2 * SPAN + 1),
        "first_token": mean(0, SINK_LENGTH),
    }


class _Bench:
    """A model with the material to measure it on."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        training: Sequence[Book],
        held_out: Sequence[Book],
        progress: bool,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.corpus = Corpus(held_out, tokenizer)
        self.context = int(model.config.max_position_embeddings)
        self.vocabulary = int(model.config.vocab_size)
        words = common_words(training)
        self.maker = WindowMaker(self.corpus, tokenizer, words, random_weight=0.0, answer_weight=1.0)
        self.progress = progress

    def prose(self, windows: int) -> list[Prose]:
        """Figures per held-out book and, last, of all together."""
        # A byte-level token's written form has one character per byte.
        sizes = np.array([len(piece) for piece in self.tokenizer.convert_ids_to_tokens(list(range(self.vocabulary)))])
        rows, totals = [], np.zeros(3)
        for name, document in zip(self.corpus.names, self.corpus.documents, strict=True):
            length = self.context - 1
            count = max(1, document.size // length)
            chosen = np.unique(np.linspace(0, count - 1, min(windows, count)).astype(int))
            sums = np.zeros(3)
            for index in Bar(chosen, what=f"prose {name}", unit="window", show=self.progress):
                piece = document[index * length : (index + 1) * length].astype(np.int64)
                tokens = torch.from_numpy(np.append([BOS_ID], piece))[None]
                losses = token_losses(self.model, tokens)
                sums += (losses.sum().item(), piece.size, sizes[piece].sum())
            rows.append(_prose(name, sums))
            totals += sums
        return [*rows, _prose("all", totals)]

    def heads(self, seeds: int = 5, samples: int = 8) -> list[Head]:
        """Scores of every head."""
        generator = np.random.default_rng(30_000)
        pieces = [np.append([BOS_ID], self.corpus.piece(generator, 127)) for _ in range(64)]
        text = torch.from_numpy(np.stack(pieces))
        previous = head_scores(self.model, text, offset=1, start=1).mean(0)
        first = head_scores(self.model, text[:, :SINK_LENGTH], offset=None, start=0)
        runs = torch.stack(
            [
                head_scores(
                    self.model, self._repeated(31_000 + seed, samples, SPAN), offset=SPAN - 1, start=SPAN + 1
                ).mean(0)
                for seed in range(seeds)
            ]
        )
        stderr = runs.std(0) / math.sqrt(seeds)
        share = (first > SINK_THRESHOLD).float().mean(0)
        layers, heads = previous.shape
        return [
            Head(
                layer,
                head,
                previous_token=previous[layer, head].item(),
                induction=runs[:, layer, head].mean().item(),
                induction_stderr=stderr[layer, head].item(),
                first_token=first[:, layer, head].mean().item(),
                first_token_share=share[layer, head].item(),
            )
            for layer in range(layers)
            for head in range(heads)
        ]

    def copies(self, samples: int = 16) -> list[Copy]:
        """Losses on both copies, for spans of 25 tokens to nearly half of the context."""
        rows = []
        for span in sorted({25, 50, 200, self.context // 2 - 1}):
            if 2 * span + 1 > self.context:
                continue
            tokens = self._repeated(32_000 + span, samples, span)
            parts = []
            with torch.no_grad():
                for row in tokens.split(4):
                    logits = self.model(input_ids=row, use_cache=False).logits[:, :-1]
                    losses = torch.nn.functional.cross_entropy(logits.mT, row[:, 1:], reduction="none")
                    parts.append(torch.stack([losses, (logits.argmax(-1) == row[:, 1:]).float()]))
            losses, right = torch.cat(parts, 1)
            second = slice(span + 1, None)
            rows.append(
                Copy(
                    span,
                    losses[:, :span].mean().item(),
                    losses[:, second].mean().item(),
                    right[:, second].mean().item(),
                    math.log(self.vocabulary - len(SPECIAL_TOKENS)),
                )
            )
        return rows

    def needles(self, distractors: int, trials: int) -> Recall:
        """Recall by depth at full context. Half of the needles are numbers, half words.

        One forward run per trial: greedy decoding gives the whole value exactly when the most likely token is the right one at
        each of its places given the value's earlier tokens.
        """
        generator = np.random.default_rng([33_000, distractors])
        depths = [depth / (DEPTHS - 1) for depth in range(DEPTHS)]
        right = np.zeros((DEPTHS, trials))
        cells = [(depth, trial) for depth in range(DEPTHS) for trial in range(trials)]
        for depth, trial in Bar(cells, what=f"needles, {distractors} distractors", unit="trial", show=self.progress):
            row, size = self.maker.haystack(
                generator, self.context, depth=depths[depth], number=trial % 2 == 0, distractors=distractors
            )
            tokens = torch.from_numpy(row)[None]
            with torch.no_grad():
                logits = self.model(input_ids=tokens, use_cache=False, logits_to_keep=size + 1).logits[0, :-1]
            right[depth, trial] = bool((logits.argmax(-1) == tokens[0, -size:]).all())
        return Recall(
            distractors,
            trials,
            depths,
            recall=right.mean(1).tolist(),
            recall_numbers=float(right[:, 0::2].mean()),
            recall_words=float(right[:, 1::2].mean()),
        )

    def sample(self, new_tokens: int = 120, temperature: float = 0.7) -> str:
        """A continuation of a fixed prompt, drawn at a fixed seed, so that one can judge the prose."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.tensor([self.tokenizer(PROMPT).input_ids])
        with torch.no_grad():
            for _ in range(new_tokens):
                logits = self.model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[:, -1]
                drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
                tokens = torch.cat([tokens, drawn], 1)
        return str(self.tokenizer.decode(tokens[0, 1:]))

    def _repeated(self, seed: int, count: int, span: int) -> torch.Tensor:
        return repeated_tokens(seed, count, span, self.vocabulary)


def _prose(name: str, sums: np.ndarray) -> Prose:
    """Figures from (sum of nats, tokens, bytes)."""
    nats, tokens, size = (float(value) for value in sums)
    return Prose(name, int(tokens), nats / tokens, math.exp(nats / tokens), nats / math.log(2) / size)
