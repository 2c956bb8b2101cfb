"""What autograd records of a call, what it keeps for the backward pass, and which ways of differentiating are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import interp_kernels as ik
from tests.kernels.test_gradient import asking, dense, random, small


def test_what_is_no_output_carries_no_gradient() -> None:
    case = asking(small())
    attended = case.attend("cpu", probes=(ik.Entropy(), ik.Peak(), ik.Received()))
    assert attended.output.requires_grad
    assert not attended.lse.requires_grad
    assert not any(x.requires_grad for x in attended.stats.values())
    held = attended.map.operands
    assert not any(x is not None and x.requires_grad for x in (held.q, held.k, held.v, held.sinks))
    assert held.q.data_ptr() == case.q.data_ptr()


def test_without_recording_nothing_is_kept() -> None:
    with torch.no_grad():
        assert not asking(small()).attend("cpu").output.requires_grad


def test_a_bias_and_slopes_that_ask_for_a_gradient_are_taken_and_get_none() -> None:
    case = asking(small(), ("q", "alibi", "bias"))
    case.attend("cpu").output.sum().backward()
    assert case.q.grad is not None
    assert case.alibi is not None
    assert case.bias is not None
    assert case.alibi.grad is None
    assert case.bias.grad is None
    assert not replace(case, q=case.q.detach()).attend("cpu").output.requires_grad


def test_a_second_derivative_is_refused() -> None:
    case = asking(small())
    (found,) = torch.autograd.grad(case.attend("cpu").output.sum(), case.q, create_graph=True)
    message = "attend has no second derivatives: its gradients cannot be differentiated again"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        found.sum().backward()


def test_gradients_accumulate_into_the_inputs_through_what_came_before() -> None:
    weight = random(3, 3).requires_grad_()
    case = small()

    def loss(attention: str) -> Tensor:
        each = replace(case, q=case.q @ weight, k=case.k @ weight)
        if attention == "dense":
            return dense(each, torch.from_numpy(case.golden().visible))[0].sin().sum()
        return each.attend(attention).output.sin().sum()

    (expected,) = torch.autograd.grad(loss("dense"), weight)
    (found,) = torch.autograd.grad(loss("cpu"), weight)
    torch.testing.assert_close(found, expected)


def changed_between_the_passes() -> dict[str, tuple[dict, Tensor]]:
    keep, ids = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 6, dtype=torch.int64)
    alibi, sinks, values, classes = random(4).abs(), random(4), random(5, 2), torch.zeros(6, dtype=torch.int64)
    bias, relative = random(5, 6), random(4, 10)
    return {
        "bias": ({"bias": bias}, bias),
        "relative bias": ({"bias": relative}, relative),
        "alibi": ({"alibi": alibi}, alibi),
        "sinks": ({"sinks": sinks}, sinks),
        "class values": ({"class_bias": ik.ClassBias(values, classes)}, values),
        "classes": ({"class_bias": ik.ClassBias(values, classes)}, classes),
        "padding": ({"mask": ik.Mask.from_padding(keep)}, keep),
        "documents": ({"mask": ik.Mask.from_documents(ids)}, ids),
    }


@pytest.mark.parametrize("name", changed_between_the_passes())
def test_what_is_written_over_before_the_backward_pass_is_an_error(name: str) -> None:
    """The backward pass scores again: with other biases its gradients would be those of another call."""
    settings, changed = changed_between_the_passes()[name]
    q, k, v = random(2, 4, 5, 3).requires_grad_(), random(2, 2, 6, 3), random(2, 2, 6, 2)
    output = ik.attend(q, k, v, **settings).output
    (first,) = torch.autograd.grad(output.sum(), q, retain_graph=True)
    assert torch.equal(torch.autograd.grad(output.sum(), q, retain_graph=True)[0], first)
    changed.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_mask_and_a_bias_that_were_made_in_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        keep, bias = torch.tensor([[True] * 5 + [False]] * 2), random(5, 6)
    q, k, v = random(2, 4, 5, 3).requires_grad_(), random(2, 2, 6, 3), random(2, 2, 6, 2)
    found = torch.autograd.grad(ik.attend(q, k, v, mask=ik.Mask.from_padding(keep), bias=bias).output.sum(), q)
    settings = {"mask": ik.Mask.from_padding(keep.clone()), "bias": bias.clone()}
    assert torch.equal(found[0], torch.autograd.grad(ik.attend(q, k, v, **settings).output.sum(), q)[0])


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpointed_call_has_the_same_gradients(use_reentrant: bool) -> None:
    plain, recomputed = asking(small()), asking(small())

    def call(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor) -> Tensor:
        return replace(plain, q=q, k=k, v=v, sinks=sinks).attend("cpu").output

    names = ("q", "k", "v", "sinks")
    call(*(getattr(plain, name) for name in names)).sin().sum().backward()
    given = [getattr(recomputed, name) for name in names]
    checkpoint(call, *given, use_reentrant=use_reentrant).sin().sum().backward()  # pyright: ignore[reportOptionalMemberAccess]
    assert all(torch.equal(x.grad, getattr(plain, name).grad) for name, x in zip(names, given, strict=True))


K, V = random(2, 2, 6, 3), random(2, 2, 6, 2)

# torch's own rules for forward mode are scripted when they are first asked for.
ignores_scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def output(q: Tensor, backend, **settings) -> Tensor:
    return ik.attend(q, K, V, backend=backend, **settings).output


UNDER_TRANSFORMS: list[Callable[[Tensor, str], object]] = [
    lambda q, backend: torch.func.vmap(lambda x: output(x, backend))(torch.stack([q, q])),
    lambda q, backend: torch.func.grad(lambda x: output(x, backend).sum())(q),
    lambda q, backend: torch.func.jacrev(lambda x: output(x, backend))(q),
    lambda q, backend: torch.func.jvp(lambda x: output(x, backend), (q,), (q,)),
    lambda q, backend: torch.func.vmap(lambda x: output(q, backend, bias=x))(random(3, 5, 6)),
    lambda q, backend: torch.func.vmap(
        lambda x: output(q, backend, probes=[ik.KeyMass(x)]),
    )(random(3, 6, 1)),
]


@ignores_scripting
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("transformed", UNDER_TRANSFORMS)
def test_the_transforms_of_torch_func_are_refused(transformed: Callable[[Tensor, str], object], backend: str) -> None:
    expected = (
        r"^(q|bias|KeyMass\.weights): attend does not run under the transforms of torch.func \(vmap, grad, jvp, ...\)"
    )
    with pytest.raises(ValueError, match=expected):
        transformed(random(2, 4, 5, 3), backend)


@ignores_scripting
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_mode_is_refused(backend: str, asks: bool, dtype: torch.dtype) -> None:
    q = random(2, 4, 5, 3).to(dtype).requires_grad_(asks)
    k, v = K.to(dtype), V.to(dtype)
    with (
        forward_ad.dual_level(),
        pytest.raises(ValueError, match=r"^q: attend has no forward-mode derivatives, got a tensor with a tangent;"),
    ):
        ik.attend(forward_ad.make_dual(q, torch.ones_like(q)), k, v, backend=backend)  # pyright: ignore[reportArgumentType]


def test_tensors_without_numbers_are_refused() -> None:
    with FakeTensorMode():
        fake = torch.empty(1, 2, 4, 8)
    with pytest.raises(
        ValueError, match=r"^q: expected a plain tensor, got a FakeTensor, which runs operations by itself$"
    ):
        ik.attend(fake, fake, fake)
    empty = torch.empty(1, 2, 4, 8, device="meta")
    with pytest.raises(ValueError, match=r"^q: expected tensors that hold numbers, got one on the device meta"):
        ik.attend(empty, empty, empty)


# torch deprecates its tracer, and the tracer warns of every number that it takes for a constant, as lengths are.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_traced_call_computes_from_what_it_is_given() -> None:
    q = random(2, 4, 5, 3)
    traced = torch.jit.trace(lambda q, k, v: ik.attend(q, k, v).output, (q, K, V))
    assert torch.equal(traced(2 * q, K, V + 1), ik.attend(2 * q, K, V + 1).output)  # pyright: ignore[reportCallIssue]
