"""What is particular to the cpu backend: workers, layouts, labels of any size, and a machine without numba."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

pytest.importorskip("numba", reason="the sweeps are compiled by numba")

import interp_kernels as ik
from interp_kernels.backends import cpu, tiled
from interp_kernels.backends.cpu import passes
from interp_kernels.backends.cpu.mapping import MapSweeps
from interp_kernels.backends.cpu.program import program
from interp_kernels.backends.cpu.rows import RowPass, Rows, row_blocks
from interp_kernels.backends.cpu.threads import share_out
from tests.kernels.test_adversarial import normal

T = 300
LABELS = torch.arange(T) % 23


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def probes() -> tuple[ik.Probe, ...]:
    return (
        ik.Entropy(),
        ik.Peak(),
        ik.TopK(5),
        ik.LabelMatch(LABELS, LABELS, strict=True),
        ik.KeyMass(torch.arange(5.0 * T).reshape(T, 5) / T),
        ik.OffsetMass((0, 1, 7)),
        ik.Distance(),
        ik.DistanceHistogram((0, 1, 16, 1000)),
        ik.Received(normalize=True),
        ik.Pooled(32),
        ik.Pooled(7, "max", name="pooled_max"),
    )


def attended(**settings) -> ik.Attended:
    q, k, v = normal(2, 6, T, 16), normal(2, 3, T, 16), normal(2, 3, T, 8)
    return ik.attend(q, k, v, probes=probes(), backend="cpu", **settings)


def values(result: ik.Attended) -> dict[str, torch.Tensor]:
    return {"output": result.output, "lse": result.lse, **result.stats}


@pytest.mark.usefixtures("threads")
def test_results_are_the_same_bits_with_any_number_of_workers_and_run_after_run() -> None:
    torch.set_num_threads(1)
    expected = values(attended())
    for count in (2, 3, 2, 1):
        torch.set_num_threads(count)
        for name, value in values(attended()).items():
            assert torch.equal(value, expected[name]), f"{name} with {count} workers"
        assert torch.get_num_threads() == count


def test_a_worker_may_take_blocks_of_other_heads_and_rows_in_any_order() -> None:
    """Two heads of 64 rows and one of 128 are tiles of one size, and not of one shape."""
    x = normal(1, 3, 192, 8)
    whole = ik.attend(x, x, x, backend="cpu")
    ops, told = whole.map.operands, program(whole.map.operands, ())
    found = list(row_blocks(ops, 2 * 128 * 192))
    assert [block.shape for block in found] == [(1, 2, 64), (1, 2, 128), (1, 1, 64), (1, 1, 128)]
    for order in itertools.permutations(found):
        rows = Rows.empty(ops, told)
        worker = RowPass(ops, told, rows, 2 * 128 * 192)
        for block in order:
            worker(block)
        torch.testing.assert_close(rows.output, whole.output)


@pytest.mark.usefixtures("threads")
def test_workers_leave_the_number_of_threads_of_other_threads_alone() -> None:
    torch.set_num_threads(2)
    attended()
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [2]


@pytest.mark.usefixtures("threads")
def test_calls_from_several_threads_at_once_do_not_mix() -> None:
    torch.set_num_threads(2)
    expected, found = values(attended()), []
    callers = [threading.Thread(target=lambda: found.append(values(attended()))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    for each in found:
        for name, value in each.items():
            assert torch.equal(value, expected[name]), name


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_worker_reaches_the_caller_and_stops_the_others(count: int) -> None:
    torch.set_num_threads(count)
    done: list[int] = []

    def worker(task: int) -> None:
        if task == 3:
            raise ZeroDivisionError("task 3")
        done.append(task)

    with pytest.raises(ZeroDivisionError, match="task 3"):
        share_out(range(100_000), lambda: worker)
    assert 0 < len(done) < 99_999
    share_out(range(10), lambda: done.append)
    assert sorted(done[-10:]) == list(range(10))


@pytest.mark.usefixtures("threads")
def test_results_for_a_caller_in_inference_mode() -> None:
    torch.set_num_threads(2)
    expected = values(attended())
    with torch.inference_mode():
        result = attended()
    assert result.output.is_inference()
    for name, value in values(result).items():
        assert torch.equal(value, expected[name]), name


def test_a_forked_process_has_workers_of_its_own() -> None:
    """Tasks of plain Python: torch's own parallel operations hang in a forked process, whatever is done here."""
    program = """
import os, torch
from interp_kernels.backends.cpu.program import program
from interp_kernels.backends.cpu.rows import RowPass, Rows, row_blocks
from interp_kernels.backends.cpu.threads import share_out
torch.set_num_threads(2)
share_out(range(10), lambda: str)
child = os.fork()
if not child:
    done = []
    share_out(range(10), lambda: done.append)
    os._exit(0 if sorted(done) == list(range(10)) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # Python itself warns where a process with threads forks, which is what is tried here.
    run = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    assert subprocess.run(run, timeout=60, check=False).returncode == 0


def test_heads_may_lie_behind_positions_in_memory() -> None:
    """As models hand them over: [B, T, H, D] transposed."""
    ops = attended().map.operands
    apart = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (ops.q, ops.k, ops.v)]
    assert not apart[0].is_contiguous()
    expected = values(attended())
    for name, value in values(ik.attend(*apart, probes=probes(), backend="cpu")).items():
        assert torch.equal(value, expected[name]), name


def test_what_is_given_may_ask_for_gradients() -> None:
    """Of a model in training mode the sinks are parameters; weights may come from anywhere."""

    def asking(*shape: int) -> torch.Tensor:
        return normal(*shape).requires_grad_()

    x, y = asking(1, 2, T, 8), normal(1, 2, T, 8)
    given = (ik.KeyMass(asking(T, 2)), ik.Received(asking(T)))
    result = ik.attend(x, y, y, sinks=asking(2), probes=given, backend="cpu")
    assert result.output.requires_grad
    assert not any(value.requires_grad for value in result.stats.values())
    plain = ik.attend(x.detach(), y, y, sinks=normal(2), probes=given, backend="reference")
    torch.testing.assert_close(result.output.detach(), plain.output)
    for name, value in plain.stats.items():
        torch.testing.assert_close(result.stats[name], value.detach())
    assert torch.equal(result.map.rmatmul(asking(T)), result.map.rmatmul(normal(T)))


def test_labels_beyond_32_bits_are_told_apart() -> None:
    far = LABELS.where(LABELS == 3, LABELS + (1 << 40))
    x = normal(1, 1, T, 8)
    both = (ik.LabelMatch(far, far.roll(1), name="far"), ik.LabelMatch(LABELS, LABELS.roll(1), name="near"))
    stats = ik.attend(x, x, x, probes=both, backend="cpu").stats
    assert torch.equal(stats["far"], stats["near"])
    nothing = far.where(far != 3, -1)
    stats = ik.attend(x, x, x, probes=(ik.LabelMatch(nothing, nothing),), backend="cpu").stats
    assert (stats["label_match"][..., 3::23] == 0).all()


def test_sums_in_float64_are_not_compiled_and_others_are() -> None:
    ops = attended().map.operands
    assert cpu.is_compiled(ops)
    assert not cpu.is_compiled(replace(ops, q=ops.q.double(), k=ops.k.double(), v=ops.v.double()))


def test_without_numba_the_same_is_done_in_plain_torch() -> None:
    program = """
import sys
sys.modules["numba"] = None
import torch, interp_kernels as ik
from interp_kernels.backends import cpu, tiled
x = torch.randn(1, 2, 40, 8)
result = ik.attend(x, x, x, probes=(ik.Entropy(),), backend="cpu")
assert not cpu.is_compiled(result.map.operands)
assert torch.equal(result.output, tiled.run(result.map.operands, ())[0])
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("sinks", [False, True])
def test_the_map_swept_is_the_map_in_plain_torch(group: int, sinks: bool) -> None:
    q, k = normal(2, 2 * group, 70, 8), normal(2, 2, 90, 8)
    keep = torch.rand(2, 90, generator=torch.Generator().manual_seed(1)) < 0.7
    keep[0, :40] = False
    mask = ik.Mask.causal(window=35) & ik.Mask.from_padding(keep)
    logits = normal(2 * group) if sinks else None
    lazy = ik.attend(q, k, k, mask=mask, sinks=logits, backend="cpu").map
    dense = ik.attend(q.double(), k.double(), k.double(), mask=mask, sinks=logits, backend="reference").map.dense()
    assert (dense.sum(-1) == 0).any(), "no row without a key"
    swept = MapSweeps(lazy.operands, lazy.lse)
    x, w = normal(2, 2 * group, 90, 3).double(), normal(2, 2 * group, 70, 2).double()
    close = {"rtol": 1e-5, "atol": 1e-6, "check_dtype": False}
    torch.testing.assert_close(swept.matmul(x), dense @ x, **close)
    torch.testing.assert_close(swept.rmatmul(w), w.transpose(-1, -2) @ dense, **close)
    top = dense.topk(4)
    torch.testing.assert_close(swept.topk(4)[0], top.values, **close)
    tiles = dense.unfold(2, 10, 10).unfold(3, 10, 10)
    torch.testing.assert_close(swept.pool(10, "max"), tiles.amax((-1, -2)), **close)
    seen = (dense > 0).double().unfold(2, 10, 10).unfold(3, 10, 10).sum((-1, -2))
    torch.testing.assert_close(swept.pool(10, "mean"), tiles.sum((-1, -2)) / seen.clamp(min=1), **close)
    r, c = normal(2, 2 * group, 70).abs(), normal(2, 2 * group, 90).abs()
    c[..., 41:44] = 0
    tiles = (dense * r[..., None] * c[..., None, :]).unfold(2, 10, 10).unfold(3, 10, 10)
    torch.testing.assert_close(swept.pool(10, "max", r, c), tiles.amax((-1, -2)), **close)
    torch.testing.assert_close(swept.pool(10, "mean", r, c), tiles.sum((-1, -2)) / seen.clamp(min=1), **close)


def test_a_pass_serves_no_probe_twice() -> None:
    """Sums of probes of one kind stand side by side: each reads its own."""
    weights = torch.eye(T)[:, :7]
    x = normal(1, 2, T, 8)
    several = tuple(ik.KeyMass(weights[:, at : at + 2], name=str(at)) for at in (0, 2, 5))
    ops = ik.attend(x, x, x).map.operands
    _, _, stats = passes.run(ops, (*several, ik.Distance(3), ik.OffsetMass((2,)), ik.OffsetMass((5, 1), name="more")))
    for at in (0, 2, 5):
        expected = ik.attend(x, x, x, probes=(several[(0, 2, 5).index(at)],), backend="reference").stats[str(at)]
        torch.testing.assert_close(stats[str(at)], expected)
    expected = tiled.run(ops, (ik.OffsetMass((5, 1), reduce="mean"),))[2]["offset_mass"]
    torch.testing.assert_close(stats["more"][..., 5:, :].sum(2)[..., 0] / (T - 5), expected[..., 0])
