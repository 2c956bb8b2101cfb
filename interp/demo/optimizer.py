"""Muon for the weight matrices, Adam for everything else, in float32 and with a state that is plain named tensors.

Muon: momentum, then the update is replaced by the nearest semi-orthogonal matrix (Newton-Schulz iteration). Source: Jordan
et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the update's size is matched to Adam's as in Liu et al.,
"Muon is Scalable for LLM Training" (arXiv 2502.16982): 0.2 sqrt(max(rows, columns)). `torch.optim.Muon` is not used because
it iterates in bfloat16, which processors without bfloat16 instructions emulate slowly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al.)."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of each matrix's singular value decomposition U S V^T. Shape [n, rows, columns] in and out."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.mT if matrices.size(-2) > matrices.size(-1) else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.size(-2) > matrices.size(-1) else x


class MuonAdam:
    """Both rules behind one `step`. A parameter of two dimensions whose name does not contain "embed" goes to Muon."""

    def __init__(
        self,
        parameters: dict[str, torch.nn.Parameter],
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        weight_decay: float,
    ) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.betas = betas
        self.weight_decay = weight_decay
        self.groups: dict[torch.Size, list[str]] = {}
        self.adam: list[str] = []
        self.state: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            if parameter.ndim == 2 and "embed" not in name:
                self.groups.setdefault(parameter.shape, []).append(name)
                self.state[f"momentum.{name}"] = torch.zeros_like(parameter)
            else:
                self.adam.append(name)
                self.state[f"first.{name}"] = torch.zeros_like(parameter)
                self.state[f"second.{name}"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, number: int, matrix_rate: float, other_rate: float) -> None:
        """Update the parameters from their gradients and clear those. `number` counts from 0, for Adam's bias correction."""
        for shape, names in self.groups.items():
            directions = []
            for name in names:
                gradient = _gradient(self.parameters[name])
                buffer = self.state[f"momentum.{name}"].mul_(self.momentum).add_(gradient, alpha=1 - self.momentum)
                directions.append(gradient.lerp(buffer, self.momentum))
            updates = orthogonalize(torch.stack(directions))
            size = 0.2 * math.sqrt(max(shape))
            for name, update in zip(names, updates, strict=True):
                self.parameters[name].mul_(1 - matrix_rate * self.weight_decay).add_(update, alpha=-matrix_rate * size)
        first_beta, second_beta = self.betas
        for name in self.adam:
            gradient = _gradient(self.parameters[name])
            first = self.state[f"first.{name}"].lerp_(gradient, 1 - first_beta)
            second = self.state[f"second.{name}"].lerp_(gradient.square(), 1 - second_beta)
            scale = math.sqrt(1 - second_beta ** (number + 1)) / (1 - first_beta ** (number + 1))
            self.parameters[name].addcdiv_(first, second.sqrt().add_(1e-8), value=-other_rate * scale)
        for parameter in self.parameters.values():
            parameter.grad = None


def _gradient(parameter: torch.nn.Parameter) -> Tensor:
    """The parameter's gradient; a parameter that the loss did not reach is a bug of the caller."""
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient: the loss does not depend on it")
    return parameter.grad
