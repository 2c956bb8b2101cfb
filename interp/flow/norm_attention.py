"""Norm-based attention: how much each token brings to an attention's output, weight times the length of what is weighted.

Kobayashi, Kuribayashi, Yokoi and Inui, "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms" (arXiv
2004.10102); code: gorokoba560/norm-analysis-of-transformer. With f_h(x_k) = v_k W_O of head h (v_k with its bias),

    n_h[q, k] = ||P_h[q, k] f_h(x_k)||               of one head; their alpha is P
    N[q, k]   = ||sum_h P_h[q, k] f_h(x_k)||         of a layer's heads together

N is computed without the vectors of pairs, by ``interp.flow.norm_rows``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from interp.captures.contributions import Projections
from interp.captures.memory import layers_of
from interp.errors import InputError
from interp.flow.norm_attention_result import FIRST, NormAttention
from interp.flow.norm_rows import LayerRows, Sides, decoder_ids, of_layer
from interp.flow.target import (
    Explained,
    Positions,
    is_encoder_decoder,
    local_positions,
    output_columns,
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
    ``GRAM_NUMBERS`` numbers of Gram matrices (all of them are T H^2) and a few times ``CHUNK_NUMBERS`` of vectors and rows;
    both are constants of ``interp.flow.norm_rows``.

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
    sides = Sides.of(model, batch, next(iter(wanted)))
    chosen = output_columns(model, sides.queries, Explained((None,) * sides.sequences, None), positions)
    _check_size(model, wanted, chosen, sides, per_head)
    found: dict[LayerKey, LayerRows] = {}
    projections = Projections(model.host.inner, model.host.layers, INSTEAD)
    with Bar(total=len(wanted), unit="layer", what=f"norms {model.name}", show=progress) as bar:

        def record(call: AttentionCall, attended: Attended) -> None:
            key = call.layer.key
            if key not in wanted:
                return

            def use(weight: Tensor) -> None:
                found[key] = of_layer(key, attended, weight, wanted[key], chosen, sides, per_head)
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
    sides: Sides,
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


def _by_head(parts: Sequence[np.ndarray | None]) -> np.ndarray:
    """[B, L, n, H, T], NaN where a layer has fewer heads."""
    arrays = [part for part in parts if part is not None]
    most = max(part.shape[2] for part in arrays)
    widths = [((0, 0), (0, 0), (0, most - part.shape[2]), (0, 0)) for part in arrays]
    return np.stack([np.pad(part, w, constant_values=np.nan) for part, w in zip(arrays, widths, strict=True)], axis=1)


def _members(
    model: HookedModel, batch: Batch, stack: str, classes: Mapping[str, TokenClass], sides: Sides
) -> np.ndarray:
    """Which tokens are in each class, "first" in front: bool [C, B, T]."""
    if stack == "decoder":
        mask = batch.others.get("decoder_attention_mask")
        batch = Batch(decoder_ids(batch), None if mask is None else mask.bool(), token_rows=batch.decoder_rows)
    found = np.zeros((1 + len(classes), sides.sequences, sides.longest), dtype=bool)
    found[0, :, 0] = True
    for number, tokens in enumerate(tokens_of(model, batch)):
        for n, is_member in enumerate(classes.values(), start=1):
            found[n, number, : len(tokens)] = [bool(is_member(token)) for token in tokens]
    return found
