"""How many queries and keys each stack of layers will have on a batch, and whether a probe's tensors are made for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from interp.errors import InputError
from interp.inputs.batch import Batch
from interp.models.layers import AttentionLayer
from interp_kernels import KeyMass, LabelMatch, Probe, Received
from interp_kernels.probe_arguments import check_probe_fits


def lengths(batch: Batch, stack: str) -> tuple[int, int] | None:
    """(Tq, Tk) of a stack's layers, as far as the batch tells: None for towers and for what a model makes up itself."""
    given = batch.others.get("decoder_input_ids")
    decoder = None if given is None else given.shape[1]
    encoder = None if batch.ids is None else batch.ids.shape[1]
    match stack:
        case "" | "encoder":
            return None if encoder is None else (encoder, encoder)
        case "decoder":
            return None if decoder is None else (decoder, decoder)
        case "cross":
            return None if encoder is None or decoder is None else (decoder, encoder)
    return None


def check_probes_fit(
    probes: Sequence[Probe], batch: Batch, layers: Iterable[AttentionLayer], device: torch.device
) -> None:
    """Refuse, before the model runs, probes of one name, and one whose labels or weights do not fit the tokens.

    Raises:
        InputError: names the probe, what it brings, and the tokens.
    """
    check_names_differ(probes)
    for stack, heads in sorted({(layer.stack, layer.heads or 0) for layer in layers}):
        found = lengths(batch, stack)
        if found is None:
            continue
        queries, keys = found
        for probe in probes:
            for name, value, along, of in _tensors(probe):
                wanted = queries if of == "queries" else keys
                if isinstance(value, Tensor) and value.ndim > 0 and value.shape[along] != wanted:
                    raise InputError(_misfit(probe, name, value.shape[along], wanted, stack, of, batch))
        check_tensors(probes, batch.rows, heads or None, queries, keys, device)


def check_names_differ(probes: Sequence[Probe]) -> None:
    """
    Raises:
        InputError: two have one name.
    """
    labels = [label for probe in probes for label in probe.labels]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"probes: names must differ, {twice} come twice; give each its own name=")


def check_tensors(
    probes: Sequence[Probe], batch: int, heads: int | None, queries: int, keys: int, device: torch.device
) -> None:
    """Refuse probes whose tensors are not for attention of that size. heads: None where any number will do.

    Raises:
        InputError: names the tensor, what was expected and what came.
    """
    for probe in probes:
        try:
            check_probe_fits(probe, batch, _heads_of(probe) if heads is None else heads, queries, keys, device)
        except ValueError as error:
            raise InputError(str(error)) from None


def _heads_of(probe: Probe) -> int:
    """The heads that a probe has weights for, 0 where they are for all."""
    weights = getattr(probe, "weights", None)
    per_head = isinstance(probe, KeyMass | Received) and isinstance(weights, Tensor) and weights.ndim > 2
    return weights.shape[1] if per_head and isinstance(weights, Tensor) else 0


def _tensors(probe: Probe) -> list[tuple[str, Tensor | None, int, str]]:
    """What a probe brings for each query or key: name, tensor, the axis of the positions, whose positions."""
    found: list[tuple[str, Tensor | None, int, str]] = [("queries", probe.queries, -1, "queries")]
    if isinstance(probe, LabelMatch):
        found += [("query_labels", probe.query_labels, -1, "queries"), ("key_labels", probe.key_labels, -1, "keys")]
    if isinstance(probe, Received):
        found.append(("weights", probe.weights, -1, "queries"))
    if isinstance(probe, KeyMass) and isinstance(probe.weights, Tensor) and probe.weights.ndim > 1:
        found.append(("weights", probe.weights, -2, "keys"))
    return found


def _misfit(probe: Probe, name: str, got: int, wanted: int, stack: str, of: str, batch: Batch) -> str:
    of_whom = f"the {of} of the {stack} layers are" if stack else "the input has"
    padded = ", padding included" if batch.is_padded else ""
    return (
        f"probe {probe.labels[0]!r}: {name} has a value for each of {got:,} tokens, but {of_whom} {wanted:,} tokens{padded}; "
        "make it from capture.ids or model.batch(inputs).ids, which hold the special tokens too"
    )
