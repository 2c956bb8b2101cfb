"""Train the demo model: tokenizer, windows, optimisation, curve, checkpoints. Resumes to the same weights as an unbroken run."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interp.demo import files
from interp.demo.corpus import Book, Corpus, common_words, fingerprint, read_books
from interp.demo.curve import PROSE_LENGTH, Probe, Row, measure, read_curve, write_curve
from interp.demo.machine import machine
from interp.demo.needles import WORDS
from interp.demo.optimizer import MuonAdam
from interp.demo.settings import TrainSettings
from interp.demo.tokenizer import BOS_ID, PAD_ID, load_tokenizer, train_tokenizer
from interp.demo.windows import Window, WindowMaker
from interp.errors import InputError, RunError
from interp.progress import Bar

RECORD = "training.json"
CURVE = "training_curve.csv"
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """Where the trained model lies, the record of its training (also in training.json), and the curve's last row."""

    folder: Path
    record: dict[str, Any]
    last: Row


def train_demo(
    settings: TrainSettings, text: Path, out: Path, *, resume: bool = False, progress: bool = True
) -> TrainResult:
    """Train on the .txt files of folder `text` and write the model, its tokenizer, curve and record into folder `out`.

    Ctrl-C finishes the step, saves and raises KeyboardInterrupt; `resume=True` then goes on to the weights that an unbroken
    run would have reached (on the same machine and thread count, bit for bit). Raises InputError before any work for a missing
    or too small text, an unwritable or used `out`, and a resume with other settings or text.
    """
    _check_folder(settings, out, resume=resume)
    training, held_out = read_books(text, settings.held_out)
    record = {
        "settings": settings.to_mapping(),
        "text": {
            "training": [book.name for book in training],
            "held_out": [book.name for book in held_out],
            "sha256": fingerprint([*training, *held_out]),
        },
    }
    if resume:
        _check_same(json.loads((out / RECORD).read_text()), record, out)
        tokenizer = load_tokenizer(out)
    else:
        files.prepare_folder(out)
        tokenizer = train_tokenizer((book.text for book in training), settings.vocabulary, settings.context)
        if len(tokenizer) != settings.vocabulary:
            raise InputError(
                f"too little text: only {len(tokenizer)} of {settings.vocabulary} tokens could be learnt from it"
            )
    run = _Run(settings, out, tokenizer, training, held_out)
    record["text"] |= {"training_tokens": run.maker.corpus.tokens, "training_bytes": sum(run.maker.corpus.bytes)}
    if resume:
        run.restore()
    else:
        tokenizer.save_pretrained(out)
        files.write_json(out / RECORD, record)
        run.measure(float("nan"))
        run.save()
    run.train(progress=progress)
    done = {
        "tokens_seen": sum(settings.phase(step).tokens for step in range(settings.steps)),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "seconds": round(run.seconds, 1),
        "machine": machine(),
    }
    record |= done
    run.model.save_pretrained(out)
    files.write_json(out / RECORD, record)
    return TrainResult(out, record, run.rows[-1])


class _Run:
    """A run's state: model, optimizer, step, curve."""

    def __init__(
        self,
        settings: TrainSettings,
        out: Path,
        tokenizer: PreTrainedTokenizerFast,
        training: Sequence[Book],
        held_out: Sequence[Book],
    ) -> None:
        words = common_words(training)
        if len(words) < WORDS:
            raise InputError("too little text: it has no common words of 4 to 8 letters to make needles of")
        self.settings = settings
        self.out = out
        self.maker = WindowMaker(
            Corpus(training, tokenizer),
            tokenizer,
            words,
            random_weight=settings.random_weight,
            answer_weight=settings.answer_weight,
        )
        generator = np.random.default_rng(0)
        self.maker.corpus.piece(generator, max(phase.context for phase in settings.phases))
        unseen = Corpus(held_out, tokenizer)
        unseen.piece(generator, PROSE_LENGTH)
        self.probe = Probe.make(unseen, len(tokenizer))
        self.model = new_model(settings, len(tokenizer))
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = MuonAdam(self.parameters, weight_decay=settings.weight_decay)
        self.rows: list[Row] = []
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []

    def measure(self, train_loss: float) -> None:
        """Add a row to the curve."""
        context = self.settings.phase(max(self.step - 1, 0)).context
        self.rows.append(measure(self.model, self.probe, self.step, context, train_loss))

    def save(self) -> None:
        """Write the checkpoint and the curve."""
        tensors = {f"model.{name}": parameter for name, parameter in self.parameters.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state.items()}
        write_curve(self.rows, self.out / CURVE)
        state = {"step": self.step, "seconds": self.seconds, "losses": self.losses}
        files.write_checkpoint(self.out / CHECKPOINT, tensors, state)

    def restore(self) -> None:
        """Go back to the checkpoint, and cut what the curve recorded after it."""
        tensors, state = files.read_checkpoint(self.out / CHECKPOINT)
        files.copy_into(self.parameters, tensors, "model.")
        for name, tensor in self.optimizer.state.items():
            tensor.copy_(tensors[f"optimizer.{name}"])
        self.step, self.seconds, self.losses = state["step"], state["seconds"], state["losses"]
        self.rows = [row for row in read_curve(self.out / CURVE) if row["step"] <= self.step]

    def train(self, *, progress: bool) -> None:
        """Run the steps that are left."""
        settings = self.settings
        bar = Bar(what="train", total=settings.steps, initial=self.step, unit="step", show=progress, smoothing=0.05)
        with bar, _interrupt_flag() as interrupted:
            while self.step < settings.steps:
                began = time.perf_counter()
                self.losses.append(self._one_step())
                self.step += 1
                last = self.step == settings.steps
                if self.step % settings.measure_every == 0 or last:
                    self.measure(float(np.mean(self.losses)))
                    self.losses = []
                    row = self.rows[-1]
                    bar.set_postfix(
                        loss=f"{row['train_loss']:.3f}",
                        induction=f"{row['best_induction']:.2f}",
                        previous=f"{row['best_previous_token']:.2f}",
                    )
                self.seconds += time.perf_counter() - began
                if settings.keep_weights_every and self.step % settings.keep_weights_every == 0:
                    self.model.save_pretrained(self.out / "weights" / f"step_{self.step:06d}")
                stop = interrupted.is_set()
                if self.step % settings.save_every == 0 or last or stop:
                    self.save()
                bar.update()
                if stop and not last:
                    raise KeyboardInterrupt

    def _one_step(self) -> float:
        """Train on one batch; its weighted mean loss in nats per token."""
        settings, phase = self.settings, self.settings.phase(self.step)
        count = phase.tokens // phase.context
        windows = self.maker.batch(settings.seed, self.step, count, phase.context, phase.shares)
        loss = weighted_loss(self.model, windows)
        if not torch.isfinite(loss):
            raise RunError(f"the loss became {loss.item()} at step {self.step}; lower matrix_rate and other_rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        factor = settings.rate(self.step)
        self.optimizer.step(self.step, factor * settings.matrix_rate, factor * settings.other_rate)
        return loss.item()


def weighted_loss(model: LlamaForCausalLM, windows: Sequence[Window]) -> torch.Tensor:
    """sum_i w_i CE_i / sum_i w_i over the tokens of all windows, in nats."""
    tokens = torch.from_numpy(np.stack([window.tokens for window in windows]))
    weights = torch.from_numpy(np.stack([window.weights for window in windows]))[:, 1:]
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def new_model(settings: TrainSettings, vocabulary: int) -> LlamaForCausalLM:
    """An untrained Llama of the settings' shape; weights depend on the seed alone."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        intermediate_size=settings.mlp_width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        head_dim=settings.head_width,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=None,
        pad_token_id=PAD_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model.train()


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that a step is never cut in two; the second one raises as usual."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(_number: int, _frame: FrameType | None) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)


def _check_folder(settings: TrainSettings, out: Path, *, resume: bool) -> None:
    if resume and not (out / RECORD).is_file():
        raise InputError(f"nothing to resume: {out} holds no {RECORD}")
    if not resume and out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} already holds files; give an empty folder, or resume the run that it holds")


def _check_same(stored: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Raise InputError, naming the differences, when a run was started with other settings or another text."""
    before = json.loads(json.dumps(stored["settings"]))
    now = json.loads(json.dumps(wanted["settings"]))
    different = [
        f"{f.name} was {before.get(f.name)}, now {now[f.name]}"
        for f in dataclasses.fields(TrainSettings)
        if before.get(f.name) != now[f.name]
    ]
    if different:
        raise InputError(f"cannot resume {out} with other settings: {'; '.join(different)}")
    if stored["text"]["sha256"] != wanted["text"]["sha256"]:
        raise InputError(f"cannot resume {out}: the text is not the one that the run was started with")
