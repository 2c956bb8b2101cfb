"""How much a loss hangs on each head, by gradient: the first-order effect of turning it down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.captures.gradients import Gradients, gradients
from interp.causal.loss import check_length, check_predicts, losses_of
from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.inputs.convert import Inputs
from interp.inputs.windows import Windows
from interp.models.layers import LayerKey
from interp.naming import head_name
from interp.progress import Bar
from interp.results.means import give_or_take
from interp.results.result import Result
from interp.results.settings import inputs_of, settings_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from interp.models.hooked import HookedModel

Form = Literal["token", "sequence"]
PerSequence = Callable[[Tensor], Tensor]
"""From the logits [B, T, vocabulary] to a number for each sequence, [B]."""

FORMS: Mapping[Form, str] = {
    "token": "I_h = mean over all tokens of |z_h . dL/dz_h|",
    "sequence": "I_h = mean over sequences of |mean over their tokens of z_h . dL/dz_h|",
}
SOURCE = "Michel, Levy and Neubig, Are Sixteen Heads Really Better than One?, arXiv 1905.10650"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Importance(Result):
    """What ``importance`` found.

    form        "token" or "sequence"
    normalize   whether each layer's importances have an L2 norm of 1
    objective   what L is, by name
    table       a row a head: layer, head, name, importance, stderr (over sequences; NaN of a single one)
    values      of each sequence by itself and before normalisation, [sequences, heads]
    tokens      that it is the mean of, [sequences, heads] (of an encoder-decoder they differ by stack)
    objectives  L of each sequence, [sequences]
    """

    kind: ClassVar[str] = "importance"

    form: str
    normalize: bool
    objective: str
    table: pd.DataFrame
    values: np.ndarray
    tokens: np.ndarray
    objectives: np.ndarray

    def ranking(self) -> list[str]:
        """Names of the heads, least important first; equal ones in the model's order."""
        return list(self.table.sort_values("importance", kind="stable")["name"])

    def to_frame(self) -> pd.DataFrame:
        """One row a head: its importance, standard error, and rank (1: the most important)."""
        frame = self.table.copy()
        frame["rank"] = frame["importance"].rank(ascending=False, method="first").astype("int64")
        return frame

    def plot(self) -> go.Figure:
        """Layer x head grid; see ``interp.plots.importance``."""
        from interp.plots.importance import importance_grid

        return importance_grid(self)

    def summary(self) -> str:
        ranking = self.ranking()
        shown = self.table.set_index("name")
        best, worst = (
            ", ".join(f"{n} {shown['importance'][n]:.3g}{give_or_take(shown['stderr'][n], '.2g')}" for n in names)
            for names in (ranking[:-4:-1], ranking[:3])
        )
        sequences = len(self.values)
        return (
            f"Importance of {len(ranking)} heads for {self.objective}, over {sequences} sequence{'s' if sequences > 1 else ''}.\n"
            f"Most: {best}.\nLeast: {worst}."
        )


def importance(
    model: HookedModel,
    inputs: Inputs | Batch | Windows,
    objective: Literal["loss"] | PerSequence = "loss",
    *,
    form: Form = "token",
    normalize: bool = False,
    layers: Iterable[LayerKey] | None = None,
    beyond_context: bool = False,
    progress: bool = False,
) -> Importance:
    """I_h = mean over tokens of |z_h . dL/dz_h|, z_h the head's output before the output projection. At least 0, in units of L.

    With xi_h a factor on the head's output, sum_t z_h . dL/dz_h is dL/dxi_h at xi_h = 1: how L begins to change when the head is
    turned down. The paper's equation takes the absolute value of that sum, one for each example ("sequence" here); its authors'
    code takes it token by token and divides by the tokens ("token"), where parts of opposite sign do not cancel.

    L is, with "loss", the sum of the sequence's losses in nats (``token_losses``), so that I_h is in nats per token and does not
    shrink with length. In the authors' code it is the mean over a batch, so that importances depend on the batch size.

    One forward and backward run for each batch or window, O(T) memory.

    Args:
        inputs: as for ``HookedModel.capture``, or windows of a long text (``model.windows(text, 256)``), each a sequence.
        objective: "loss", or a differentiable function of the logits [B, T, vocabulary] that gives a number for each sequence,
            [B] (of a single one also a scalar).
        form: "token" or "sequence".
        normalize: divide by the L2 norm of the layer's importances, as the paper does: layers become comparable in rank only.
        layers: as for ``HookedModel.capture``.

    Source: Michel, Levy and Neubig, Are Sixteen Heads Really Better than One? (arXiv 1905.10650): Att_h(x) there is z_h
    (projected, which is the same dot product), xi_h the mask variable.

    Raises:
        InputError: inputs, layers or options that do not fit; a model without a loss of its own; an objective that does not
            give a number for each sequence, or none that has a gradient.
        RunError: NaN or infinity.
    """
    if form not in FORMS:
        raise InputError(f"form: expected 'token' or 'sequence', got {form!r}")
    if not isinstance(normalize, bool):
        raise InputError(f"normalize: expected True or False, got {normalize!r}")
    name = _objective_name(model, objective)
    layers = tuple(layers) if isinstance(layers, Iterable) and not isinstance(layers, str) else layers
    if layers is not None and not model.wanted_layers(layers):
        raise InputError("layers: give at least one, or leave it out for all of them")
    batches = _batches(model, inputs, beyond_context)
    if objective == "loss":
        for batch in batches:
            check_length(batch)
    parts, objectives, heads = [], [], []
    for batch in Bar(batches, unit="run", what=f"importance {model.name}", show=progress):
        run, of_sequence = _differentiated(model, batch, objective, layers, beyond_context)
        parts.append(_products(run, form))
        objectives.append(of_sequence)
        heads = [(layer, head) for layer, each in run.layers.items() for head in range(each.output.shape[1])]
    values, tokens = (np.concatenate(each) for each in zip(*parts, strict=True))
    table = _table(heads, *_means(values, tokens if form == "token" else np.ones_like(tokens)), normalize=normalize)
    return Importance(
        settings=settings_of(
            model,
            method=FORMS[form] + ("; divided by the L2 norm of its layer" if normalize else ""),
            source=SOURCE,
            constants={"form": form, "normalize": normalize, "objective": name},
            inputs={"batches": [inputs_of(batch) for batch in batches]},
        ),
        form=form,
        normalize=normalize,
        objective=name,
        table=table,
        values=values,
        tokens=tokens,
        objectives=np.concatenate(objectives),
    )


def _objective_name(model: HookedModel, objective: object) -> str:
    if objective == "loss":
        check_predicts(model)
        return "the loss"
    if not callable(objective):
        raise InputError(f"objective: expected 'loss' or a function of the logits, got {objective!r:.60}")
    return getattr(objective, "__name__", type(objective).__name__).strip("<>")


def _batches(model: HookedModel, inputs: Inputs | Batch | Windows, beyond_context: bool) -> list[Batch]:
    if isinstance(inputs, Windows):
        return [window.batch for window in inputs if window.batch.tokens > 1]
    return [model.checked(inputs, beyond_context=beyond_context)]


def _differentiated(
    model: HookedModel,
    batch: Batch,
    objective: Literal["loss"] | PerSequence,
    layers: Iterable[LayerKey] | None,
    beyond_context: bool,
) -> tuple[Gradients, np.ndarray]:
    """The run, with the gradient of the objective's sum, and the objective of each sequence. Sequences do not see one another."""
    seen: list[Tensor] = []

    def total(logits: Tensor) -> Tensor:
        if isinstance(objective, str):
            values = losses_of(logits, batch).nansum(dim=1)
        else:
            values = objective(logits)
            _check(values, logits.shape[0])
        seen.append(values.detach().reshape(-1))
        return values.sum()

    run = gradients(model, batch, total, layers, beyond_context=beyond_context)
    return run, seen[0].double().cpu().numpy()


def _check(values: object, sequences: int) -> None:
    is_right = isinstance(values, Tensor) and (values.shape == (sequences,) or (sequences == 1 and values.numel() == 1))
    if not is_right:
        came = f"shape {list(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise InputError(
            f"objective: expected a number for each of the {sequences} sequences, a tensor of shape [{sequences}], got {came:.60}"
        )


def _products(run: Gradients, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Of each sequence the mean of |z . dL/dz| (or the absolute value of the mean), and over how many tokens: [B, heads] each."""
    values, tokens = [], []
    for layer, each in run.layers.items():
        wide = torch.float64 if each.output.dtype == torch.float64 else torch.float32
        product = (each.output.to(wide) * each.gradient.to(wide)).sum(dim=-1)  # [B, H, T]
        keep = run.batch.queries_kept(str(layer).rpartition(".")[0])
        kept = torch.ones_like(product[:, 0], dtype=torch.bool) if keep is None else keep.bool()
        product = product.masked_fill(~kept[:, None], 0)
        count = kept.sum(dim=-1)[:, None]
        sums = product.abs().sum(dim=-1) if form == "token" else product.sum(dim=-1).abs()
        values.append((sums / count).double().cpu())
        tokens.append(count.expand_as(sums).double().cpu())
    return torch.cat(values, dim=1).numpy(), torch.cat(tokens, dim=1).numpy()


def _means(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means over sequences, and their standard errors (of a ratio of sums; NaN of one sequence). [heads] each."""
    mean = (weights * values).sum(axis=0) / weights.sum(axis=0)
    count = len(values)
    if count == 1:
        return mean, np.full_like(mean, np.nan)
    spread = (weights**2 * (values - mean) ** 2).sum(axis=0) * count / (count - 1)
    return mean, np.sqrt(spread) / weights.sum(axis=0)


def _table(heads: list[tuple[LayerKey, int]], mean: np.ndarray, stderr: np.ndarray, *, normalize: bool) -> pd.DataFrame:
    keys = [layer for layer, _ in heads]
    # A column of a table has one type.
    are_numbers = all(isinstance(layer, int) for layer in keys)
    frame = pd.DataFrame(
        {
            "layer": keys if are_numbers else [str(layer) for layer in keys],
            "head": [head for _, head in heads],
            "name": [head_name(*head) for head in heads],
            "importance": mean,
            "stderr": stderr,
        }
    )
    if normalize:
        lengths = layer_lengths(keys, mean)
        for column in ("importance", "stderr"):
            frame[column] = frame[column] / lengths
    return frame


def layer_lengths(layers: Sequence[LayerKey], importances: np.ndarray) -> np.ndarray:
    """For each head the L2 norm of its layer's importances, [heads]; 1 where that is 0, so that they stay at 0."""
    _, place = np.unique([str(layer) for layer in layers], return_inverse=True)
    lengths = np.sqrt(np.bincount(place, weights=importances**2))
    return np.where(lengths > 0, lengths, 1.0)[place]
