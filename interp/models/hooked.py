"""A real model whose attention can be watched: one class between the user and transformers."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.arguments import items, shown, switch
from interp.captures.capture import Capture
from interp.errors import InputError, RunError
from interp.inputs.batch import Batch, Padding
from interp.inputs.convert import Inputs, checked, to_batch
from interp.inputs.decoder_inputs import completed
from interp.inputs.reads import Reads
from interp.inputs.tokens import checked_ids, token_row
from interp.models.attention import Recording
from interp.models.call import AttentionCall
from interp.models.editing import edits_on
from interp.models.host import Host
from interp.models.layers import LayerKey
from interp.models.shape import ModelShape
from interp.naming import named_layers
from interp.versions import versions
from interp_kernels import Probe
from interp_kernels.integers import whole

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from interp.captures.extras import Contributions, ValueNorms
    from interp.edits import Edit
    from interp.generation.result import Generation
    from interp.generation.steps import StepProbes
    from interp.inputs.windows import Windows
    from interp.models.heads import HeadSpec
    from interp.views.token_map import TokenMap
    from interp_kernels.api import Attended


@dataclass(frozen=True, eq=False, repr=False)
class HookedModel:
    """A model whose attention runs through ``interp_kernels.attend`` while it is captured.

    The model is not changed: outside of ``capture`` and ``maps`` it has its own attention. Build one with ``interp.load``.
    """

    host: Host
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    revision: str | None = None

    @property
    def model(self) -> Any:
        """The model itself, as transformers made it."""
        return self.host.model

    @property
    def shape(self) -> ModelShape:
        """Layers, heads, widths, context and vocabulary."""
        return self.host.shape

    @property
    def layers(self) -> tuple[LayerKey, ...]:
        """The layers that attend: ints, or "encoder.3" and the like; see ``interp.models.layers``."""
        return tuple(layer.key for served in self.host.layers.values() for layer in served)

    @property
    def device(self) -> torch.device:
        return self.host.device

    @property
    def dtype(self) -> torch.dtype:
        return self.host.dtype

    def __repr__(self) -> str:
        s = self.shape
        return (
            f"HookedModel({self.name}: {type(self.model).__name__}, {s.layers} layers x {s.heads} heads on {s.kv_heads} KV "
            f"heads, context {s.context}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    def __call__(self, inputs: Inputs | Batch) -> Any:
        """The model's own output on ``inputs``, through its own attention, as transformers returns it."""
        batch = self.checked(inputs, beyond_context=False)
        options = {"use_cache": False} if hasattr(self.host.config, "use_cache") else {}
        with Reads(self.host).named_in_refusals(batch.arguments, lambda: False):
            return self.host.inner(**batch.arguments, **options)

    def batch(
        self,
        inputs: Inputs,
        *,
        padding: Padding = "right",
        special: bool = True,
        add_generation_prompt: bool = False,
        decoder: Inputs | None = None,
        beyond_context: bool = False,
    ) -> Batch:
        """``inputs`` as one padded batch on the model's device, with its tokens as people read them; see docs/inputs.md.

        Args:
            inputs: a text, texts, a text file (``Path``), token ids, a chat or several (lists of {"role", "content"}), the
                arguments of the model's forward by name, or floats for a model of images or sound.
            padding: the side on which shorter sequences are filled up. Either way a sequence has the statistics that it has
                alone, and padding has none.
            special: put the tokenizer's special tokens around texts. Chats have those of their template.
            add_generation_prompt: end a chat with what opens the assistant's answer.
            decoder: of an encoder-decoder, what its decoder reads: a text or texts (shifted by the start token, as in
                training) or token ids as they are. Without, it reads the start token.
            beyond_context: allow inputs longer than the model's context, where its positions are relative.

        Raises:
            InputError: nothing or something unusable was given, or it is longer than the model's context.
        """
        batch = to_batch(
            inputs,
            self.tokenizer,
            Reads(self.host),
            padding=padding,
            special=special,
            add_generation_prompt=add_generation_prompt,
            decoder=decoder,
        )
        self.check_length(batch.tokens, beyond_context=beyond_context)
        return batch

    def windows(
        self,
        text: str | Path,
        length: int | None = None,
        stride: int | None = None,
        *,
        special: bool = True,
        beyond_context: bool = False,
    ) -> Windows:
        """A text or text file of any length, cut into windows that the model can run; see ``interp.inputs.windows``."""
        from interp.inputs.windows import windows

        return windows(self, text, length, stride, special=special, beyond_context=beyond_context)

    def check_length(self, tokens: int, *, beyond_context: bool) -> None:
        """Refuse inputs longer than the model was made for, unless asked for and possible."""
        allowed, s = switch("beyond_context", beyond_context), self.shape
        if s.context is None or tokens <= s.context:
            return
        longer = f"the input has {tokens:,} tokens, {self.name} is made for {s.context:,}"
        if not s.has_relative_positions:
            raise InputError(f"{longer}, and its learned positions end there; cut the input into windows")
        if not allowed:
            raise InputError(
                f"{longer}; cut the input into windows, or allow it with beyond_context=True (--beyond-context)"
            )

    def capture(
        self,
        inputs: Inputs | Batch,
        probes: Sequence[Probe | str] = ("entropy", "peak"),
        layers: Iterable[LayerKey] | None = None,
        *,
        heads: HeadSpec | Iterable[HeadSpec] | None = None,
        outputs: bool = False,
        contributions: Contributions = False,
        value_norms: ValueNorms = False,
        logits: bool = False,
        beyond_context: bool = False,
    ) -> Capture:
        """Run the model once and measure ``probes`` in the attention of ``layers`` (all by default).

        Memory: the model's own, plus O(T) for each statistic; no T x T map is built. docs/captures.md has the arithmetic. Padded
        queries never count: they are NaN without reduction, and left out of averages and column sums.

        Args:
            inputs: a text, texts, token ids, the arguments of the model's forward by name, or a ``Batch``.
            probes: probes of ``interp_kernels``; those without arguments also by name ("entropy", "peak", "distance",
                "received").
            layers: ints, or "encoder.3" and the like; see ``HookedModel.layers``.
            heads: query heads to measure, such as ["L5H1", (5, 2), "6.0"] or "encoder.L3H1"; they name their layers. Up to an
                eighth of a layer's heads are measured in a pass of their own, so that the others cost nothing; of more, all
                are measured and the chosen ones are kept.
            outputs: keep the heads' outputs z as ``output``, [B, H, Tq, Dv].
            contributions: keep what each head writes into the residual stream, z_h W_O^h, as ``contribution``
                [B, H, Tq, d_model]: H times the memory of the residual stream. "norm" keeps their lengths alone, as
                ``contribution_norm`` [B, H, Tq].
            value_norms: keep ||v_j|| as ``value_norm``, [B, Hkv, Tk]. "written" keeps ||v_j W_O^h|| too, as
                ``value_written_norm`` [B, H, Tk].
            logits: keep the logits too; else the vocabulary projection is not computed.
            beyond_context: allow inputs longer than the model's context, where its positions are relative.

        Raises:
            InputError: inputs, probes, layers or heads that do not fit; contributions of a model whose heads' outputs do not
                go straight into a linear projection.
            RunError: the activations hold NaN, or a layer did not pass through the hooked attention.
        """
        from interp.captures.capturing import capture
        from interp.captures.extras import Extras

        return capture(
            self,
            inputs,
            probes,
            layers,
            heads=heads,
            extras=Extras(outputs, contributions, value_norms),
            logits=logits,
            beyond_context=beyond_context,
        )

    def maps(
        self, inputs: Inputs | Batch, layers: Iterable[LayerKey] | None = None, *, beyond_context: bool = False
    ) -> dict[LayerKey, TokenMap]:
        """The lazy attention map of each layer, with its tokens: q, k, v and log-sum-exp are kept, O(T) memory a layer.

        Rows of padded queries are whatever the model computes there; ``plot`` and ``region`` leave them out.
        """
        from interp.captures.capturing import maps

        return maps(self, inputs, layers, beyond_context=beyond_context)

    def generate(
        self,
        inputs: Inputs | Batch,
        max_new_tokens: int,
        probes: Sequence[Probe | str] | StepProbes = ("entropy", "peak"),
        layers: Iterable[LayerKey] | None = None,
        *,
        prefill_probes: Sequence[Probe | str] | None = "same",
        do_sample: bool = False,
        seed: int = 0,
        stopping: Sequence[Any] = (),
        beyond_context: bool = False,
        progress: bool = False,
        **settings: Any,
    ) -> Generation:
        """Generate text and measure ``probes`` in each new token's row of attention over the whole past.

        The tokens are those of transformers' own ``generate`` with a dynamic cache, greedy or sampled. Memory: O(T) a step
        and layer, and the statistics that are kept; no T x T map is built.

        Args:
            inputs: as for ``capture``; several prompts are padded on the left, and padding never counts.
            max_new_tokens: at most so many, each sequence up to its end of sequence.
            probes: for every step alike, or a function of ``interp.Step`` that returns those of the step, whose tensors may
                follow the text: over keys they cover all positions, [Step.keys], also where a layer holds only the last
                ones. Indices that come back are positions, that is columns of ``Generation.ids``.
            layers: as for ``capture``.
            prefill_probes: for the prompt, all of its rows; "same": those of the steps, none where these are a function;
                None: the prompt is not measured.
            do_sample: draw the tokens instead of taking the likeliest.
            seed: of what is drawn; the random numbers of the caller are left as they were.
            stopping: transformers' StoppingCriteria; a sequence ends with the first that says so.
            beyond_context: allow a text longer than the model's context, where its positions are relative.
            progress: show a progress bar on stderr.
            settings: of transformers' GenerationConfig, such as ``temperature``, ``top_k``, ``top_p``,
                ``repetition_penalty``, ``min_new_tokens``, ``eos_token_id``, ``stop_strings``; the model's own are the default.

        Raises:
            InputError: inputs, probes, layers or settings that do not fit; a model that cannot generate; a text that would
                be longer than the context; beam search, assisted decoding, or another cache than a dynamic one.
            RunError: the activations hold NaN, or a layer did not pass through the hooked attention.
        """
        from interp.generation.generate import generate

        return generate(
            self,
            inputs,
            max_new_tokens,
            probes,
            layers,
            prefill_probes=prefill_probes,
            do_sample=do_sample,
            seed=seed,
            stopping=stopping,
            beyond_context=beyond_context,
            progress=progress,
            **settings,
        )

    def edited(self, edits: Edit | Iterable[Edit]) -> AbstractContextManager[HookedModel]:
        """While it lasts, every run of this model in this thread is edited: captures, maps, generation, plain calls.

            with model.edited([interp.edits.ablate("L2H5")]):
                capture = model.capture(text)

        Edits act in the order given; contexts may nest, the outer ones' edits first. Probes and maps see the edited map.
        However it ends, the model is as before. See ``interp.edits`` and docs/edits.md.

        Raises:
            InputError: on entering: no edit, a layer or head that does not exist, or what an edit brings does not fit.
        """
        from interp.edits.edited import edited

        return edited(self, edits)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Readable text of each token of a sequence; the id itself where there is no tokenizer. See ``interp.inputs.tokens``."""
        return token_row(checked_ids(ids), self.tokenizer).strings

    def facts(self) -> dict[str, Any]:
        """What a result must say of the model that it came from, and of the edits in force."""
        edits = [repr(edit) for edit in edits_on(self.host.layers)]
        return {
            "model": self.name,
            "revision": self.revision,
            **self.host.facts,
            **({"edits": edits} if edits else {}),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "versions": versions(),
        }

    def wanted_layers(self, layers: Iterable[LayerKey] | None) -> set[LayerKey]:
        """The layers of that name, all for None.

        Raises:
            InputError: one does not exist, or does not attend.
        """
        known = self.layers
        if layers is None:
            return set(known)
        listed = items(layers)
        if listed is None:
            raise InputError(f"layers: expected layers such as [0, 1] or ['encoder.0'], got {shown(layers)}")
        wanted: set[LayerKey] = set()
        for given in listed:
            # True is no layer, though it equals 1.
            layer = given if isinstance(given, str) else whole(given)
            if layer is None or layer not in known:
                raise InputError(f"layer {shown(given)} does not exist: {self.name} has layers {named_layers(known)}")
            wanted.add(layer)
        return wanted

    def run(
        self,
        batch: Batch,
        probes_of: Callable[[AttentionCall], Sequence[Probe]],
        record: Callable[[AttentionCall, Attended], None],
        *,
        logits: bool,
        differentiable: bool = False,
    ) -> Tensor:
        """One hooked forward run. Returns the logits, or the last hidden state; see ``Recording`` for the others.

        differentiable: record the graph of the run, so that a gradient can be taken of what it returns

        Raises:
            InputError: the model is in training mode, or has no logits to give.
            RunError: NaN or infinity; or a stack of layers that ran did not run whole.
        """
        self.check_ready()
        recording = Recording(self.host.layers, probes_of, record)
        refusals = Reads(self.host).named_in_refusals(batch.arguments, lambda: recording.has_begun)
        with refusals, torch.set_grad_enabled(differentiable), self.host.hooked(recording):
            last = self.host.forward(batch.arguments, logits=logits)
        self.check_whole(recording.seen)
        if not bool(torch.isfinite(last).all()):
            raise RunError(
                f"NaN or infinity in the {'logits' if logits else 'last hidden state'}, after the attention of layer "
                f"{recording.seen[-1]} was still finite; check the weights of that layer and after it, and whether "
                f"{self.dtype} is wide enough"
            )
        return last

    def check_ready(self) -> None:
        """Refuse to run a model whose numbers would not be its own.

        Raises:
            InputError: it is in training mode, or autocast is on.
        """
        if self.model.training:
            raise InputError(
                f"{self.name} is in training mode, where dropout changes the attention; call model.eval() first"
            )
        if torch.is_autocast_enabled(self.device.type):
            raise InputError(
                "torch.autocast is on, which gives queries, keys and values different dtypes; leave its context, and load the "
                "model in the dtype that you want (dtype=)"
            )

    def checked(self, inputs: Inputs | Batch, *, beyond_context: bool) -> Batch:
        """``inputs`` as a batch that the model can run, no longer than it allows."""
        reads = Reads(self.host)
        if isinstance(inputs, Batch):
            batch = checked(inputs, reads)
            self.check_length(batch.tokens, beyond_context=beyond_context)
            return completed(batch, reads)
        return completed(self.batch(inputs, beyond_context=beyond_context), reads)

    def check_whole(self, seen: Sequence[LayerKey]) -> None:
        """Every layer of a stack that ran must have reported, or a statistic would be missing in silence."""
        expected = [layer for served in self.host.layers.values() for layer in served]
        ran = {layer.stack for layer in expected if layer.key in seen}
        missing = [layer.key for layer in expected if layer.key not in seen and (layer.stack in ran or not ran)]
        if missing:
            raise RunError(
                f"layers {missing} of {type(self.model).__name__} did not pass through the hooked attention; this architecture "
                "is not supported for capture yet (or it was changed since it was loaded: load the changed model again)"
            )

    def check_ran(self, ran: Container[LayerKey], asked: Iterable[LayerKey]) -> None:
        """Refuse an input on which a layer that was asked for does not attend."""
        idle = [layer for layer in asked if layer not in ran]
        if idle:
            raise InputError(f"layers {idle} do not attend on this input; leave them out, or give what they read")
