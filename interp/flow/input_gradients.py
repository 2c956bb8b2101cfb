"""Input gradients: how an explained number F changes with each token's input embedding, to first order.

With x_j the embedding of token j and g_j = dF/dx_j,

    gradient norm         ||g_j||, at least 0: how much F could change
    gradient x input      g_j . x_j, signed: the change of F from x_j = 0, if F were linear in x_j

Simonyan et al., "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps" (arXiv
1312.6034), for the gradient; Abnar and Zuidema, "Quantifying Attention Flow in Transformers" (arXiv 2005.00928), compare
attention with both. Their code sums g_j over the embedding's axes where we take the norm: a sum can cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from interp.captures.gradients import gradients
from interp.errors import InputError
from interp.flow.target import Target, explained, is_encoder_decoder, token_name, tokens_out, tokens_read
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of
from interp_kernels.integers import whole

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from interp.flow.target import Tokens
    from interp.inputs.batch import Batch
    from interp.inputs.convert import Inputs
    from interp.models.hooked import HookedModel

SOURCE = "Simonyan et al., arXiv 1312.6034; Abnar and Zuidema, arXiv 2005.00928"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InputGradients(Result):
    """Input gradients of each token; NaN beyond the end of a sequence.

    tokens   of each sequence, what was read
    norm     [B, T], ||g||, at least 0
    product  [B, T], g . x, in units of F; signed
    decoder_tokens, decoder_norm, decoder_product  the same of what an encoder-decoder's decoder reads; () and None without
    targets  of each sequence the token or class that was explained; () of a function
    scores   F of each sequence; of a function its value
    """

    kind: ClassVar[str] = "input_gradients"

    tokens: tuple[tuple[str, ...], ...]
    norm: np.ndarray
    product: np.ndarray
    decoder_tokens: tuple[tuple[str, ...], ...]
    decoder_norm: np.ndarray | None
    decoder_product: np.ndarray | None
    targets: tuple[str, ...]
    scores: tuple[float, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row a token: sequence, side ("read" or "decoder"), position, token, norm and product."""
        import pandas as pd

        sides = {"read": (self.tokens, self.norm, self.product)}
        if self.decoder_norm is not None and self.decoder_product is not None:
            sides["decoder"] = (self.decoder_tokens, self.decoder_norm, self.decoder_product)
        parts = [
            pd.DataFrame(
                {
                    "sequence": b,
                    "side": side,
                    "position": np.arange(len(row)),
                    "token": row,
                    "norm": norm[b, : len(row)],
                    "product": product[b, : len(row)],
                }
            )
            for side, (tokens, norm, product) in sides.items()
            for b, row in enumerate(tokens)
        ]
        return pd.concat(parts, ignore_index=True)

    def plot(self, sequence: int = 0, value: Literal["norm", "product"] = "norm") -> go.Figure:
        """The tokens of one sequence, each with its number; see ``interp.plots.token_strip``."""
        from interp.plots.token_strip import Strip, token_strip

        if value not in ("norm", "product"):
            raise InputError(f"value: expected 'norm' or 'product', got {value!r}")
        if whole(sequence) is None or not 0 <= sequence < len(self.tokens):
            raise InputError(f"sequence: there are {len(self.tokens)}, counted from 0; got {sequence!r}")
        name = "gradient norm" if value == "norm" else "gradient x input"
        read = self.norm if value == "norm" else self.product
        strips = [Strip(self.tokens[sequence], read[sequence, : len(self.tokens[sequence])], name)]
        own = self.decoder_norm if value == "norm" else self.decoder_product
        if own is not None:
            tokens = self.decoder_tokens[sequence]
            strips.append(Strip(tokens, own[sequence, : len(tokens)], f"{name}, decoder"))
        return token_strip(strips)

    def summary(self) -> str:
        """The three tokens of the first sequence with the largest gradient."""
        norm = self.norm[0, : len(self.tokens[0])]
        named = ", ".join(f"{self.tokens[0][i]!r} at {i} ({norm[i]:.3g})" for i in np.argsort(-norm, kind="stable")[:3])
        what = f"target {self.targets[0]!r}; " if self.targets else ""
        return f"{what}largest gradient norm: {named}"


def input_gradients(
    model: HookedModel,
    inputs: Inputs | Batch,
    target: Target = None,
    *,
    at: int | Sequence[int] | None = None,
    measure: Literal["logit", "probability"] = "logit",
    logits: bool = True,
    beyond_context: bool = False,
) -> InputGradients:
    """Norm of the gradient of F and gradient times input, for every input token; one run forward and back, O(T) memory.

    Args:
        target, at, logits, beyond_context: as for ``interp.flow.relevance``.
        measure: F is the target's logit, or its probability.

    Raises:
        InputError: inputs or target that do not fit; a model that embeds no tokens (pixels, sound).
        RunError: NaN or infinity in the run or in a gradient.
    """
    if not logits and not callable(target):
        raise InputError("target: without logits, give a function of the last hidden state that gives one number")
    batch = model.checked(inputs, beyond_context=beyond_context)
    if batch.ids is None:
        raise InputError(f"inputs: {model.name} is given no token ids here, and input gradients are those of tokens")
    objective = explained(model, batch, target, at, measure)
    read, out = tokens_read(model, batch), tokens_out(model, batch)
    run = gradients(model, batch, objective, [], logits=logits, beyond_context=beyond_context)
    sides = 2 if is_encoder_decoder(model) else 1
    if len(run.embeddings) != sides:
        raise InputError(
            f"inputs: {model.name} embedded its input {len(run.embeddings)} times, expected {sides}: which of them are the "
            "tokens' cannot be told"
        )
    norm, product = _numbers(*run.embeddings[0], read)
    of_decoder = (None, None) if sides == 1 else _numbers(*run.embeddings[1], out)
    settings = settings_of(
        model,
        method="||dF/dx_j||, and dF/dx_j . x_j, x_j the input embedding of token j",
        source=SOURCE,
        constants={
            "target": "a function" if objective.own is not None else list(objective.chosen),
            "at": at,
            "measure": measure,
            "logits": logits,
        },
        inputs=inputs_of(batch),
    )
    return InputGradients(
        settings=settings,
        tokens=read.strings,
        norm=norm,
        product=product,
        decoder_tokens=out.strings if sides == 2 else (),
        decoder_norm=of_decoder[0],
        decoder_product=of_decoder[1],
        targets=tuple(token_name(model, i) for i in objective.chosen),
        scores=objective.values,
    )


def _numbers(x: Tensor, gradient: Tensor, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Norm and product of each token, [B, T of the longest] without padding; summed in float64."""
    x, gradient = x.double().cpu(), gradient.double().cpu()
    return _packed(torch.linalg.vector_norm(gradient, dim=-1), tokens), _packed((gradient * x).sum(dim=-1), tokens)


def _packed(values: Tensor, tokens: Tokens) -> np.ndarray:
    """Of each sequence those of its tokens, then NaN."""
    assert tokens.columns is not None
    packed = np.full((len(tokens.columns), max(map(len, tokens.columns))), np.nan)
    for number, columns in enumerate(tokens.columns):
        packed[number, : len(columns)] = values[number, columns].numpy()
    return packed
