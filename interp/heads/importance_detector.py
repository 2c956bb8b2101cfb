"""Importance as a detector: heads on which the loss hangs more than on all the others of their layer together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.errors import InputError
from interp.heads.detector import RunDetector, Scored, Setting
from interp.heads.texts import single_stack

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class ImportanceDetector(RunDetector):
    """I_h / sqrt(sum_g I_g^2), g over the heads of h's layer and I_h = mean over tokens of |z_h . dL/dz_h|, in [0, 1].

    As ``interp.causal.importance(..., normalize=True)``; L is the loss on the text, and a sample a window of it. The score of a
    sample is its own I_h over the norm of the layer's means, so that samples may be above 1 and their mean is the score. The
    text is cut into windows of one length, and a shorter last one does not count. A layer without importance has scores of 0; a
    head that is alone in its layer has 1 and says nothing. Layers are made equal: of a layer that does not matter one head may
    still be above the threshold.

    Importance is not of attention: there is no chance level.

    Source: Michel, Levy and Neubig, Are Sixteen Heads Really Better than One? (arXiv 1905.10650), with the norm by layer that
    they take from Molchanov et al.; they rank heads by it and know no threshold.
    """

    name: str = "importance"
    definition: str = (
        "on a text: I_h = mean over tokens of abs(z . dL/dz), z the head's output and L the loss, over the L2 norm of its "
        "layer's"
    )
    source: str = "Michel, Levy and Neubig, arXiv 1905.10650"
    threshold: float = 0.5**0.5
    threshold_source: str = "ours, no source gives one: the head outweighs the rest of its layer together, in squares"
    needs_text: bool = True
    is_causal: bool = False

    def unfit(self, model: HookedModel) -> str | None:
        from interp.causal.loss import check_predicts

        try:
            check_predicts(model)
        except InputError:
            return f"{model.name} has no loss on the next token; call interp.causal.importance with an objective of your own"
        return None

    def measure(self, model: HookedModel, setting: Setting) -> Scored:
        from interp.causal.importance import importance, layer_lengths

        assert setting.text is not None
        inputs = setting.text
        if setting.window is not None:
            inputs = model.windows(setting.text, setting.window, beyond_context=setting.beyond_context)
        found = importance(model, inputs, beyond_context=setting.beyond_context, progress=setting.progress)
        layers = single_stack(model, self.name)
        # Of one stack each head has as many tokens.
        tokens = found.tokens[:, 0]
        values = found.values[tokens == tokens.max()]
        of_head = found.table["layer"].tolist()
        values = values / layer_lengths(of_head, values.mean(axis=0))
        heads = found.table["head"].to_numpy()
        scores = np.full((len(values), len(layers), int(heads.max()) + 1), np.nan)
        scores[:, [layers.index(layer) for layer in of_head], heads] = values
        described = f"{len(values)} windows of the text, {int(tokens.max())} positions each"
        chance = torch.full(scores.shape[:2], torch.nan, dtype=torch.float64)
        return Scored(torch.from_numpy(scores), chance, described)
