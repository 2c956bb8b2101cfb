"""One architecture of the zoo: a tiny configuration, what its forward takes, and which layers attend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from tests.interp.tiny import COMMON, GROUPED, HEADS, LAYERS, WIDTHS, WINDOW, randomised
from tests.interp.zoo.inputs import tokens

__all__ = ["COMMON", "GROUPED", "HEADS", "LAYERS", "WIDTHS", "WINDOW", "Entry", "numbered"]


@dataclass(frozen=True)
class Entry:
    """A configuration's class and arguments, the model's class, and what is known of the model that they make.

    layers      the keys of the layers that attend on ``inputs``, from the architecture's description
    inputs      makes the arguments of the model's forward
    family      under which it stands in docs/models.md
    note        what tells it from another entry of the same model
    """

    model: str
    config: str
    arguments: dict[str, Any]
    family: str
    layers: tuple[int | str, ...] = tuple(range(LAYERS))
    inputs: Callable[[], dict[str, Tensor]] = tokens
    note: str = ""

    def build(self, kernel: str | None = None, seed: int = 0) -> PreTrainedModel:
        """The model, in evaluation mode, with random weights that make attention far from uniform."""
        config = getattr(transformers, self.config)(**self.arguments)
        if kernel is not None:
            config._attn_implementation = kernel
        config._experts_implementation = "eager"  # of the other ones, on CPU, not all take float64
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = getattr(transformers, self.model)(config).eval()
        return randomised(model, seed)


def numbered(stack: str, layers: int = LAYERS) -> tuple[str, ...]:
    """("encoder.0", "encoder.1")."""
    return tuple(f"{stack}.{number}" for number in range(layers))
