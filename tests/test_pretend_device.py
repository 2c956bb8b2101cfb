"""The pretended device refuses what CUDA refuses, and computes what the CPU computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import IS_PRETENDED

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not IS_PRETENDED, reason="wants a pretended CUDA device")]

A = torch.arange(12.0).reshape(3, 4)


def test_tensors_say_where_they_are():
    here, there = A, A.to("cuda")
    made = torch.zeros(2, device="cuda"), torch.tensor([1, 2], device="cuda:0"), torch.as_tensor([1.0], device="cuda")
    for x in (
        there,
        *made,
        there + 1,
        there[1:],
        there.new_ones(2),
        torch.empty_like(there),
        there.half(),
        there.cuda(),
    ):
        assert x.device == torch.device("cuda", 0)
        assert x.is_cuda
    for x in (here, there.cpu(), there.to("cpu")):
        assert x.device.type == "cpu"
        assert type(x) is torch.Tensor


def test_numbers_are_those_of_the_cpu():
    there = A.to("cuda")
    assert torch.equal((there @ there.T).softmax(-1).cpu(), (A @ A.T).softmax(-1))
    assert there.tolist() == A.tolist()
    assert there.sum().item() == 66.0
    assert there[torch.tensor([2, 0], device="cuda"), 1].tolist() == [9.0, 1.0]


def test_views_share_memory():
    there = A.to("cuda")
    there[1:, :2] += 100
    there.T[3].zero_()
    expected = A.clone()
    expected[1:, :2] += 100
    expected[:, 3] = 0
    assert torch.equal(there.cpu(), expected)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there: there + torch.ones(4),
        lambda there: torch.cat([there, A]),
        lambda there: A[torch.zeros(2, dtype=torch.int64, device="cuda")],
        lambda there: there.gather(1, torch.zeros(3, 1, dtype=torch.int64)),
        lambda there: nn.functional.embedding(torch.zeros(2, dtype=torch.int64), there),
        A.add_,
    ],
)
def test_two_devices_in_one_operation_are_refused(mixed: Any):
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        mixed(A.to("cuda"))


def test_what_cuda_lets_pass_passes():
    there = A.to("cuda")
    assert torch.equal((there * torch.tensor(2.0)).cpu(), A * 2)
    assert torch.equal(there[torch.tensor([0, 2])].cpu(), A[[0, 2]])
    there.copy_(A + 1)
    assert torch.equal(there.cpu(), A + 1)


def test_what_cuda_has_not_is_refused():
    whole = torch.ones(2, 2, dtype=torch.int64, device="cuda")
    with pytest.raises(RuntimeError, match=r"not implemented on CUDA for torch\.int64"):
        torch.matmul(whole, whole)
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        A.to("cuda").numpy()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        np.asarray(A.to("cuda"))
    with pytest.raises(RuntimeError, match="expected a generator on cuda:0"):
        torch.rand(2, device="cuda", generator=torch.Generator())


def test_gradients_stay_on_the_device():
    model = nn.Linear(4, 2).to("cuda")
    model(A.to("cuda")).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.is_cuda
    assert torch.equal(model.weight.grad.cpu(), A.sum(dim=0).expand(2, 4))


def test_waits_of_the_host_are_kept():
    from tests.pretend_device import waits

    there = A.to("cuda")
    waits.clear()
    (there * 2 + 1)[:, 1].sum()
    assert not waits
    bool(there.isfinite().all())
    there.cpu()
    there[torch.tensor([1])]
    assert len(waits) == 3
