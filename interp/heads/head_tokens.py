"""Which tokens a head promotes and suppresses at one position, by what it writes there.

The effect on every logit is that of ``logit_attribution`` for that token: z_h W_O^h through the norms that follow with their
scales held fixed, times the unembedding. As a softmax is the same after a number is added to all logits, effects are also given
above their mean over the vocabulary.

Source: the logit lens of single heads, as direct logit attribution in Elhage et al., A Mathematical Framework for Transformer
Circuits, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd
import torch

from interp.captures.direct import direct_run
from interp.errors import InputError
from interp.heads.logit_attribution import followed, gradients_of
from interp.heads.targets import rows_of
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.heads import HeadSpec, head_counts, parse_head
from interp.naming import head_name
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadTokens(Result):
    """The tokens that one head moves most at one position.

    head      such as "L5H1"
    position  column of the input
    token     the text of the token there
    table     sign ("promoted", "suppressed"), rank from 0, id, token, attribution (what the head adds to its logit), above_mean
              (the same less its mean over the vocabulary)
    is_capped the logits are those before the model's soft cap
    """

    kind: ClassVar[str] = "head_tokens"

    head: str
    position: int
    token: str
    table: pd.DataFrame
    is_capped: bool

    def to_frame(self) -> pd.DataFrame:
        return self.table.copy()

    def plot(self) -> go.Figure:
        """Bars of the tokens, the most promoted at the top."""
        from interp.plots.attribution import token_bars

        return token_bars(self)

    def summary(self) -> str:
        lines = [f"{self.head} at position {self.position} ({self.token!r})"]
        for sign, rows in self.table.groupby("sign", sort=False):
            listed = ", ".join(f"{t!r} {x:+.2f}" for t, x in zip(rows["token"], rows["above_mean"], strict=True))
            lines.append(f"{sign}: {listed}")
        return "\n".join(lines)


def head_tokens(
    model: HookedModel,
    inputs: Inputs | Batch,
    head: HeadSpec,
    position: int = -1,
    k: int = 10,
    *,
    beyond_context: bool = False,
) -> HeadTokens:
    """The ``k`` tokens whose logits ``head`` raises most at ``position``, and the k that it lowers most; see the top of the file.

    Cost: a run, and two passes back through the residual stream.

    Args:
        inputs: one sequence. Edits in force apply.
        head: such as "L5H1".
        position: a column of the input; a negative one counts back from its last token.

    Raises:
        InputError: as of ``logit_attribution``; a head that does not exist or writes into no logits; several sequences; k below
            1.
    """
    layer, number = parse_head(head, head_counts(model.host.layers))
    batch = model.checked(inputs, beyond_context=beyond_context)
    if type(position) is not int:
        raise InputError(f"position: expected a whole number, got {position!r:.60}")
    if type(k) is not int or not 1 <= k <= model.shape.vocabulary:
        raise InputError(f"k: expected a whole number from 1 to {model.shape.vocabulary}, got {k!r}")
    is_seq2seq = "decoder_input_ids" in batch.others
    rows = rows_of("position", batch, position, decoder=is_seq2seq)
    if rows[0].numel() != 1:
        raise InputError(f"inputs: expected one sequence, got {rows[0].numel()}; take them one after another")
    run = direct_run(model, batch, rows)
    scores = followed(model, run)
    # The weights of z are linear in the weights w of the logits; so d (z . weights) / dw is what z does to each logit.
    w = torch.zeros_like(scores, requires_grad=True)
    weights = gradients_of(model, run, (scores * w).sum(), again=True)
    found = [(s, g) for s, g in zip(run.sources, weights, strict=True) if s.kind == "heads" and s.layer == layer]
    if not found:
        raise InputError(
            f"head {head!r}: layer {layer!r} does not write into the residual stream that logits are read from"
        )
    source, weight = found[0]
    assert weight is not None
    if number >= source.value.shape[1]:
        raise InputError(f"head {head!r} does not exist: layer {layer!r} has {source.value.shape[1]} query heads")
    part = (source.value[0, number].detach() * weight[0, number]).sum()
    effects = torch.autograd.grad(part, w)[0][0].double().cpu()
    ids = batch.others["decoder_input_ids"] if is_seq2seq else batch.ids
    return HeadTokens(
        settings=settings_of(
            model,
            method="z_h W_O^h through the norms that follow, with their scales held fixed, times the unembedding",
            source="Elhage et al., A Mathematical Framework for Transformer Circuits, 2021",
            constants={"head": head_name(layer, number), "position": int(rows[1]), "k": k},
            inputs=inputs_of(batch),
        ),
        head=head_name(layer, number),
        position=int(rows[1]),
        token=model.token_strings([int(ids[rows])])[0] if ids is not None else "",
        table=_table(model, effects, k),
        is_capped=run.is_capped,
    )


def _table(model: HookedModel, effects: torch.Tensor, k: int) -> pd.DataFrame:
    order = effects.argsort(stable=True)
    parts = []
    for sign, ids in (("promoted", order.flip(0)[:k]), ("suppressed", order[:k])):
        parts.append(
            pd.DataFrame(
                {
                    "sign": sign,
                    "rank": range(k),
                    "id": ids.numpy(),
                    "token": [model.token_strings([i])[0] for i in ids.tolist()],
                    "attribution": effects[ids].numpy(),
                    "above_mean": (effects[ids] - effects.mean()).numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)
