"""What the head does: what changes when it is ablated, and what it writes. Both change or differentiate the model, on request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dash_mantine_components as dmc

from interp.errors import InputError
from interp.naming import head_name
from interp_app.panel import Panel
from interp_app.python import call, options
from interp_app.view import View
from interp_app.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from interp.causal.verification import Verification
    from interp.heads.head_tokens import HeadTokens
    from interp.heads.logit_attribution import LogitAttribution

ON_MODEL = ("model", "head", "detector")
ON_TEXT = ("model", "text", "beyond", "head", "detector")
AT_TOKEN = (*ON_TEXT, "lock")
CONTROLS, SAMPLES = 10, 4
"""Control sets at most, and samples of repeated random tokens: the demo model takes seconds."""
LONGEST = 16_384
"""Tokens of a text that attribution runs on: it keeps the activations of all of them."""


def verified_on_random(workspace: Workspace, view: View) -> Any:
    """The head and others ablated, on the loss on repeated random tokens."""
    return _shown(_on_random(workspace, view))


def verified_on_text(workspace: Workspace, view: View) -> Any:
    """The head and others ablated, on the loss on the text."""
    return _shown(_on_text(workspace, view))


def attributed(workspace: Workspace, view: View) -> Any:
    """What every head adds to the logit that the model predicts."""
    result = _attribution(workspace, view)
    name = head_name(*workspace.head(view))
    value = dict(result.strongest(result.heads[0].size)).get(name)
    return [result.plot(), *([dmc.Text(f"{name} adds {value:+.3f}.", size="sm")] if value is not None else [])]


def written(workspace: Workspace, view: View) -> Any:
    """The tokens that the head raises and lowers."""
    return _tokens(workspace, view).plot()


def _shown(result: Verification) -> list[Any]:
    lines = [dmc.Text(line, size="sm") for line in result.summary().splitlines()]
    return [result.plot(), dmc.Stack(lines, gap=2)]


def _on_random(workspace: Workspace, view: View) -> Verification:
    from interp.causal import induction_task, verify

    name = head_name(*workspace.head(view))
    return workspace.made(
        view,
        ("verified", name, "random"),
        f"ablate {name}",
        lambda model, text: verify(model, [name], induction_task(model, samples=SAMPLES), controls=CONTROLS),
        lane="long",
    )


def _on_text(workspace: Workspace, view: View) -> Verification:
    from interp.causal import perplexity_task, verify

    name = head_name(*workspace.head(view))
    return workspace.made(
        view,
        ("verified", name, "text"),
        f"ablate {name} on the text",
        lambda model, text: verify(model, [name], perplexity_task(model, text.content), controls=CONTROLS),
        lane="long",
    )


def _attribution(workspace: Workspace, view: View) -> LogitAttribution:
    from interp.heads import logit_attribution

    position = _position(workspace, view)
    return workspace.made(
        view,
        ("attribution", position),
        f"attribute the logit at token {position:,}",
        lambda model, text: logit_attribution(model, text.content, positions=position, beyond_context=view.beyond),
        lane="long",
    )


def _tokens(workspace: Workspace, view: View) -> HeadTokens:
    from interp.heads import head_tokens

    name, position = head_name(*workspace.head(view)), _position(workspace, view)
    return workspace.made(
        view,
        ("head tokens", name, position),
        f"what {name} writes at token {position:,}",
        lambda model, text: head_tokens(model, text.content, name, position, beyond_context=view.beyond),
        lane="long",
    )


def _position(workspace: Workspace, view: View) -> int:
    """The locked token, else the last one.

    Raises:
        InputError: the text has no such token, or is too long for a run that is differentiated.
    """
    tokens = len(workspace.reading(view).tokens)
    if view.lock >= tokens:
        raise InputError(
            f"lock: the text has {tokens:,} tokens, and token {view.lock:,} is locked; release it with Escape"
        )
    if tokens > LONGEST:
        raise InputError(
            f"what is written is traced through texts of up to {LONGEST:,} tokens here, since the activations of all of them are "
            f"kept, and this one has {tokens:,}; cut out a part of it on the Text page"
        )
    return view.lock if view.lock >= 0 else tokens - 1


def python_on_random(workspace: Workspace, view: View) -> str:
    """Verification on random tokens in a notebook."""
    name = head_name(*workspace.head(view))
    task = f"interp.causal.induction_task(model, samples={SAMPLES})"
    return call(workspace, view, f"interp.causal.verify(model, [{name!r}], {task}, controls={CONTROLS}).plot()")


def python_on_text(workspace: Workspace, view: View) -> str:
    """Verification on the text in a notebook."""
    name = head_name(*workspace.head(view))
    task = "interp.causal.perplexity_task(model, text)"
    return call(workspace, view, f"interp.causal.verify(model, [{name!r}], {task}, controls={CONTROLS}).plot()")


def python_attribution(workspace: Workspace, view: View) -> str:
    """Attribution in a notebook."""
    given = options(positions=_position(workspace, view), beyond_context=view.beyond)
    return call(workspace, view, f"interp.heads.logit_attribution(model, text{given}).plot()")


def python_written(workspace: Workspace, view: View) -> str:
    """What the head writes, in a notebook."""
    name = head_name(*workspace.head(view))
    given = options(position=_position(workspace, view), beyond_context=view.beyond)
    return call(workspace, view, f"interp.heads.head_tokens(model, text, {name!r}{given}).plot()")


def table_on_random(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a condition."""
    return _on_random(workspace, view).to_frame()


def table_on_text(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a condition."""
    return _on_text(workspace, view).to_frame()


def table_attribution(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a part of the logit."""
    return _attribution(workspace, view).to_frame()


def table_written(workspace: Workspace, view: View) -> pd.DataFrame:
    """A row a token."""
    return _tokens(workspace, view).to_frame()


MARKS = (
    "The red diamond is this head, each dot another head of its layer (open: of other layers), the square their mean; bars are "
    "95 % intervals; p is the share of all of these heads that do at least as much harm. Other heads may stand in for one: a "
    "small effect is no proof that it does nothing."
)
VERIFIED_ON_RANDOM = Panel(
    "head-verified-random",
    "Ablated, on repeated random tokens",
    f"The change of the loss on the second copy of random tokens when the head's output is set to 0. {MARKS}",
    ON_MODEL,
    verified_on_random,
    table_on_random,
    python_on_random,
    button="Ablate the head",
    height=420,
)
VERIFIED_ON_TEXT = Panel(
    "head-verified-text",
    "Ablated, on this text",
    f"The change of the loss on the text, in windows of 256 tokens, when the head's output is set to 0. {MARKS}",
    ON_TEXT,
    verified_on_text,
    table_on_text,
    python_on_text,
    button="Ablate the head",
    height=420,
)
ATTRIBUTED = Panel(
    "head-attributed",
    "What heads write into the prediction",
    "What each head adds to the logit of the token that the model predicts after the locked token (else after the last one): red "
    "raises it, blue lowers it. The direct part alone: what later layers make of it is not in it.",
    AT_TOKEN,
    attributed,
    table_attribution,
    python_attribution,
    button="Trace the logit",
    height=320,
)
WRITTEN = Panel(
    "head-written",
    "What this head writes",
    "The tokens whose logits the head raises and lowers most after the locked token (else after the last one), above what it "
    "adds to all tokens alike.",
    AT_TOKEN,
    written,
    table_written,
    python_written,
    button="Trace what it writes",
    height=320,
)
PANELS = (VERIFIED_ON_RANDOM, VERIFIED_ON_TEXT, ATTRIBUTED, WRITTEN)
