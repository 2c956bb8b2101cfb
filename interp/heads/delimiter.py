"""Delimiter heads: attention on punctuation and on the special tokens that separate or end what is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.errors import InputError
from interp.heads.chance import uniform_stats
from interp.heads.detector import RunDetector, Scored, Setting
from interp.heads.texts import batches_of, single_stack
from interp.heads.token_classes import is_punctuation, is_special, members
from interp.inputs.batch import Batch
from interp.progress import Bar
from interp_kernels import KeyMass

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class Delimiter(RunDetector):
    """On a text: mean of sum_j A[i, j] [token_j is a delimiter] over the queries i that see one, in [0, 1].

    Delimiters are tokens of punctuation alone (Unicode's categories P), and special tokens that do not stand in front of the
    text: [SEP] and the like. What stands in front (BOS, [CLS]) is left out, as heads that rest there rest on the place
    (``first_token_sink``). So are line breaks. Classes of your own: ``interp.heads.surface`` and ``Pattern(keys=...)``.

    A window without a delimiter has no score; a text without any is refused.

    Source: Clark et al., What Does BERT Look At? (arXiv 1906.04341), section 3.2, on attention to [SEP], full stops and commas.
    Theirs are means over all tokens as queries; in a decoder those before the first delimiter cannot look at one.
    """

    name: str = "delimiter"
    definition: str = (
        "on a text: attention on punctuation and separators, not on special tokens in front of the text; mean over the queries "
        "that see one"
    )
    source: str = "Clark et al., arXiv 1906.04341, section 3.2"
    threshold: float = 0.5
    threshold_source: str = (
        "ours, after Clark et al., arXiv 1906.04341: over half of the attention of BERT's layers 6 to 10 is on [SEP]"
    )
    needs_text: bool = True
    is_causal: bool = False

    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        assert setting.text is not None
        layers = single_stack(model, self.name)
        batches = list(batches_of(model, setting.text, setting.window, beyond_context=setting.beyond_context))
        marked = [delimiters(model, batch) for batch in batches]
        having = sum(int(marks.any(dim=1).sum()) for marks in marked)
        if not having:
            raise InputError(
                f"{self.name}: the text holds no punctuation and no separator, so no score is defined; give a longer text"
            )
        scores, chance = [], []
        runs = zip(batches, marked, strict=True)
        for batch, marks in Bar(
            runs, total=len(batches), unit="run", what=f"{self.name} {model.name}", show=setting.progress
        ):
            found, uniform = _masses(model, batch, marks, layers, setting.beyond_context)
            scores.append(found)
            chance.append(uniform)
        share = float(torch.cat([marks.flatten() for marks in marked]).double().mean())
        count = sum(len(marks) for marks in marked)
        described = (
            f"{count} windows of the text, {batches[0].tokens} positions each, {having} with a delimiter; {share:.1%} of the "
            "tokens are delimiters"
        )
        return Scored(torch.cat(scores), torch.cat(chance), described)


def delimiters(model: HookedModel, batch: Batch) -> Tensor:
    """Which tokens are punctuation, or special and behind the first token of the text; bool [B, T], False at padding."""
    special = members(model, batch, is_special)
    of_text = ~special if batch.keep is None else batch.keep.bool() & ~special
    return members(model, batch, is_punctuation) | (special & (of_text.cumsum(dim=1) > 0))


def _masses(
    model: HookedModel, batch: Batch, marks: Tensor, layers: Sequence[int], beyond_context: bool
) -> tuple[Tensor, Tensor]:
    """Scores [B, L, H], and those of uniform attention [B, L]; float64, NaN where no query sees a marked key."""
    assert batch.ids is not None
    weights = marks.float()[..., None]
    capture = model.capture(
        batch, [KeyMass(weights, name="mass", reduce="mean")], layers, beyond_context=beyond_context
    )
    masks = [capture.masks[layer] for layer in capture.layers]
    by_query = torch.stack(
        [stats["mass"][:, 0, :, 0] for stats in uniform_stats([KeyMass(weights, name="mass")], masks, batch.ids)], dim=1
    )  # [B, L, T] of uniform attention, above 0 where the query sees a marked key
    seeing = (by_query > 0).double().mean(dim=-1).cpu()
    # Queries that see none have no mass on them, so that the mean over all is brought to the others.
    mass = capture.stacked("mass")[..., 0].movedim(0, 1).double()
    return mass / seeing[..., None], by_query.double().mean(dim=-1).cpu() / seeing
