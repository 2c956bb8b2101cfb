"""What rollout and attention flow share: one run as steps from the outputs down to the inputs, and the tokens on its sides.

One attention is a step from a level of nodes (what goes out of it, a node a token) to the level below (what goes into it); see
``interp.flow.steps``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.captures.sides import tokens_of_batch
from interp.errors import InputError
from interp.flow.steps import Rule, Step
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import HeadSpec, head_counts, parse_heads
from interp.models.layers import LayerKey
from interp.naming import named_layers
from interp_kernels.integers import whole, whole_numbers

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

ALL_TOKENS = 2048
"""Longest sequence for which positions="all" is allowed: what comes of it is T x T."""


@dataclass(frozen=True, eq=False)
class Side:
    """One row of tokens of every sequence: where they stand in the batch, and what they read.

    columns  of each sequence, its tokens' columns in the batch; padding is left out
    tokens   of each sequence, their texts (their numbers where the model reads none)
    """

    columns: tuple[Tensor, ...]
    tokens: tuple[tuple[str, ...], ...]

    @property
    def lengths(self) -> list[int]:
        return [columns.numel() for columns in self.columns]


@dataclass(frozen=True, eq=False)
class Mixing:
    """The steps of one run, from the last attention to the first, and the tokens on either side.

    sides   "encoder" and "decoder" of an encoder-decoder in this order, else one alone
    output  the side whose outputs are looked at
    """

    steps: tuple[Step, ...]
    sides: Mapping[str, Side]
    output: str
    batch: Batch

    @property
    def sequences(self) -> int:
        return len(self.sides[self.output].columns)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of the batch on each side, padding included."""
        return {
            name: next(
                step.lazy.shape[3] if step.keys == name else step.lazy.shape[2]
                for step in self.steps
                if name in (step.keys, step.queries)
            )
            for name in self.sides
        }

    @property
    def looks_back(self) -> bool:
        """Whether outputs draw on no token of their own side after themselves."""
        own = [step for step in self.steps if step.queries == step.keys == self.output]
        return bool(own) and all(step.lazy.operands.mask.is_causal for step in own)

    def joined(self, sequence: int, of_sides: Mapping[str, Tensor]) -> Tensor:
        """Of each side [T, ...] the rows of the sequence's own tokens, one side after the other."""
        return torch.cat([of_sides[name][side.columns[sequence]] for name, side in self.sides.items()])

    def tokens(self, sequence: int) -> tuple[str, ...]:
        return tuple(token for side in self.sides.values() for token in side.tokens[sequence])

    @property
    def encoder_tokens(self) -> tuple[int, ...]:
        """How many of each sequence's tokens are the encoder's; () where there is one side only."""
        return tuple(self.sides["encoder"].lengths) if len(self.sides) > 1 else ()


def mixing(
    model: HookedModel,
    inputs: Inputs | Batch,
    rule: Rule,
    *,
    layers: Iterable[LayerKey] | None,
    heads: HeadSpec | Iterable[HeadSpec] | None,
    positions: object,
    beyond_context: bool,
) -> tuple[Mixing, list[tuple[int, int]]]:
    """Run the model once, keep the lazy maps of the layers that count, and say which outputs are meant.

    Raises:
        InputError: arguments that do not fit the model, the input or one another.
    """
    if heads is not None and layers is not None:
        raise InputError("heads name their layers; give either heads= or layers=")
    chosen = None if heads is None else parse_heads(heads, head_counts(model.host.layers))
    order = _order(model, list(chosen) if chosen is not None else layers)
    is_both = any(_stack(layer) == "cross" for layer in order)
    if is_both and not rule.residual:
        raise InputError(
            "residual: without it everything that a decoder's output is comes through its last cross attention, and no other "
            "layer of the decoder counts; leave out residual=False, or choose layers= of one stack"
        )
    batch = model.checked(inputs, beyond_context=beyond_context)
    output = "decoder" if is_both else _stack(order[0])
    known = _side(model, batch, output, None)
    wanted = None if known is None else output_positions(positions, known.lengths)
    maps = model.maps(batch, layers=order, beyond_context=beyond_context)
    steps = []
    for layer in order:
        stack = _stack(layer)
        lazy = maps[layer]
        of_layer = tuple(range(lazy.shape[1])) if chosen is None else chosen[layer]
        if of_layer[-1] >= lazy.shape[1]:
            raise InputError(
                f"head {of_layer[-1]} of layer {layer} does not exist: it has {lazy.shape[1]} query heads, "
                f"0 to {lazy.shape[1] - 1}"
            )
        ends = ("decoder", "encoder") if stack == "cross" else (stack, stack)
        steps.append(Step(layer, lazy, of_layer, *ends, rule))
    _check_shapes(steps)
    names = ["encoder", "decoder"] if is_both else [output]
    widths = {step.queries: step.lazy.shape[2] for step in steps} | {step.keys: step.lazy.shape[3] for step in steps}
    sequences = steps[0].lazy.shape[0]
    sides = {name: _side(model, batch, name, (sequences, widths[name])) for name in names}
    found = Mixing(tuple(steps), {name: side for name, side in sides.items() if side is not None}, output, batch)
    if wanted is None:
        wanted = output_positions(positions, found.sides[output].lengths)
    return found, wanted


def output_positions(given: object, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(sequence, position) of the outputs that are meant; positions count a sequence's own tokens, negative ones from its end.

    Raises:
        InputError: no positions, or some that a sequence does not have.
    """
    if given is None:
        return [(number, length - 1) for number, length in enumerate(lengths)]
    if isinstance(given, str):
        if given != "all":
            raise InputError(f"positions: expected integers or 'all', got {given!r}")
        if max(lengths) > ALL_TOKENS:
            raise InputError(
                f"positions: 'all' of {max(lengths):,} tokens makes a result of T x T numbers, which is allowed up to "
                f"{ALL_TOKENS:,} tokens; name the positions that you want"
            )
        return [(number, position) for number, length in enumerate(lengths) for position in range(length)]
    one = whole(given)
    integers = [one] if one is not None else whole_numbers(given)
    if not integers:
        raise InputError(f"positions: expected an integer, at least one of several, or 'all', got {given!r:.60}")
    found: dict[tuple[int, int], None] = {}
    for number, length in enumerate(lengths):
        for position in integers:
            if not -length <= position < length:
                raise InputError(
                    f"positions: sequence {number} has {length} tokens, so that they run from {-length} to {length - 1}; "
                    f"got {position}"
                )
            found[number, position % length] = None
    return list(found)


def _stack(layer: LayerKey) -> str:
    """ "" of 3, "decoder" of "decoder.3"."""
    return str(layer).rpartition(".")[0]


def _number(layer: LayerKey) -> int:
    return int(str(layer).rpartition(".")[2])


def _order(model: HookedModel, layers: Iterable[LayerKey] | None) -> list[LayerKey]:
    """The layers to go through, from the last to the first."""
    wanted = model.wanted_layers(layers)
    if layers is not None and not wanted:
        raise InputError("layers: give at least one")
    if layers is None and any(_stack(layer) == "" for layer in wanted):
        # Of a language model that sees or hears, its own layers: the towers before it made its input.
        wanted = {layer for layer in wanted if _stack(layer) == ""}
        missing = model.shape.layers - len(wanted)
        if missing > 0:
            raise InputError(
                f"{missing} of the {model.shape.layers} layers of {model.name} do not attend, and what they move between tokens "
                f"would be left out; name the layers to go through with layers= (those that attend: {named_layers(model.layers)})"
            )
    stacks = {_stack(layer) for layer in wanted}
    if stacks <= {"encoder", "decoder", "cross"} and ("cross" in stacks or len(stacks) == 1):
        # Within a layer of a decoder, self attention comes before cross attention.
        place = {"encoder": 0, "decoder": 1, "cross": 1}
        within = {"encoder": 0, "decoder": 0, "cross": 1}
        return sorted(wanted, key=lambda x: (place[_stack(x)], _number(x), within[_stack(x)]), reverse=True)
    if len(stacks) > 1:
        raise InputError(
            f"{model.name} has several stacks of layers that do not follow one another: {named_layers(model.layers)}; choose "
            "those of one with layers="
        )
    return sorted(wanted, key=_number, reverse=True)


def _check_shapes(steps: Sequence[Step]) -> None:
    """Every side must be one row of tokens through all of its layers."""
    widths: dict[str, int] = {}
    for step in steps:
        b, _, queries, keys = step.lazy.shape
        ends = ((step.queries, queries), (step.keys, keys))
        if b != steps[0].lazy.shape[0] or any(widths.setdefault(name, width) != width for name, width in ends):
            raise InputError(
                f"layer {step.layer} attends from {queries} to {keys} places in {b} rows, others otherwise: the model's tokens "
                "are cut up or pooled between its layers, and there is no one row of them to go back to; choose layers="
            )


def _side(model: HookedModel, batch: Batch, name: str, shape: tuple[int, int] | None) -> Side | None:
    """The tokens of a side; before the run (shape None) only where the batch tells them."""
    is_decoder = name == "decoder"
    ids = batch.others.get("decoder_input_ids") if is_decoder else batch.ids
    if ids is not None and shape is not None and tuple(ids.shape) != shape:
        ids = None
    size = shape if ids is None else tuple(ids.shape)
    if size is None:
        return None
    keep = batch.queries_kept(name)
    if keep is None or tuple(keep.shape) != size:
        keep = torch.ones(size, dtype=torch.bool, device=model.device)
    columns = tuple(row.nonzero().flatten() for row in keep)
    if ids is None:
        texts = [[str(i) for i in range(of.numel())] for of in columns]
    elif is_decoder:
        rows = [row.strings for row in batch.decoder_rows]
        texts = rows or [model.token_strings(row[of].tolist()) for row, of in zip(ids, columns, strict=True)]
    else:
        texts = tokens_of_batch(model, batch)
    return Side(columns, tuple(tuple(of) for of in texts))
