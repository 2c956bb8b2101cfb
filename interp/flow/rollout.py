"""Attention rollout: how much of an output can be traced to each input token, by multiplying the layers' attention.

    Abar_l = 0.5 mean_h A_l + 0.5 I,    R_0 = Abar_0,    R_l = Abar_l R_(l-1)

R_l[q, k] is the share of token q after layer l that comes from input token k. Source: Abnar and Zuidema, Quantifying Attention
Flow in Transformers (arXiv 2005.00928), and its code, samiraabnar/attention_flow. A is our P; docs/methods/rollout.md says
where ours goes beyond.

Nobody needs all of R. A row of it, r_l for one output token, is swept down from the last layer:

    r_(l-1) = Abar_l^T r_l = 0.5 r_l + 0.5 mean_h P_l^T r_l

which takes products with the lazy maps alone: O(T) memory at any length, exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from interp.flow.mixing import Mixing, mixing
from interp.flow.steps import Fusion, Rule
from interp.flow.token_weights import TokenWeights
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import HeadSpec
from interp.models.layers import LayerKey
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

SOURCE = "Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv 2005.00928; samiraabnar/attention_flow"

COLUMN_CELLS = 1 << 24
"""Numbers of the products of one sweep, over sequences, heads and outputs: 67 MB in float32."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Rollout(TokenWeights):
    """Rollout of chosen outputs onto the tokens; see ``rollout``.

    weights  [N, levels, T]: the share of the output that comes from each token, at least 0. Rows sum to 1 (to less with
             normalize=False where a sink logit takes a part; or without residual where a row sees no key). One level, the
             model's input, unless every level was asked for
    """

    kind: ClassVar[str] = "rollout"

    def to_frame(self) -> pd.DataFrame:
        """One row for each output, level and token; see ``columns_of_frame``. Column ``weight``."""
        return self.columns_of_frame({"weight": self.weights})

    def plot(self, sequence: int = 0, position: int | None = None) -> go.Figure:
        """One output: levels x tokens where every level was kept, else a bar a token; see ``interp.plots.flow``.

        Args:
            position: of the sequence's token; without it, the last one that was asked for.
        """
        from interp.plots.flow import level_grid, token_bars

        row = self.row(sequence, position)
        return level_grid(self, row) if len(self.levels) > 1 else token_bars({"rollout": self}, [row])

    def summary(self) -> str:
        lines = []
        for row in range(min(len(self.sequence), 3)):
            number = int(self.sequence[row])
            tokens, weights = self.tokens[number], self.weights[row, 0]
            best = np.argsort(-weights[: len(tokens)], kind="stable")[:4]
            told = ", ".join(f"{tokens[k]!r} (token {k}) {weights[k]:.3f}" for k in best)
            lines.append(
                f"output of token {self.position[row]} {self.output_token(row)!r} of sequence {number}: most from {told}"
            )
        if len(self.sequence) > len(lines):
            lines.append(f"and {len(self.sequence) - len(lines)} outputs more")
        return "\n".join(lines)


def rollout(
    model: HookedModel,
    inputs: Inputs | Batch,
    positions: int | Sequence[int] | str | None = None,
    *,
    residual: bool = True,
    fusion: Fusion = "mean",
    normalize: bool = True,
    heads: HeadSpec | Iterable[HeadSpec] | None = None,
    layers: Iterable[LayerKey] | None = None,
    every_level: bool = False,
    beyond_context: bool = False,
) -> Rollout:
    """Attention rollout of chosen outputs onto the input tokens.

        Abar_qk = (F_qk + [q = k]) / (1 + s_q),    F = mean_h P,    s_q = sum_k F_qk    (s_q = 1: 0.5 F + 0.5 I)
        r_(l-1) = Abar_l^T r_l,    r_L = 1 at the output's token

    Encoder-decoders: a decoder layer is two steps, self attention and then cross attention; cross attention keeps half of the
    decoder's token and takes half from the encoder's outputs, whose weight goes on down the encoder. The weights on the
    encoder's and the decoder's input tokens together sum to 1. (The source defines rollout for one stack.)

    Memory: the lazy maps of the layers, O(T) each (queries, keys, values), and O(T) for each output. Time: about one pass of
    attention a layer for a block of outputs. fusion="max" computes its rows block by block: O(T^2) time, and 17 MB at a time.

    Args:
        inputs: as for ``HookedModel.capture``. Padding gets no weight.
        positions: whose outputs: tokens of each sequence, counted without padding, negative ones from its end; "all" (up to
            2,048 tokens: the result is T x T); None: the last token of each sequence. Of an encoder-decoder, the decoder's.
        residual: False: Abar = F, without the token itself (rows divided by their sums). Not for encoder-decoders.
        fusion: "max": F is the maximum over heads.
        normalize: False: Abar = 0.5 F + 0.5 I even where rows of F sum to less than 1, as with sink logits: what is missing
            in the weights' sum went to the sinks.
        heads: F over these heads alone, such as ["L2H5", (3, 1)]. A layer without any is passed by: Abar = I.
        layers: go through these layers alone; the others are passed by.
        every_level: keep the weights on every layer's inputs too, O(layers x T) for each output.
        beyond_context: allow inputs longer than the model's context, where its positions are relative.

    Raises:
        InputError: arguments that do not fit; a model whose tokens are not one row through its layers, or of which some layers
            move information in another way than attention (name the others with ``layers``).
    """
    rule = Rule(residual, fusion, normalize)
    found, wanted = mixing(
        model, inputs, rule, layers=layers, heads=heads, positions=positions, beyond_context=beyond_context
    )
    levels = (*(str(step.layer) for step in reversed(found.steps)), "output")
    weights = _swept(found, wanted, every_level=every_level)
    return Rollout(
        settings=settings_of(
            model,
            method=_formula(rule),
            source=SOURCE,
            constants=constants_of(found, rule) | {"every_level": every_level},
            inputs=inputs_of(found.batch),
        ),
        weights=weights,
        levels=levels if every_level else levels[:1],
        sequence=np.array([number for number, _ in wanted]),
        position=np.array([position for _, position in wanted]),
        tokens=tuple(found.tokens(number) for number in range(found.sequences)),
        encoder_tokens=found.encoder_tokens,
        is_causal=found.looks_back,
    )


def constants_of(found: Mixing, rule: Rule) -> dict[str, Any]:
    """What a result depends on beside its input."""
    return {
        "residual": rule.residual,
        "fusion": rule.fusion,
        "normalize": rule.normalize,
        "heads": {str(step.layer): list(step.heads) for step in reversed(found.steps)},
    }


def _formula(rule: Rule) -> str:
    share = {
        (True, True): "Abar = (F + I) / row sums",
        (True, False): "Abar = 0.5 F + 0.5 I",
        (False, True): "Abar = F / row sums",
        (False, False): "Abar = F",
    }[rule.residual, rule.normalize]
    return f"{share}, F = {rule.fusion} over heads of P; R_0 = Abar_0, R_l = Abar_l R_(l-1)"


def _swept(found: Mixing, wanted: Sequence[tuple[int, int]], *, every_level: bool) -> np.ndarray:
    """The weights [N, levels, T], in blocks of outputs."""
    count = len(found.steps) + 1 if every_level else 1
    longest = max(len(found.tokens(number)) for number in range(found.sequences))
    dtype = found.steps[0].lazy.lse.dtype
    weights = np.full((len(wanted), count, longest), np.nan, dtype=np.float64 if dtype == torch.float64 else np.float32)
    for block in _blocks(found, wanted):
        columns = max(column for _, column, _ in block) + 1
        r = {
            name: torch.zeros(found.sequences, width, columns, dtype=dtype, device=found.steps[0].lazy.lse.device)
            for name, width in found.widths.items()
        }
        for number, column, n in block:
            at = found.sides[found.output].columns[number][wanted[n][1]]
            r[found.output][number, at, column] = 1.0
        for level in range(len(found.steps), -1, -1):
            if level < len(found.steps):
                step = found.steps[len(found.steps) - 1 - level]
                moved, stays = step.pull(r[step.queries])
                r[step.queries] = stays
                r[step.keys] = r[step.keys] + moved
            if every_level or level == 0:
                for number, column, n in block:
                    own = found.joined(number, {name: of[number, :, column] for name, of in r.items()})
                    weights[n, level, : own.numel()] = own.cpu().numpy()
    return weights


def _blocks(found: Mixing, wanted: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Outputs that are swept together: (sequence, column, which output). Outputs of different sequences share columns."""
    heads = max(step.lazy.shape[1] for step in found.steps)
    size = max(1, COLUMN_CELLS // (found.sequences * heads * max(found.widths.values())))
    of_sequences: list[list[int]] = [[] for _ in range(found.sequences)]
    for n, (number, _) in enumerate(wanted):
        of_sequences[number].append(n)
    most = max(map(len, of_sequences))
    for start in range(0, most, size):
        yield [
            (number, column, n)
            for number, outputs in enumerate(of_sequences)
            for column, n in enumerate(outputs[start : start + size])
        ]
