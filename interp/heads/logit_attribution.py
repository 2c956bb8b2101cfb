"""Direct logit attribution: what each head adds to the logit of a token by what it writes into the residual stream.

A logit is linear in the residual stream x once the scale of the final norm is held fixed, and x is a sum of what the embedding,
every head, every MLP and the biases have written. So the logit of token t is a sum of parts; that of head h of layer l is

    z_lh W_O^lh  ->  the norms that follow, each with the scale that it has on the actual input  ->  . W_U[:, t]

RMSNorm divides by the root mean square of its actual input and multiplies by its weight; LayerNorm centres first; its bias is a
part of its own. Norms between attention and residual stream (Gemma 2), residual and logit multipliers (Granite, Cohere),
parallel blocks and gates are followed the same way; see ``interp.captures.direct``. The parts are computed each by itself and
must add up to the model's own logit within the rounding of its dtype, or the attribution is refused.

Source: Elhage et al., A Mathematical Framework for Transformer Circuits, 2021 (transformer-circuits.pub/2021/framework); their
W_U, W_O and residual stream are meant here too. TransformerLens calls it direct logit attribution
(``ActivationCache.logit_attrs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from interp.captures.direct import DirectRun, direct_run, unembedding_of
from interp.captures.direct_path import Source
from interp.edits.positions import Where
from interp.errors import InputError
from interp.heads.logit_attribution_result import LogitAttribution
from interp.heads.targets import Tokens, rows_of, target_ids
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.models.layers import LayerKey
from interp.results.settings import inputs_of, settings_of
from interp.sizes import readable

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

METHOD = "z_h W_O^h through the norms that follow, with their scales held fixed, dot the unembedding of the token"
SOURCE = (
    "Elhage et al., A Mathematical Framework for Transformer Circuits, 2021; TransformerLens, direct logit attribution"
)
ROUNDINGS = 16
"""How many roundings, relative to the sum of all parts' absolute values, their sum may be away from the logit."""
MOST_LOGITS = 2**28
"""Numbers: positions x vocabulary."""


def logit_attribution(
    model: HookedModel,
    inputs: Inputs | Batch,
    token: Tokens | None = None,
    positions: Where = -1,
    *,
    against: Tokens | None = None,
    beyond_context: bool = False,
) -> LogitAttribution:
    """What every head, MLP and bias adds to the logit of ``token`` at ``positions``; see the top of the file.

    Cost: one run and one pass back through the residual stream. Memory: that of the run, N numbers of every part's width, and the
    logits of N positions; nothing of the size of T x d_model is kept for a part.

    Args:
        inputs: as of ``HookedModel.capture``. Edits in force apply.
        token: whose logit: an id, or a text that is one token, or ids, one for each position (sequence after sequence). None:
            at each position the token with the largest logit, the model's own prediction. The logits at a position speak of the
            token that comes after it.
        positions: columns of the batch: one, several, a slice, a bool mask, or None for all. Negative ones count back from the
            last token of each sequence. Of a slice, a mask or None, padding is left out. Of an encoder-decoder they are the
            decoder's.
        against: another token, or others, whose logits are subtracted. Only differences of logits change what a model predicts.
        beyond_context: as of ``HookedModel.capture``.

    Raises:
        InputError: a token that is none, a position that is none or padding; a model without an unembedding, or whose heads do
            not reach the logits by additions, norms and linear layers alone.
        RunError: NaN or infinity in the run.
    """
    batch = model.checked(inputs, beyond_context=beyond_context)
    weight = unembedding_of(model).weight
    vocabulary = int(weight.shape[0])  # pyright: ignore[reportIndexIssue]
    is_seq2seq = "decoder_input_ids" in batch.others
    rows = rows_of("positions", batch, positions, decoder=is_seq2seq)
    count = rows[0].numel()
    if count * vocabulary > MOST_LOGITS:
        size = readable(count * vocabulary * model.dtype.itemsize)
        raise InputError(
            f"positions: the logits of {count:,} positions are {size}; choose at most {MOST_LOGITS // vocabulary:,} at a time"
        )
    targets = None if token is None else target_ids("token", model, token, count, vocabulary)
    others = None if against is None else target_ids("against", model, against, count, vocabulary)
    run = direct_run(model, batch, rows)
    scores = followed(model, run)
    chosen = scores.detach().argmax(dim=1) if targets is None else targets.to(scores.device)
    at = torch.arange(count, device=scores.device)
    logits = scores[at, chosen].double()
    if others is not None:
        logits = logits - scores[at, others.to(scores.device)].double()
    weights = gradients_of(model, run, logits.sum())
    found = _parts(model, run.sources, weights)
    ids = batch.others["decoder_input_ids"] if is_seq2seq else batch.ids
    texts = model.token_strings(ids[rows].tolist()) if ids is not None else [""] * count
    result = LogitAttribution(
        settings=settings_of(
            model,
            method=METHOD,
            source=SOURCE,
            constants={
                "token": "the largest logit" if targets is None else "given",
                "against": against is not None,
                "positions": count,
                "roundings": ROUNDINGS,
                "logits": "before the soft cap" if run.is_capped else "the model's own",
            },
            inputs=inputs_of(batch),
        ),
        heads=found.heads,
        others=found.others,
        layers=found.layers,
        parts=found.names,
        logits=_array(logits),
        rounding=found.size * ROUNDINGS * _epsilon(model),
        sequence=rows[0].cpu().numpy(),
        position=rows[1].cpu().numpy(),
        target=chosen.cpu().numpy(),
        against=np.full(count, -1) if others is None else others.cpu().numpy(),
        tokens=tuple(texts),
        targets=tuple(_strings(model, chosen)),
        againsts=("",) * count if others is None else tuple(_strings(model, others)),
        is_capped=run.is_capped,
    )
    _check_complete(model, result)
    return result


def followed(model: HookedModel, run: DirectRun) -> Tensor:
    """The logits [N, vocabulary] that the direct path leads to: the model's own, or those before its soft cap.

    Raises:
        InputError: the path does not lead there.
    """
    if not run.raw.requires_grad:
        raise _refusal(
            model, "between its last layer and its unembedding stands something that is not linear (a layer of its own)"
        )
    if not run.is_capped:
        return run.logits
    order = run.raw.detach().argsort(dim=1)
    if bool((run.logits.detach().gather(1, order).diff(dim=1) < 0).any()):
        raise _refusal(model, "what it makes of its unembedding's output does not keep the order of the logits")
    return run.raw


def gradients_of(model: HookedModel, run: DirectRun, value: Tensor, *, again: bool = False) -> list[Tensor | None]:
    """d value / d source along the direct path; None for what is not on it.

    Raises:
        InputError: a layer's heads are not on it.
    """
    weights = torch.autograd.grad(value, [s.value for s in run.sources], allow_unused=True, create_graph=again)
    for source, weight in zip(run.sources, weights, strict=True):
        if source.kind == "heads" and weight is None:
            raise _refusal(
                model,
                f"the heads of layer {source.layer} do not go through a linear projection into the residual stream",
            )
    return list(weights)


@dataclass(frozen=True, eq=False)
class _Parts:
    heads: np.ndarray  # [N, L, H]
    layers: tuple[LayerKey, ...]
    others: np.ndarray  # [N, M]
    names: tuple[str, ...]
    size: np.ndarray  # [N], the sum of the absolute values of all products that the parts are sums of


def _parts(model: HookedModel, sources: Sequence[Source], weights: Sequence[Tensor | None]) -> _Parts:
    """Each part: the sum over its numbers of number times weight, in float64."""
    heads: dict[LayerKey, np.ndarray] = {}
    others: dict[str, np.ndarray] = {}
    size: np.ndarray | float = 0.0
    for source, weight in zip(sources, weights, strict=True):
        if weight is None:
            continue
        products = source.value.detach().double() * weight.double()
        size = size + _array(products.abs().flatten(1).sum(dim=1))
        if source.kind == "heads":
            assert source.layer is not None
            heads[source.layer] = _array(products.sum(dim=2))
        else:
            name = source.kind if source.layer is None else f"{source.kind} {source.layer}"
            others[name] = others.get(name, 0.0) + _array(products.flatten(1).sum(dim=1))
    layers = tuple(layer for layer in model.layers if layer in heads)
    widest = max(heads[layer].shape[1] for layer in layers)
    padded = [
        np.pad(heads[layer], ((0, 0), (0, widest - heads[layer].shape[1])), constant_values=np.nan) for layer in layers
    ]
    return _Parts(
        np.stack(padded, axis=1), layers, np.stack(list(others.values()), axis=1), tuple(others), np.asarray(size)
    )


def _check_complete(model: HookedModel, result: LogitAttribution) -> None:
    away = np.abs(result.remainder)
    if bool((away > result.rounding).any()):
        worst = int((away - result.rounding).argmax())
        raise _refusal(
            model,
            f"the parts that were followed add up to {result.logits[worst] - result.remainder[worst]:.6g} and the logit is "
            f"{result.logits[worst]:.6g}: something on the way is neither a sum, a norm nor a linear layer",
        )


def _refusal(model: HookedModel, why: str) -> InputError:
    return InputError(
        f"{model.name} ({type(model.model).__name__}): what its heads write cannot be told in its logits, for {why}. The "
        "effect of ablating a head (interp.edits.ablate) can be measured on any model"
    )


def _epsilon(model: HookedModel) -> float:
    """Of the model's dtype, at least that of float32, which norms are computed in whatever the dtype."""
    return max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)


def _strings(model: HookedModel, ids: Tensor) -> list[str]:
    """The text of each token by itself."""
    known = {i: model.token_strings([i])[0] for i in set(ids.tolist())}
    return [known[i] for i in ids.tolist()]


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()
