"""Norm-based attention: how much each token brings to an attention's output, weight times the length of what is weighted.

Kobayashi, Kuribayashi, Yokoi and Inui, "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms" (arXiv
2004.10102); code: gorokoba560/norm-analysis-of-transformer. With f_h(x_k) = v_k W_O of head h (v_k with its bias),

    n_h[q, k] = ||P_h[q, k] f_h(x_k)||               of one head; their alpha is P
    N[q, k]   = ||sum_h P_h[q, k] f_h(x_k)||         of a layer's heads together

N is computed without the vectors of pairs, from one H x H Gram matrix a key: with G_k[h, g] = f_h(x_k) . f_g(x_k) and
a = P[:, q, k], N[q, k]^2 = a^T G_k a.

Squares lose digits where heads cancel, so G is in float64. With S = sum_h a_h || |v_k| |W_O| ||, the size of what is summed,
and c = (2 Dv + d + 2 H + 4) 2^-53, the error of N^2 is at most c S^2, and that of N at most min(sqrt(c) S, c S^2 / N). Adding the
vectors in float32 may be (Dv + H) 2^-24 S away. For d = 4096, Dv = 128 and H = 32 that is 7e-7 S here at worst, and 1e-5 S there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.captures.contributions import Projections
from interp.captures.memory import layers_of
from interp.captures.residual import check_unedited
from interp.errors import InputError
from interp.flow.norm_attention_result import FIRST, NormAttention
from interp.flow.target import (
    Explained,
    Positions,
    Tokens,
    is_encoder_decoder,
    local_positions,
    output_columns,
    tokens_out,
    tokens_read,
)
from interp.heads.token_classes import CLASSES, TokenClass, checked_classes, tokens_of
from interp.inputs.batch import Batch
from interp.models.heads import head_counts, parse_heads
from interp.progress import Bar
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    from interp.inputs.convert import Inputs
    from interp.models.call import AttentionCall
    from interp.models.heads import HeadSpec
    from interp.models.hooked import HookedModel
    from interp.models.layers import LayerKey
    from interp_kernels import Attended

SOURCE = "Kobayashi et al., Attention is Not Only a Weight, arXiv 2004.10102; gorokoba560/norm-analysis-of-transformer"
METHOD = "||sum_h P_h[q, k] f_h(x_k)||, f_h(x_k) = v_k W_O of head h, from one H x H Gram matrix a key"
INSTEAD = "Choose other layers, or another model"
MOST_CELLS = 1 << 24
"""Most numbers of a result: 128 MB. Weights and norms of all rows of one layer and one sequence of 2,896 tokens."""
GRAM_NUMBERS = 1 << 24
"""Numbers of the Gram matrices that are held at once: 128 MB. Those of 16,384 keys of 32 heads."""
CHUNK_NUMBERS = 1 << 22
"""Numbers of the f_h(x_k), or of rows of the map, that are held at once: 32 MB, and a few times that on the way."""


def norm_attention(
    model: HookedModel,
    inputs: Inputs | Batch,
    positions: Positions = None,
    *,
    heads: HeadSpec | Iterable[HeadSpec] | None = None,
    layers: Iterable[LayerKey] | None = None,
    per_head: bool = False,
    classes: Mapping[str, TokenClass] = CLASSES,
    beyond_context: bool = False,
    progress: bool = False,
) -> NormAttention:
    """Norms of what each token brings to the attention's output at some positions, beside the attention weights.

    One run. Edits of maps apply; those of heads' outputs are refused. Padding has no part. Norms are at least 0, in units of
    the residual stream, and rows do not sum to 1. The bias of the output projection comes from no token and is left out.

    Time: O(T H d (Dv + H)) a layer for the Gram matrices, and O(n T H^2) for n positions. Memory: O(T) a layer, and at most
    ``GRAM_NUMBERS`` numbers of Gram matrices (all of them are T H^2) and a few times ``CHUNK_NUMBERS`` of vectors and rows.

    Args:
        inputs: as for ``HookedModel.capture``; several sequences are padded, and each is as it is alone.
        positions: the queries q, counted over the tokens of each sequence without padding, negative from its end; "all" for
            every one. None: the last token, of a model that sees both ways the first ([CLS]).
        heads: the heads that are added up, such as ["L2H5"]; they name their layers. None: all.
        layers: of one stack. None: all; of an encoder-decoder those that look from the decoder at the encoder.
        per_head: keep P_h and n_h of every head too.
        classes: name -> whether a token is in that class of keys, for ``NormAttention.shares``. By default special tokens and
            punctuation; "first", the first token of each sequence, is always there.
        beyond_context: allow inputs longer than the model's context, where its positions are relative.
        progress: show a progress bar over layers on stderr.

    Raises:
        InputError: inputs, positions, heads, layers or classes that do not fit; a result of more than ``MOST_CELLS`` numbers;
            heads whose outputs do not go straight into a linear projection, or are changed by an edit.
        RunError: NaN or infinity in the run.
    """
    wanted = _wanted(model, heads, layers)
    if FIRST in checked_classes(classes):
        raise InputError(f"classes: {FIRST!r} is the class of each sequence's first token; give yours another name")
    batch = model.checked(inputs, beyond_context=beyond_context)
    sides = _Sides.of(model, batch, next(iter(wanted)))
    chosen = output_columns(model, sides.queries, Explained((None,) * sides.sequences, None), positions)
    _check_size(model, wanted, chosen, sides, per_head)
    found: dict[LayerKey, _Found] = {}
    projections = Projections(model.host.inner, model.host.layers, INSTEAD)
    with Bar(total=len(wanted), unit="layer", what=f"norms {model.name}", show=progress) as bar:

        def record(call: AttentionCall, attended: Attended) -> None:
            key = call.layer.key
            if key not in wanted:
                return

            def use(weight: Tensor) -> None:
                found[key] = _of_layer(key, attended, weight, wanted[key], chosen, sides, per_head)
                bar.update()

            projections.attended(call.layer, attended.output, use)

        with projections.watching():
            model.run(batch, lambda call: (), record, logits=False)
    model.check_ran(found, wanted)
    return NormAttention(
        settings=settings_of(
            model,
            method=METHOD,
            source=SOURCE,
            constants={
                "positions": positions if positions is None or isinstance(positions, str) else "as given",
                "heads": "all" if heads is None else {str(layer): found[layer].heads for layer in wanted},
                "classes": [FIRST, *classes],
            },
            inputs=inputs_of(batch),
        ),
        layers=tuple(str(layer) for layer in wanted),
        heads=tuple(found[layer].heads for layer in wanted),
        tokens=sides.keys.strings,
        outputs=sides.queries.strings,
        positions=local_positions(chosen, sides.queries),
        weights=np.stack([found[layer].weights for layer in wanted], axis=1),
        norms=np.stack([found[layer].norms for layer in wanted], axis=1),
        head_weights=_by_head([found[layer].head_weights for layer in wanted]) if per_head else None,
        head_norms=_by_head([found[layer].head_norms for layer in wanted]) if per_head else None,
        classes=(FIRST, *classes),
        members=_members(model, batch, str(next(iter(wanted))).rpartition(".")[0], classes, sides),
    )


@dataclass(frozen=True, eq=False)
class _Sides:
    """The tokens that are looked from and at, and how many columns each has in the batch."""

    queries: Tokens
    keys: Tokens
    shape: tuple[int, int]

    @classmethod
    def of(cls, model: HookedModel, batch: Batch, layer: LayerKey) -> _Sides:
        stack = str(layer).rpartition(".")[0]
        read, out = (tokens_read(model, batch), batch.ids), (tokens_out(model, batch), _decoder_ids(batch))
        (queries, of_queries), (keys, of_keys) = {"decoder": (out, out), "cross": (out, read)}.get(stack, (read, read))
        if queries.columns is None or keys.columns is None or of_queries is None or of_keys is None:
            raise InputError(
                f"inputs: expected a text or token ids; {model.name} reads none here, and norms are those of tokens"
            )
        return cls(queries, keys, (of_queries.shape[1], of_keys.shape[1]))

    @property
    def sequences(self) -> int:
        return len(self.queries.strings)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that is looked at."""
        return max(map(len, self.keys.strings))


def _decoder_ids(batch: Batch) -> Tensor | None:
    return batch.others.get("decoder_input_ids")


@dataclass(frozen=True, eq=False)
class _Found:
    """Of one layer: mean weights and N [B, n, T]; P and n_h of its heads [B, n, H, T]. Without padding, NaN beyond the end."""

    heads: tuple[int, ...]
    weights: np.ndarray
    norms: np.ndarray
    head_weights: np.ndarray | None
    head_norms: np.ndarray | None


def _wanted(
    model: HookedModel, heads: HeadSpec | Iterable[HeadSpec] | None, layers: Iterable[LayerKey] | None
) -> dict[LayerKey, tuple[int, ...] | None]:
    """The layers, of one stack in the model's order, and the heads of each; None: all of them."""
    if heads is not None and layers is not None:
        raise InputError("heads name their layers; give either heads= or layers=")
    if heads is not None:
        wanted: dict[LayerKey, tuple[int, ...] | None] = dict(parse_heads(heads, head_counts(model.host.layers)))
    elif layers is not None:
        known = model.wanted_layers(layers)
        wanted = {layer: None for layer in model.layers if layer in known}
    else:
        stack = "cross" if is_encoder_decoder(model) else ""
        wanted = {layer.key: None for layer in layers_of(model, model.layers) if layer.stack == stack}
    stacks = {str(layer).rpartition(".")[0] for layer in wanted}
    if len(stacks) != 1 or not stacks <= {"", "text", "encoder", "decoder", "cross"}:
        given = f"got {list(wanted)}" if wanted else f"{model.name} has {list(model.layers)}"
        raise InputError(f"layers: expected layers of one stack that attends over tokens, {given}; choose with layers=")
    return wanted


def _check_size(
    model: HookedModel,
    wanted: Mapping[LayerKey, tuple[int, ...] | None],
    chosen: list[list[int]],
    sides: _Sides,
    per_head: bool,
) -> None:
    counts = head_counts(model.host.layers)
    values = 2 * sum(
        1 + per_head * (len(heads or ()) or counts[key] or model.shape.heads) for key, heads in wanted.items()
    )
    rows = max(map(len, chosen))
    cells = values * len(chosen) * rows * sides.longest
    if cells > MOST_CELLS:
        raise InputError(
            f"positions: weights and norms of {rows:,} rows over {sides.longest:,} tokens, in {len(wanted)} layers of "
            f"{len(chosen)} sequences{', by head,' if per_head else ''} are {cells:,} numbers, more than {MOST_CELLS:,}; ask for "
            "fewer positions or layers"
        )


def _of_layer(
    key: LayerKey,
    attended: Attended,
    weight: Tensor,
    heads: tuple[int, ...] | None,
    chosen: list[list[int]],
    sides: _Sides,
    per_head: bool,
) -> _Found:
    b, count, queries, keys = attended.map.shape
    if (b, queries, keys) != (sides.sequences, *sides.shape):
        raise InputError(
            f"layer {key}: it looks from {queries} positions of {b} sequences at {keys}, and the input has "
            f"{sides.shape[0]} and {sides.shape[1]} in {sides.sequences}; norms need layers that look at the input's own tokens"
        )
    heads = tuple(range(count)) if heads is None else heads
    if heads[-1] >= count:
        raise InputError(
            f"head {heads[-1]} of layer {key} does not exist: it has {count} query heads, 0 to {count - 1}"
        )
    size = (b, max(map(len, chosen)))
    rows = {
        "weights": torch.zeros(*size, keys, dtype=torch.float64),
        "norms": torch.zeros(*size, keys, dtype=torch.float64),
    }
    if per_head:
        of_heads = (*size, len(heads), keys)
        rows |= {name: torch.zeros(of_heads, dtype=torch.float64) for name in ("head_weights", "head_norms")}
    for part, columns, values in _parts(key, attended, weight, heads, chosen, per_head):
        place = {column: at for at, column in enumerate(columns)}
        for number, row in enumerate(chosen):
            n = [n for n, column in enumerate(row) if column in place]
            at = [place[row[each]] for each in n]
            for name, kept in rows.items():
                kept[number, n, ..., part] = values[name][number, at].cpu()
    packed = {name: _packed(kept, chosen, sides) for name, kept in rows.items()}
    return _Found(heads, packed["weights"], packed["norms"], packed.get("head_weights"), packed.get("head_norms"))


def _parts(
    key: LayerKey,
    attended: Attended,
    weight: Tensor,
    heads: tuple[int, ...],
    chosen: list[list[int]],
    per_head: bool,
) -> Iterator[tuple[slice, list[int], dict[str, Tensor]]]:
    """c keys, m columns of queries, and their numbers: "weights", "norms" [B, m, c]; "head_weights", "head_norms" [B, m, H, c].

    Gram matrices are made once for each key; rows once for each part of the keys, of which there is one unless T H^2 is large.
    """
    lazy, ops = attended.map, attended.map.operands
    b, count, _, keys = lazy.shape
    index = torch.tensor(heads, device=lazy.lse.device)
    every = sorted({column for row in chosen for column in row})
    counts = torch.tensor([[column in asked for column in every] for asked in map(set, chosen)], device=lazy.lse.device)
    step = max(1, GRAM_NUMBERS // (b * len(heads) ** 2))
    m = max(1, CHUNK_NUMBERS // (b * count * keys))
    w = weight.index_select(0, index)
    for first in range(0, keys, step):
        part = slice(first, min(first + step, keys))
        gram = gram_matrices(ops.v[:, :, part].index_select(1, index // ops.group), w)
        lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt().mT[:, None]  # [B, 1, H, c]
        for start in range(0, len(every), m):
            columns = every[start : start + m]
            rows = lazy.rows(columns)  # [B, Hq, m, Tk]
            if first == 0:
                check_unedited(key, attended.output[:, :, columns], rows, ops.v, counts[:, start : start + m])
            p = rows[..., part].index_select(1, index).double().transpose(1, 2)  # [B, m, H, c]
            numbers = {"weights": p.mean(dim=2), "norms": norms_of_sums(p, gram)}
            yield part, columns, numbers | ({"head_weights": p, "head_norms": p * lengths} if per_head else {})


def gram_matrices(values: Tensor, weight: Tensor) -> Tensor:
    """G_k[h, g] = f_h(x_k) . f_g(x_k), f_h(x_k) = v_k W_O, in float64: [B, T, H, H].

    values: what each head reads, [B, H, T, Dv]; weight: W_O of each, [H, Dv, d].
    """
    b, heads, t, _ = values.shape
    wide = weight.double()
    found = torch.empty(b, t, heads, heads, dtype=torch.float64, device=values.device)
    step = max(1, CHUNK_NUMBERS // (b * heads * wide.shape[2]))
    for first in range(0, t, step):
        f = torch.matmul(values[:, :, first : first + step].double(), wide).transpose(1, 2)  # [B, c, H, d]
        torch.matmul(f, f.mT, out=found[:, first : first + step])
    return found


def norms_of_sums(p: Tensor, gram: Tensor) -> Tensor:
    """||sum_h p_h f_h(x_k)|| = sqrt(p^T G_k p): [B, m, T]. p: [B, m, H, T]; gram: [B, T, H, H]."""
    a = p.permute(0, 3, 1, 2)  # [B, T, m, H]
    # Rounding can leave heads that cancel a little below 0.
    return (torch.matmul(a, gram) * a).sum(dim=-1).clamp(min=0).sqrt().mT


def _packed(values: Tensor, chosen: list[list[int]], sides: _Sides) -> np.ndarray:
    """Without padding: [B, n, ..., T of the longest], NaN beyond a sequence's tokens and positions."""
    assert sides.keys.columns is not None
    packed = np.full((*values.shape[:-1], sides.longest), np.nan)
    for number, (columns, rows) in enumerate(zip(sides.keys.columns, chosen, strict=True)):
        packed[number, : len(rows), ..., : len(columns)] = values[number, : len(rows)][..., columns].numpy()
    return packed


def _by_head(parts: Sequence[np.ndarray | None]) -> np.ndarray:
    """[B, L, n, H, T], NaN where a layer has fewer heads."""
    arrays = [part for part in parts if part is not None]
    most = max(part.shape[2] for part in arrays)
    widths = [((0, 0), (0, 0), (0, most - part.shape[2]), (0, 0)) for part in arrays]
    return np.stack([np.pad(part, w, constant_values=np.nan) for part, w in zip(arrays, widths, strict=True)], axis=1)


def _members(
    model: HookedModel, batch: Batch, stack: str, classes: Mapping[str, TokenClass], sides: _Sides
) -> np.ndarray:
    """Which tokens are in each class, "first" in front: bool [C, B, T]."""
    if stack == "decoder":
        mask = batch.others.get("decoder_attention_mask")
        batch = Batch(_decoder_ids(batch), None if mask is None else mask.bool(), token_rows=batch.decoder_rows)
    found = np.zeros((1 + len(classes), sides.sequences, sides.longest), dtype=bool)
    found[0, :, 0] = True
    for number, tokens in enumerate(tokens_of(model, batch)):
        for n, is_member in enumerate(classes.values(), start=1):
            found[n, number, : len(tokens)] = [bool(is_member(token)) for token in tokens]
    return found
