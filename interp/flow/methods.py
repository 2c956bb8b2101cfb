"""Methods that give each input token a number, by name: what ``faithfulness`` compares. A new one is a line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import InputError
from interp.flow.attention_flow import attention_flow
from interp.flow.input_gradients import InputGradients, input_gradients
from interp.flow.norm_attention import norm_attention
from interp.flow.relevance import relevance
from interp.flow.rollout import rollout
from interp.flow.routes import routes
from interp.naming import nearest

if TYPE_CHECKING:
    from interp.flow.target import Measure, Target
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel


@dataclass(frozen=True, eq=False)
class Example:
    """One sequence and what is explained of it.

    batch     one sequence without padding
    position  the output that the explained number belongs to, a column of the batch
    target, at, measure  the number itself, as for ``interp.flow.input_gradients``
    beyond_context  whether the sequence may be longer than the model's context
    """

    model: HookedModel
    batch: Batch
    position: int
    target: Target
    at: int | None
    measure: Measure
    beyond_context: bool = False

    @cached_property
    def gradients(self) -> InputGradients:
        """Input gradients of the number that is explained, computed once."""
        return input_gradients(
            self.model,
            self.batch,
            self.target,
            at=self.at,
            measure=self.measure,
            beyond_context=self.beyond_context,
        )


Scores = Callable[[Example], Any]
"""A number for each token of the example, [T]."""


@dataclass(frozen=True)
class Method:
    """How tokens are scored, where that comes from, and whether a score's sign means for or against the target."""

    scores: Scores
    source: str
    is_signed: bool = False


def attention_scores(example: Example) -> np.ndarray:
    """Row of the last layer's map, mean over heads: sum_h P_h[position, :] / H."""
    last = [layer for layer in example.model.layers if isinstance(layer, int)][-1]
    lazy = example.model.maps(example.batch, [last], beyond_context=example.beyond_context)[last]
    return lazy.rows([example.position])[0, :, 0].double().mean(dim=0).cpu().numpy()


def norm_attention_scores(example: Example) -> np.ndarray:
    """Row of the last layer's norm-based attention, ||sum_h P_h[position, :] f_h||."""
    last = [layer for layer in example.model.layers if isinstance(layer, int)][-1]
    try:
        found = norm_attention(example.model, example.batch, example.position, layers=[last], beyond_context=True)
    except InputError as error:
        raise InputError(f"method 'norm_attention': {error}; or name the others, without it, with methods=") from None
    return found.row()[1]


def relevance_scores(example: Example) -> np.ndarray:
    """Row of R, with the logit as the number that is explained."""
    return relevance(
        example.model,
        example.batch,
        example.target,
        [example.position],
        at=example.at,
        beyond_context=example.beyond_context,
    ).row()


def gradient_norm_scores(example: Example) -> np.ndarray:
    """||dF/dx_j||."""
    return example.gradients.norm[0]


def gradient_x_input_scores(example: Example) -> np.ndarray:
    """dF/dx_j . x_j."""
    return example.gradients.product[0]


def rollout_scores(example: Example) -> np.ndarray:
    """Row of the rollout of all layers, with the residual connection."""
    return rollout(example.model, example.batch, [example.position], beyond_context=example.beyond_context).of()


def attention_flow_scores(example: Example) -> np.ndarray:
    """Maximum flow from the output to each token."""
    found = attention_flow(example.model, example.batch, [example.position], beyond_context=example.beyond_context)
    return found.flow[0]


def routes_scores(example: Example) -> np.ndarray:
    """Flow of each token at the input of the routes that end at the output; 0 where none leads."""
    try:
        found = routes(example.model, example.batch, example.position, beyond_context=example.beyond_context)
    except InputError as error:
        raise InputError(f"method 'routes': {error}; or name the others, without it, with methods=") from None
    scores = np.zeros(example.batch.tokens)
    reached = found.inputs()
    scores[reached["position"].to_numpy()] = reached["flow"].to_numpy()
    return scores


METHODS: dict[str, Method] = {
    "attention": Method(attention_scores, "last layer, mean over heads; the baseline of arXiv 2005.00928"),
    "norm_attention": Method(norm_attention_scores, "last layer; Kobayashi et al., arXiv 2004.10102"),
    "rollout": Method(rollout_scores, "Abnar and Zuidema, arXiv 2005.00928"),
    "attention_flow": Method(attention_flow_scores, "Abnar and Zuidema, arXiv 2005.00928"),
    "routes": Method(routes_scores, "Ferrando and Voita, arXiv 2403.00824"),
    "relevance": Method(relevance_scores, "Chefer et al., arXiv 2103.15679"),
    "gradient_norm": Method(gradient_norm_scores, "Simonyan et al., arXiv 1312.6034"),
    "gradient_x_input": Method(gradient_x_input_scores, "as in arXiv 2005.00928", is_signed=True),
}

ABLATION = "ablation"
GRADIENTS = ("gradient_norm", "gradient_x_input")
RESERVED = (ABLATION, *GRADIENTS)
"""What methods are compared with."""

Methods = str | Iterable[str] | Mapping[str, Scores | Method] | None
"""Names of ``METHODS``, or methods of one's own by name; None: all of ``METHODS``."""


def chosen_methods(given: Methods) -> dict[str, Method]:
    """The methods that are named or given.

    Raises:
        InputError: an unknown name, with the nearest one; none at all; something that cannot be called.
    """
    if given is None:
        return dict(METHODS)
    if isinstance(given, Mapping):
        found = {str(name): each if isinstance(each, Method) else Method(each, "given") for name, each in given.items()}
        bad = next((name for name, each in found.items() if not callable(each.scores)), None)
        taken = next((name for name in RESERVED if name in found and found[name] is not METHODS.get(name)), None)
        if taken is not None:
            raise InputError(f"methods: {taken!r} is the name of what methods are compared with; give yours another")
        if bad is not None:
            raise InputError(f"methods[{bad!r}]: expected a function of an Example that gives a number a token")
    else:
        names = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
        if not all(isinstance(name, str) for name in names):
            raise InputError(
                f"methods: expected names ({', '.join(METHODS)}), or functions by name such as {{'mine': function}}, got "
                f"{given!r:.60}"
            )
        unknown = next((name for name in names if name not in METHODS), None)
        if unknown is not None:
            raise InputError(f"methods: unknown method {unknown!r}; {nearest(str(unknown), METHODS)}")
        found = {name: METHODS[name] for name in names}
    if not found:
        raise InputError("methods: give at least one, or None for all of them")
    return found
