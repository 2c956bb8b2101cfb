"""Gradient-weighted relevance: what an output owes to each input token, by attention that mattered for it.

Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers"
(arXiv 2103.15679), and their code, hila-chefer/Transformer-MM-Explainability. With A a head's map and dA the gradient of the
explained number F with respect to it,

    Abar = mean_h max(0, dA * A)                          (5)
    R <- R + Abar R, from R = I, layer by layer           (6)

and for an encoder-decoder (8) to (10), see ``interp.flow.gradient_sweep``. Row i of R is the relevance of each input token to
output i. Rows are computed by products with lazy maps, O(T) memory, exact, at any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.captures.gradients import Gradients, gradients
from interp.errors import InputError
from interp.flow import gradient_sweep as sweep
from interp.flow.relevance_result import Relevance
from interp.flow.target import (
    Positions,
    Target,
    Tokens,
    explained,
    is_encoder_decoder,
    local_positions,
    output_columns,
    token_name,
    tokens_out,
    tokens_read,
)
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.inputs.convert import Inputs
    from interp.models.hooked import HookedModel
    from interp.models.layers import LayerKey

SOURCE = "Chefer et al., Generic Attention-model Explainability, arXiv 2103.15679, equations 5 to 10"
METHOD = "rows of R <- R + Abar R from R = I, Abar = mean_h max(0, dA * A)"
MOST_CELLS = 1 << 24
"""Most numbers of a result: 128 MB. All rows of one sequence of 4,096 tokens."""
SWEPT_CELLS = 1 << 22
"""About how many numbers [B, H, T, rows] are swept at once: 32 MB in float64."""


def relevance(
    model: HookedModel,
    inputs: Inputs | Batch,
    target: Target = None,
    positions: Positions = None,
    *,
    at: int | Sequence[int] | None = None,
    logits: bool = True,
    beyond_context: bool = False,
) -> Relevance:
    """Relevance of every input token to outputs of ``model``, for one number F of each sequence.

    One run forward and back, and a sweep down the layers for all positions that are asked for together. Decoders, encoders and
    encoder-decoders; edits in force apply; padding has no part. O(T) memory a row, O(T^2) time a layer.

    Args:
        target: F is the logit of this token (id or text) or class; of one for each sequence. None: of the largest logit. Or a
            function of the logits [B, T, V] (columns of the batch, padding included) that gives F itself.
        positions: the rows of R: outputs by position, counted over the tokens of each sequence without padding, negative from
            its end; "all" for every one. None: the token whose logits are read; of a classifier and of a function the last
            token, of a model that sees both ways the first one ([CLS]).
        at: the position whose logits are read, or one for each sequence. None: the last token; of a model that sees both
            ways, its mask token.
        logits: False: ``target`` is a function of the last hidden state, for models without logits.
        beyond_context: as for ``HookedModel.capture``.

    Raises:
        InputError: inputs, target or positions that do not fit; a model with layers that mix tokens without attention, or
            with stacks of another kind; a result of more than ``MOST_CELLS`` numbers.
        RunError: NaN or infinity in the run or in a gradient.
    """
    check_followed(model)
    if not logits and not callable(target):
        raise InputError("target: without logits, give a function of the last hidden state that gives one number")
    batch = model.checked(inputs, beyond_context=beyond_context)
    objective = explained(model, batch, target, at)
    read, out = tokens_read(model, batch), tokens_out(model, batch)
    if out.columns is not None:
        chosen = output_columns(model, out, objective, positions)
        _check_size(chosen, read, out, model)
    run = gradients(model, batch, objective, _followed(model), logits=logits, beyond_context=beyond_context)
    length = _check_run(run, batch.rows)
    read, out = read.of_run(batch.rows, length[0]), out.of_run(batch.rows, length[1])
    chosen = output_columns(model, out, objective, positions)
    _check_size(chosen, read, out, model)
    values, decoder = _rows(run, chosen, read, out)
    settings = settings_of(
        model,
        method=METHOD,
        source=SOURCE,
        constants={
            "target": "a function" if objective.own is not None else list(objective.chosen),
            "positions": positions if positions is None or isinstance(positions, str) else "as given",
            "at": at,
            "logits": logits,
            "heads": "mean over query heads",
            "layers": [str(layer) for layer in run.layers],
        },
        inputs=inputs_of(batch),
    )
    return Relevance(
        settings=settings,
        tokens=read.strings,
        outputs=out.strings,
        positions=local_positions(chosen, out),
        values=values,
        decoder=decoder,
        targets=tuple(token_name(model, i) for i in objective.chosen),
        scores=objective.values,
    )


def check_followed(model: HookedModel) -> None:
    """Refuse models whose tokens mix in ways that maps do not show.

    Raises:
        InputError: a hybrid; stacks of layers that are neither one stack nor an encoder and a decoder.
    """
    followed = _followed(model)
    if not followed:
        raise InputError(
            f"relevance follows one stack of layers, or an encoder and a decoder; {model.name} has "
            f"{', '.join(sorted({str(layer).split('.')[0] for layer in model.layers}))}"
        )
    stacks = _stacks(followed)
    if "cross" in stacks and len(stacks["cross"]) != len(stacks["decoder"]):
        raise InputError(
            f"relevance is defined where each layer of the decoder looks at the encoder; {model.name} has "
            f"{len(stacks['decoder'])} and {len(stacks['cross'])} such looks"
        )
    if "cross" not in stacks and len(followed) < model.shape.layers:
        raise InputError(
            f"relevance follows attention, and only {len(followed)} of the {model.shape.layers} layers of {model.name} "
            "attend: the others mix tokens in ways that no map shows"
        )


def _followed(model: HookedModel) -> list[LayerKey]:
    own = [layer for layer in model.layers if isinstance(layer, int)]
    if own:
        return list(own)
    stacks = _stacks(model.layers)
    return list(model.layers) if stacks.keys() == {"encoder", "decoder", "cross"} else []


def _stacks(layers: Sequence[LayerKey]) -> dict[str, list[LayerKey]]:
    """Layers of each stack, "" of the ints, in the order of their numbers."""
    found: dict[str, list[LayerKey]] = {}
    for layer in sorted(layers, key=lambda layer: int(str(layer).rpartition(".")[2])):
        found.setdefault(str(layer).rpartition(".")[0], []).append(layer)
    return found


def _check_run(run: Gradients, sequences: int) -> tuple[int, int]:
    """How many positions are read, and how many have outputs.

    Raises:
        InputError: layers look at windows or at stages of other lengths.
    """
    sizes: dict[str, set[tuple[int, int, int]]] = {}
    for layer, each in run.layers.items():
        b, _, queries, keys = each.map.shape
        sizes.setdefault(str(layer).rpartition(".")[0], set()).add((b, queries, keys))
    (*_, (b, out, read)) = sizes.get("cross") or sizes[""]
    squares = all(queries == keys for stack, each in sizes.items() if stack != "cross" for _, queries, keys in each)
    if b != sequences or not squares or any(len(each) != 1 for each in sizes.values()):
        raise InputError(
            "relevance follows layers that all look at the same tokens; this model's look at windows or stages"
        )
    return read, out


def _check_size(chosen: list[list[int]], read: Tokens, out: Tokens, model: HookedModel) -> None:
    longest = max((len(row) for row in read.strings), default=0)
    if is_encoder_decoder(model):
        longest += max(len(row) for row in out.strings)
    rows = max(map(len, chosen))
    cells = len(chosen) * rows * longest
    if cells > MOST_CELLS:
        raise InputError(
            f"positions: {rows:,} rows over {longest:,} tokens of {len(chosen)} sequences are {cells:,} numbers, more than "
            f"{MOST_CELLS:,}; ask for fewer positions"
        )


def _rows(run: Gradients, chosen: list[list[int]], read: Tokens, out: Tokens) -> tuple[np.ndarray, np.ndarray | None]:
    """R [B, n, T], and of an encoder-decoder R^de and R^dd."""
    stacks = _stacks(list(run.layers))
    maps = {
        stack: [run.layers[layer].map.weighted_by(run.layers[layer].reaching) for layer in layers]
        for stack, layers in stacks.items()
    }
    own = maps["decoder"] if "cross" in maps else maps[""]
    b, heads, length, _ = own[0].shape
    most = max(map(len, chosen))
    step = max(1, SWEPT_CELLS // (b * heads * length))
    of_read: list[Tensor] = []
    of_own: list[Tensor] = []
    for first in range(0, most, step):
        start = torch.zeros(b, length, min(step, most - first), dtype=torch.float64, device=own[0].lse.device)
        for number, columns in enumerate(chosen):
            for n, column in enumerate(columns[first : first + start.shape[2]]):
                start[number, column, n] = 1
        of_own.append((start + sweep.rows(own, start)).mT.cpu())
        if "cross" in maps:
            of_read.append(sweep.cross_rows(maps["encoder"], own, maps["cross"], start).mT.cpu())
    if not of_read:
        return _packed(torch.cat(of_own, dim=1), chosen, read), None
    return _packed(torch.cat(of_read, dim=1), chosen, read), _packed(torch.cat(of_own, dim=1), chosen, out)


def _packed(values: Tensor, chosen: list[list[int]], tokens: Tokens) -> np.ndarray:
    """Without padding: [B, n, T of the longest], NaN beyond a sequence's tokens and outputs."""
    assert tokens.columns is not None
    packed = np.full((*values.shape[:2], max(map(len, tokens.columns))), np.nan)
    for number, (columns, rows) in enumerate(zip(tokens.columns, chosen, strict=True)):
        packed[number, : len(rows), : len(columns)] = values[number, : len(rows), columns].numpy()
    return packed
