"""What a result says of how it was made, in one form for all analyses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from interp.inputs.batch import Batch
    from interp.models.hooked import HookedModel


def settings_of(
    model: HookedModel, *, method: str, source: str, constants: Mapping[str, Any], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """How an analysis was made.

    Args:
        method: what was computed, as a formula or a sentence.
        source: the paper or code that it comes from.
        constants: every number and choice that the result depends on, seeds included.
        inputs: what it was measured on; ``inputs_of`` says it of a batch.
    """
    return {
        "method": method,
        "source": source,
        "constants": dict(constants),
        "inputs": dict(inputs),
        "model": model.facts(),
    }


def inputs_of(batch: Batch) -> dict[str, Any]:
    """Size of a batch and a checksum of its ids and padding, so that equal inputs can be told."""
    if batch.ids is None:
        shapes = {name: list(value.shape) for name, value in batch.others.items() if isinstance(value, torch.Tensor)}
        return {"arguments": shapes}
    return {"sequences": batch.ids.shape[0], "tokens": batch.tokens, "sha256": checksum(batch)}


def checksum(batch: Batch) -> str:
    """SHA-256 of the ids and of what is padding."""
    assert batch.ids is not None
    digest = hashlib.sha256(batch.ids.cpu().contiguous().numpy().tobytes())
    if batch.is_padded and batch.keep is not None:
        digest.update(batch.keep.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
