"""What heads wrote in another run, from a capture of it: the reference of a mean ablation, the source of a patch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.captures.capture import Capture
from interp.errors import InputError
from interp.models.call import AttentionCall
from interp.models.layers import LayerKey

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

STATISTIC = "output"
"""Under which name a capture keeps what heads write, with ``outputs=True``."""


def checked_source(name: str, argument: str, given: Any) -> Capture:
    """``given``, if it is a capture with the heads' outputs.

    Raises:
        InputError: it is something else.
    """
    if isinstance(given, Capture) and STATISTIC in given.stats:
        return given
    came = f"a capture of {list(given.stats)}" if isinstance(given, Capture) else f"{given!r:.60}"
    raise InputError(
        f"{name}: expected a capture with outputs for {argument}, as model.capture(text, [], outputs=True) gives; got {came}"
    )


def z_of(source: Capture, layer: LayerKey, heads: Iterable[int] | None, what: str) -> Tensor:
    """z of these query heads of a layer (None: all of them), [B, n, T, Dv].

    Raises:
        InputError: they are not in it. ``what`` names the argument.
    """
    values = source[STATISTIC]
    if layer not in values:
        raise InputError(
            f"{what}: it holds the outputs of layers {list(values)}, not of layer {layer!r}; capture that layer too"
        )
    measured = source.layer(layer)
    wanted = list(range(measured.query_heads) if heads is None else heads)
    missing = [head for head in wanted if head not in measured.heads]
    if missing:
        raise InputError(
            f"{what}: it holds the outputs of heads {list(measured.heads)} of layer {layer!r}, not of {missing}; capture them "
            "too"
        )
    if wanted == list(measured.heads):
        return values[layer]
    return values[layer][:, [measured.heads.index(head) for head in wanted]]


def kept_of(source: Capture, layer: LayerKey) -> Tensor | None:
    """Which of the layer's queries are no padding, [B, T]; None where all are, or where nothing says so."""
    return source.queries(layer).keep


def check_columns(what: str, call: AttentionCall, of_source: Tensor | None, length: int) -> None:
    """Columns of a source are columns of the run: refuse one whose padding stands elsewhere, where its columns are other tokens.

    of_source: which of its columns are no padding, [B, T], None where all are; length: how many it has

    Raises:
        InputError: the source is padded, and not as the run is.
    """
    of_run = call.mask.keep
    if torch.compiler.is_compiling() or of_source is None:  # one sequence for all may well stand beside padding
        return
    first = call.first_key
    length = min(length, first + call.k.shape[2])
    source = of_source.to(call.q.device)[:, :length]
    run = (
        torch.ones_like(source)
        if of_run is None
        else torch.nn.functional.pad(of_run, (first, 0), value=True)[:, :length]
    )
    if bool((source != run)[:, first:].any()) and not bool(source.all()):
        raise InputError(
            f"{what}: its padding stands in other columns than the input's, so that its columns are other tokens; make it from "
            "inputs with the same padding (model.batch(texts, padding='left') for generation)"
        )


def check_fits(model: HookedModel, source: Capture, layer: LayerKey, heads: Iterable[int] | None, what: str) -> None:
    """Refuse a source that does not hold these heads, or of other shapes, as far as the model says them before it runs.

    Raises:
        InputError: heads that are not in it, another number of heads, or of columns of a head.
    """
    z, count = z_of(source, layer, heads, what), source.layer(layer).query_heads
    for module, served in model.host.layers.items():
        for each in served:
            if each.key != layer:
                continue
            widths = [getattr(module, name, None) for name in ("v_head_dim", "head_dim")]
            width = next((w for w in widths if isinstance(w, int)), z.shape[-1])
            if each.heads not in (None, count) or width != z.shape[-1]:
                raise InputError(
                    f"{what}: expected outputs of {each.heads or count} query heads of width {width} for layer {layer!r} of "
                    f"{model.name}, got {count} of width {z.shape[-1]}; take them from the same model"
                )
