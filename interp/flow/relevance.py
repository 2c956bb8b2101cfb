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
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from interp.captures.gradients import Gradients, gradients
from interp.errors import InputError
from interp.flow import gradient_sweep as sweep
from interp.flow.target import (
    Explained,
    Target,
    Tokens,
    explained,
    is_encoder_decoder,
    output_columns,
    sequences_of,
    token_name,
    tokens_out,
    tokens_read,
)
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

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

Positions = int | Sequence[int] | Literal["all"] | None


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Relevance(Result):
    """Relevance of input tokens to outputs. At least 0, no unit: it grows with F and is compared within a row.

    tokens     of each sequence, what was read: the columns
    outputs    of each sequence, the tokens on whose positions outputs stand (of an encoder-decoder the decoder's)
    positions  [B, n], which of ``outputs`` each row belongs to; -1 where a shorter sequence has fewer
    values     [B, n, T], R; NaN beyond the end of a sequence. An output's own token holds the 1 of the identity that R starts
               as, beside what came back to it. Of an encoder-decoder R^de, over the encoder's tokens, without that 1
    decoder    [B, n, T_decoder], of an encoder-decoder R^dd, over the tokens that the decoder read; else None
    targets    of each sequence the token or class that was explained; () of a function
    scores     F of each sequence; of a function its value
    """

    kind: ClassVar[str] = "relevance"

    tokens: tuple[tuple[str, ...], ...]
    outputs: tuple[tuple[str, ...], ...]
    positions: np.ndarray
    values: np.ndarray
    decoder: np.ndarray | None
    targets: tuple[str, ...]
    scores: tuple[float, ...]

    def row(self, sequence: int = 0, output: int = 0, side: Literal["read", "decoder"] = "read") -> np.ndarray:
        """Relevance of each token of one sequence to one of its outputs, [T].

        output: which of ``positions``; side: the tokens that were read, or those that the decoder read.

        Raises:
            InputError: there is no such sequence, output or side.
        """
        count, outputs = self.positions.shape
        if not 0 <= sequence < count or not -outputs <= output < outputs or self.positions[sequence, output] < 0:
            raise InputError(f"row: there are {count} sequences of up to {outputs} outputs, got {sequence}, {output}")
        if side == "decoder" and self.decoder is None:
            raise InputError("side: the model has no decoder beside its encoder; leave side out")
        values, tokens = (self.values, self.tokens) if side == "read" else (self.decoder, self.outputs)
        assert values is not None
        return values[sequence, output, : len(tokens[sequence])]

    def to_frame(self) -> pd.DataFrame:
        """A row for each sequence, output and token: its value, and whether it is the output's own token."""
        import pandas as pd

        parts = []
        for side in ("read",) if self.decoder is None else ("read", "decoder"):
            for (b, n), position in np.ndenumerate(self.positions):
                if position < 0:
                    continue
                tokens = (self.tokens if side == "read" else self.outputs)[b]
                own = np.arange(len(tokens)) == position
                parts.append(
                    pd.DataFrame(
                        {
                            "sequence": b,
                            "output": int(position),
                            "output_token": self.outputs[b][position],
                            "side": side,
                            "position": np.arange(len(tokens)),
                            "token": tokens,
                            "value": self.row(b, n, side),
                            "is_own": own & (side == "decoder" or self.decoder is None),
                        }
                    )
                )
        return pd.concat(parts, ignore_index=True)

    def plot(self, sequence: int = 0, output: int = 0) -> go.Figure:
        """The tokens of one sequence, each with its relevance to one output, without the 1 of the identity at its own token.

        See ``interp.plots.token_strip`` for the marks.
        """
        from interp.plots.token_strip import Strip, token_strip

        position = int(self.positions[sequence, output])
        if self.decoder is None:
            strips = [
                Strip(self.tokens[sequence], self._without_identity(sequence, output, "read"), "relevance", position)
            ]
        else:
            own = self._without_identity(sequence, output, "decoder")
            strips = [
                Strip(self.tokens[sequence], self.row(sequence, output), "relevance"),
                Strip(self.outputs[sequence], own, "relevance, decoder", position),
            ]
        return token_strip(strips)

    def summary(self) -> str:
        """The three tokens of the largest relevance to the first output of the first sequence."""
        values = self._without_identity(0, 0, "read")
        top = np.argsort(-values, kind="stable")[:3]
        named = ", ".join(f"{self.tokens[0][i]!r} at {i} ({values[i]:.3g})" for i in top)
        what = f"target {self.targets[0]!r}, " if self.targets else ""
        position = int(self.positions[0, 0])
        return f"{what}output at {position} ({self.outputs[0][position]!r}); largest relevance: {named}"

    def _without_identity(self, sequence: int, output: int, side: Literal["read", "decoder"]) -> np.ndarray:
        values = self.row(sequence, output, side).copy()
        if side == "decoder" or self.decoder is None:
            values[self.positions[sequence, output]] -= 1
        return values


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
        chosen = _chosen(model, out, objective, positions)
        _check_size(chosen, read, out, model)
    run = gradients(model, batch, objective, _followed(model), logits=logits, beyond_context=beyond_context)
    length = _check_run(run, sequences_of(batch))
    read, out = read.of_run(sequences_of(batch), length[0]), out.of_run(sequences_of(batch), length[1])
    chosen = _chosen(model, out, objective, positions)
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
        positions=_local(chosen, out),
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


def _chosen(model: HookedModel, out: Tokens, objective: Explained, positions: Positions) -> list[list[int]]:
    if isinstance(positions, str) and positions == "all":
        assert out.columns is not None
        return [columns.tolist() for columns in out.columns]
    if isinstance(positions, str):
        raise InputError(f"positions: expected a position, several, or 'all', got {positions!r:.60}")
    return output_columns(model, out, objective, positions)


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


def _local(chosen: list[list[int]], out: Tokens) -> np.ndarray:
    """Columns as positions among the tokens of each sequence, [B, n]."""
    assert out.columns is not None
    local = np.full((len(chosen), max(map(len, chosen))), -1, dtype=np.int64)
    for number, (columns, rows) in enumerate(zip(out.columns, chosen, strict=True)):
        place = {int(column): n for n, column in enumerate(columns)}
        local[number, : len(rows)] = [place[column] for column in rows]
    return local
