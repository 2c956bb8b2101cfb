"""What only a GPU, or a pretended one, can show of ``attend``: that the host never waits, streams, graphs, threads, memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal

import pytest
import torch
from torch import Tensor

import interp_kernels as ik
from interp_kernels import Mask
from interp_kernels.backends.triton import tuning
from tests.conftest import IS_PRETENDED
from tests.kernels.on_device import needs_triton

pytestmark = [
    needs_triton,
    pytest.mark.gpu,
    # Overflow in the interpreter's numpy, where a GPU says nothing.
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    # That torch does not find every wait of the host.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning"),
]

T, HEADS, KV_HEADS, WIDTH = (40, 2, 1, 16) if IS_PRETENDED else (300, 4, 2, 64)


def operands(seed: int = 0, tokens: int = T, dtype: torch.dtype = torch.float16) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v on the device."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, h, tokens, WIDTH, generator=generator) for h in (HEADS, KV_HEADS, KV_HEADS))
    return q.to("cuda", dtype), k.to("cuda", dtype), v.to("cuda", dtype)


def probes(tokens: int = T) -> tuple[ik.Probe, ...]:
    """One of each kind."""
    labels = torch.randint(0, 5, (tokens,), generator=torch.Generator().manual_seed(1)).to("cuda")
    return (
        ik.Entropy(),
        ik.Entropy(name="mean_entropy", reduce="mean"),
        ik.Peak(),
        ik.TopK(3),
        ik.KeyMass(torch.linspace(0, 1, 2 * tokens).view(tokens, 2).to("cuda")),
        ik.LabelMatch(labels, labels, strict=True),
        ik.OffsetMass((0, 1)),
        ik.Distance(),
        ik.DistanceHistogram((0, 1, 8, math.inf)),
        ik.Received(normalize=True),
        ik.Pooled(16),
        ik.Pooled(100, op="max", name="large"),
    )


@contextmanager
def never_waiting() -> Iterator[None]:
    """Whatever makes the host wait for the device fails."""
    if IS_PRETENDED:
        from tests.pretend_device import waits

        waits.clear()
        yield
        assert not waits
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_host_never_waits():
    """But in the first call, which copies constants, looks at weights and measures configurations."""
    q, k, v = operands()
    measured = probes()
    masks = (
        Mask.causal(),
        Mask.full(window=T // 2),
        Mask.causal() & Mask.from_padding(torch.arange(T, device="cuda")[None] > 4),
        Mask.causal() & Mask.from_documents(torch.arange(T, device="cuda")[None] // (T // 3)),
    )
    sinks, alibi = torch.zeros(2, HEADS, device="cuda", dtype=q.dtype).unbind()
    for mask in masks:
        ik.attend(q, k, v, mask=mask, sinks=sinks, alibi=alibi, probes=measured)
        with never_waiting():
            ik.attend(q, k, v, mask=mask, sinks=sinks, alibi=alibi, probes=measured)


def test_the_host_does_not_wait_for_products_of_the_map():
    lazy = ik.attend(*operands()).map
    w, x = torch.rand(T, device="cuda"), torch.rand(T, 3, device="cuda")

    def read() -> None:
        lazy.rmatmul(w)
        lazy.matmul(x)
        lazy.pool(16)
        lazy.topk(3)
        lazy.diagonal(1)
        lazy.tile(slice(0, 30), slice(3, 40))

    read()
    with never_waiting():
        read()


@pytest.mark.parametrize("features", ["plain", "sinks, soft cap, window"])
def test_gradients(features: str):
    """Against autograd of the dense definition in float64. Sums of float32 over T keys err by at most T ulp of their scale."""
    given = {} if features == "plain" else {"softcap": 5.0, "mask": Mask.causal(window=T // 3)}
    sinks = None if features == "plain" else torch.linspace(-1, 1, HEADS, device="cuda")
    direction = torch.randn(1, HEADS, T, WIDTH, generator=torch.Generator().manual_seed(2)).to("cuda")

    def differentiated(dtype: torch.dtype, backend: Literal["auto", "reference"]) -> list[Tensor]:
        leaves = [
            x.to(dtype).requires_grad_() for x in (*operands(dtype=torch.float32), *([] if sinks is None else [sinks]))
        ]
        output = ik.attend(*leaves[:3], sinks=None if sinks is None else leaves[3], **given, backend=backend).output
        return list(torch.autograd.grad((output * direction.to(dtype)).sum(), leaves))

    for found, expected in zip(
        differentiated(torch.float32, "auto"), differentiated(torch.float64, "reference"), strict=True
    ):
        bound = T * torch.finfo(torch.float32).eps * float(expected.abs().max())
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)


def check_equal(found: ik.Attended, expected: ik.Attended) -> None:
    torch.testing.assert_close(found.output, expected.output, rtol=0, atol=0)
    for name, value in expected.stats.items():
        torch.testing.assert_close(found.stats[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.hardware
def test_a_graph_that_is_captured_replays_on_other_numbers():
    q, k, v = operands()
    measured = probes()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        ik.attend(q, k, v, probes=measured)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = ik.attend(q, k, v, probes=measured)
    for place, x in zip((q, k, v), operands(seed=5), strict=True):
        place.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    check_equal(found, ik.attend(q, k, v, probes=measured))


@pytest.mark.hardware
def test_calls_on_another_stream_are_those_of_the_first():
    q, k, v = operands()
    expected = ik.attend(q, k, v, probes=probes())
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        # Work that the call must wait for on its own stream.
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy * 1e-3
        again = q + 0 * busy[0, 0].nan_to_num(0, 0, 0).to(q.dtype)
        found = ik.attend(again, k, v, probes=probes())
    side.synchronize()
    check_equal(found, expected)


@pytest.mark.hardware
def test_threads_do_not_disturb_one_another():
    def call(seed: int) -> ik.Attended:
        with torch.cuda.stream(torch.cuda.Stream()):
            found = ik.attend(*operands(seed), probes=probes())
            torch.cuda.current_stream().synchronize()
        return found

    expected = [call(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as threads:
        for found, alone in zip(threads.map(call, range(8)), expected, strict=True):
            check_equal(found, alone)


# What the compiler warns of is its own.
@pytest.mark.filterwarnings("default")
@pytest.mark.hardware
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_one_graph_of_torch_compile_forward_and_back(compiler: str):
    def step(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        attended = ik.attend(2 * q, k, v, probes=[ik.Entropy(), ik.Received()], backend="triton")
        return attended.output.float().square().sum(), attended.stats["received"]

    plain, compiled = ([x.float().requires_grad_() for x in operands()] for _ in range(2))
    expected, found = step(*plain), torch.compile(step, fullgraph=True, backend=compiler)(*compiled)
    for got, value in zip(found, expected, strict=True):
        torch.testing.assert_close(got, value)
    expected[0].backward()
    found[0].backward()
    for got, leaf in zip(compiled, plain, strict=True):
        torch.testing.assert_close(got.grad, leaf.grad)


@pytest.mark.hardware
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_configuration_that_is_chosen_is_one_of_the_candidates(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INTERP_KERNELS_AUTOTUNE", "1")
    monkeypatch.setattr(tuning, "_chosen", {})
    q, k, v = operands(dtype=dtype)
    found = ik.attend(q, k, v, probes=probes())
    torch.cuda.synchronize()
    major, minor = torch.cuda.get_device_capability()
    for key, config in tuning._chosen.items():
        kinds: tuple[tuning.Kind, ...] = ("forward", "decode", "columns", "rows")
        offered = [tuning.configurations(kind, 10 * major + minor, q.element_size(), WIDTH) for kind in kinds]
        assert config in [each for candidates in offered for each in candidates], key
    assert tuning._chosen
    reference = ik.attend(*(x.double() for x in (q, k, v)), backend="reference")
    torch.testing.assert_close(found.output.double(), reference.output, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.hardware
def test_memory_grows_with_the_length_and_not_with_its_square():
    """The map of 8 heads would take 8.6 GB."""
    tokens = 16_384
    q, k, v = (torch.randn(1, 8, tokens, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    measured = probes(tokens)[:-2]
    ik.attend(q, k, v, probes=measured)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ik.attend(q, k, v, probes=measured)
    torch.cuda.synchronize()
    # Each probe keeps at most 16 numbers of 8 bytes for every row, and a pass as many again while it sorts.
    assert torch.cuda.max_memory_allocated() - before < 8 * tokens * 8 * 16 * (2 + len(measured))


@pytest.mark.hardware
@pytest.mark.parametrize("layout", ["heads first", "tokens first"])
def test_addresses_beyond_the_integers_of_32_bits(layout: str):
    """Keys and values of 2^32 elements each: 17 GB. The last head of all is the same call of one head."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GB of free memory on the device")
    heads, tokens, width = 128, 1 << 18, 128
    shape = (1, heads, tokens, width) if layout == "heads first" else (1, tokens, heads, width)
    k, v = (torch.empty(shape, device="cuda", dtype=torch.bfloat16).normal_() for _ in range(2))
    if layout == "tokens first":
        k, v = k.transpose(1, 2), v.transpose(1, 2)
    q = torch.randn(1, heads, 1, width, device="cuda", dtype=torch.bfloat16)
    measured = (ik.Entropy(), ik.Peak(), ik.OffsetMass((3,)))
    whole = ik.attend(q, k, v, probes=measured)
    last = ik.attend(q[:, -1:], k[:, -1:].clone(), v[:, -1:].clone(), probes=measured)
    torch.testing.assert_close(whole.output[:, -1:], last.output, rtol=2e-2, atol=1e-3)
    for name, value in last.stats.items():
        torch.testing.assert_close(whole.stats[name][:, -1:], value, rtol=1e-4, atol=1e-6)
