"""How many queries and keys each stack of layers will have on a batch, and whether a probe's tensors are made for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from interp.errors import InputError
from interp.inputs.batch import Batch
from interp_kernels import KeyMass, LabelMatch, Probe, Received


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


def check_probes_fit(probes: Sequence[Probe], batch: Batch, stacks: Iterable[str]) -> None:
    """Refuse, before the model runs, a probe whose labels or weights are not one for each token.

    Raises:
        InputError: names the probe, what it brings, and the tokens.
    """
    for stack in sorted(set(stacks)):
        found = lengths(batch, stack)
        if found is None:
            continue
        queries, keys = found
        for probe in probes:
            for name, value, along, of in _tensors(probe):
                wanted = queries if of == "queries" else keys
                if isinstance(value, Tensor) and value.ndim > 0 and value.shape[along] != wanted:
                    raise InputError(_misfit(probe, name, value.shape[along], wanted, stack, of, batch))


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
