"""What rollout and attention flow share: which share of every token comes from which token, attention by attention.

One attention is a step from a level of nodes (what goes out of it, a node a token) to the level below (what goes into it):

    Abar_qk = a_q F_qk + e_q [q = k],    F = the mean (or the maximum) over the chosen heads of P

with a_q = e_q = 1 / (1 + s_q), s_q the sum of row q of F. With ordinary softmax attention s_q = 1 and Abar = 0.5 F + 0.5 I.
The map is never built: what is taken of it are products with the lazy map, or blocks of its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from interp.captures.sides import tokens_of_batch
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import HeadSpec, head_counts, parse_heads
from interp.models.layers import LayerKey
from interp.naming import named_layers
from interp_kernels import AttentionMap

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

Fusion = Literal["mean", "max"]
FUSIONS: tuple[Fusion, ...] = ("mean", "max")

BLOCK_CELLS = 1 << 22
"""Cells of the map, over all heads and sequences, that are held where rows are needed: 17 MB in float32."""

ALL_TOKENS = 2048
"""Longest sequence for which positions="all" is allowed: what comes of it is T x T."""


@dataclass(frozen=True)
class Rule:
    """How a step's shares are made of the heads' maps.

    residual   half of what a token is comes from itself; without, all of it through attention
    fusion     F is the mean over the chosen heads, or their maximum
    normalize  rows of Abar sum to 1 (see the module); without, Abar = 0.5 F + 0.5 I (or F), whose rows sum to less where a
               sink logit takes a part
    """

    residual: bool = True
    fusion: Fusion = "mean"
    normalize: bool = True

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise InputError(f"fusion: expected 'mean' or 'max', got {self.fusion!r}")
        for name in ("residual", "normalize"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if self.fusion == "max" and not self.normalize:
            raise InputError(
                "normalize: rows of the maximum over heads sum to more than 1, so they must be normalised; leave out "
                "normalize=False, or use fusion='mean'"
            )

    def factors(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """a and e of each row, from the row's sum s. A row without keys keeps what it has; without residual it is lost."""
        if not self.normalize:
            share = 0.5 if self.residual else 1.0
            return torch.full_like(sums, share), torch.full_like(sums, share if self.residual else 0.0)
        if self.residual:
            return 1 / (1 + sums), 1 / (1 + sums)
        return torch.where(sums > 0, 1 / sums.clamp(min=torch.finfo(sums.dtype).tiny), 0.0), torch.zeros_like(sums)


@dataclass(frozen=True, eq=False)
class Step:
    """One attention: nodes of the side ``queries`` draw on nodes of the side ``keys``, and on themselves.

    heads: the query heads that count; lazy: their layer's map [B, Hq, Tq, Tk]
    """

    layer: LayerKey
    lazy: AttentionMap
    heads: tuple[int, ...]
    queries: str
    keys: str
    rule: Rule

    @property
    def has_all_heads(self) -> bool:
        return len(self.heads) == self.lazy.shape[1]

    def pull(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Weights on what goes out, r [B, Tq, C], as weights on what goes in: on the keys [B, Tk, C], and left on itself.

        fusion="mean": O(T) memory, by ``AttentionMap.rmatmul``. fusion="max": O(T^2) time and ``BLOCK_CELLS`` cells.
        """
        if self.rule.fusion == "mean":
            attended, stays = (factor[..., None] * r for factor in self.rule.factors(self.row_sums()))
            return self._mean_of_products(attended), stays
        moved = r.new_zeros(r.shape[0], self.lazy.shape[3], r.shape[2])
        stays = torch.zeros_like(r)
        used = r.ne(0).any(dim=0).any(dim=-1).nonzero().flatten()
        # Rows that hold no weight are not computed: all but one at the first step of one position.
        if used.numel():
            for rows in self.row_blocks(int(used[0]), int(used[-1]) + 1):
                fused = self.fused(rows)
                a, e = self.rule.factors(fused.sum(dim=-1))
                moved += fused.transpose(-1, -2) @ (a[..., None] * r[:, rows])
                stays[:, rows] = e[..., None] * r[:, rows]
        return moved, stays

    def row_sums(self) -> Tensor:
        """s [B, Tq] of the mean over the chosen heads: 1 but for sink logits and rows without keys."""
        lazy, heads = self.lazy, list(self.heads)
        if lazy.operands.sinks is None:
            return lazy.lse[:, heads].gt(-torch.inf).to(lazy.lse).mean(dim=1)
        return lazy.matmul(lazy.lse.new_ones(lazy.shape[3], 1))[:, heads, :, 0].mean(dim=1)

    def fused(self, rows: slice, sequence: int | None = None) -> Tensor:
        """F [B, n, Tk] of a block of rows; [1, n, Tk] of one sequence."""
        cols, batch = slice(0, self.lazy.shape[3]), self.lazy.shape[0]
        if self.has_all_heads and (sequence is None or batch == 1):
            return self._over_heads(self.lazy.tile(rows, cols))
        of_sequences = []
        for b in range(batch) if sequence is None else (sequence,):
            tiles = [self.lazy.head(b, h).tile(rows, cols)[0] for h in self.heads]
            of_sequences.append(self._over_heads(torch.stack(tiles, dim=1)))
        return torch.cat(of_sequences)

    def row_blocks(self, start: int, stop: int) -> Iterator[slice]:
        """Consecutive blocks of the rows from ``start`` to ``stop``."""
        b, _, _, keys = self.lazy.shape
        size = max(1, BLOCK_CELLS // (b * len(self.heads) * keys))
        for first in range(start, stop, size):
            yield slice(first, min(first + size, stop))

    def _over_heads(self, tile: Tensor) -> Tensor:
        return tile.mean(dim=1) if self.rule.fusion == "mean" else tile.amax(dim=1)

    def _mean_of_products(self, r: Tensor) -> Tensor:
        """mean_h P_h^T r, [B, Tk, C]."""
        if self.has_all_heads:
            return self.lazy.rmatmul(r[:, None]).mean(dim=1)
        products = []
        for b in range(self.lazy.shape[0]):
            of_heads = [self.lazy.head(b, h).rmatmul(r[b][None, None])[0, 0] for h in self.heads]
            products.append(torch.stack(of_heads).mean(dim=0))
        return torch.stack(products)


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
    listed = [given] if isinstance(given, int) else given
    if isinstance(listed, Tensor):
        listed = listed.tolist()
    if not isinstance(listed, Iterable):
        raise InputError(f"positions: expected an integer, integers or 'all', got {given!r:.60}")
    integers = list(listed)
    if not integers or not all(isinstance(p, int) and not isinstance(p, bool) for p in integers):
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
