"""Help with names that do not exist, and names of heads for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say after an unknown name: the nearest known one, and all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listed = f"known: {', '.join(known)}" if known else "there are none"
    return f"did you mean {close[0]!r}? ({listed})" if close else listed


def head_name(layer: int | str, head: int) -> str:
    """ "L5H1": layer 5, query head 1, both counted from 0; "encoder.L3H1" of the layer "encoder.3"."""
    stack, _, number = str(layer).rpartition(".")
    return f"{stack}.L{number}H{head}" if stack else f"L{layer}H{head}"


def name_of(layer: int | str | None, head: int) -> str:
    """The same; "head 1" where the layer is not known."""
    return f"head {head}" if layer is None else head_name(layer, head)


def stack_name(layer: int | str) -> str:
    """The stack of layers that a layer is of: "" of 3, "decoder" of "decoder.3"."""
    return str(layer).rpartition(".")[0]


def looks_across(layer: int | str) -> bool:
    """Whether a layer's queries and keys are of two inputs: "cross.3", "qformer_cross.3"."""
    stack = stack_name(layer)
    return stack == "cross" or stack.endswith("_cross")


def named_layers(layers: Sequence[int | str]) -> str:
    """ "0 to 5", or all of them where they are not numbered without gaps."""
    if list(layers) == list(range(len(layers))):
        return f"0 to {len(layers) - 1}"
    return ", ".join(str(layer) for layer in layers)
