"""Tests and measurements on a GPU in one go, with the torch and triton that the system has. Nothing is installed.

    python3 benchmarks/on_gpu.py --out out/gpu                 # all of it, in at most 8 minutes
    python3 benchmarks/on_gpu.py --out out/gpu --minutes 20 --steps benchmark

Steps, each with a share of the time, in this order; without a GPU the first ends it, and any other that fails or is cut off
does not keep the next from running:

    versions    the device, and the packages that are there                              versions.txt
    smoke       one call of every kernel against the definition                          smoke.txt
    tests       pytest: the kernels in every configuration and type, hooked models        tests.txt, tests.xml
    benchmark   benchmarks/kernels.py --device cuda --quick                                kernels_cuda.json, .md, .svg

``summary.txt`` says of each step how it ended, how long it took and what failed, and is printed last. Exit status 1 if a step did
not end well. Packages that are not there (plotly, dash, TransformerLens) leave out the tests that need them.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SHARES = {"versions": 0.05, "smoke": 0.15, "tests": 0.5, "benchmark": 0.3}
"""Of the time. What a step leaves over goes to those after it."""

LEAST = 60.0
"""Seconds that a step has at least, while they last: the first one imports what nothing has yet read from the disk."""

GRACE = 15.0
"""Seconds in which a step that was cut off may still write what it knows."""

TESTS = (
    "tests/kernels/test_triton.py",
    "tests/kernels/test_gpu.py",
    "tests/kernels/test_value_dependent.py",
    "tests/kernels/test_class_bias.py",
    "tests/kernels/test_row_sinks.py",
    "tests/interp/test_on_gpu.py",
    "tests/interp/loading/test_placement.py",
    "tests/interp/captures/test_out_of_memory.py",
)
"""The longest first: what the others share out among the processes comes after."""


@dataclass(frozen=True)
class Ended:
    """How a step ended. said: the lines that tell what failed."""

    step: str
    status: int
    seconds: float
    was_cut: bool
    said: tuple[str, ...]

    def __str__(self) -> str:
        how = "cut off" if self.was_cut else "ok" if self.status == 0 else f"failed ({self.status})"
        return "\n".join([f"{self.step:10} {how}, {self.seconds:.0f} s", *(f"    {line}" for line in self.said)])


def command_of(step: str, out: Path) -> list[str]:
    """The step as a program of its own."""
    if step == "benchmark":
        return [sys.executable, "benchmarks/kernels.py", "--device", "cuda", "--quick", "--out", str(out)]
    if step != "tests":
        return [sys.executable, "benchmarks/gpu_smoke.py", "versions" if step == "versions" else "kernels"]
    workers = min(16, os.cpu_count() or 1)
    # The system's plugins are none of ours, and its releases may warn of what ours do not.
    plugins = ["-W", "default", "-p", "xdist.plugin", "-n", str(workers), "--dist", "worksteal"]
    told = ["-v", "-ra", "--tb=short", "--color=no", "--durations=25", f"--junitxml={out / 'tests.xml'}"]
    return [
        sys.executable,
        "-m",
        "pytest",
        *plugins,
        *told,
        "--continue-on-collection-errors",
        "-o",
        "minversion=8",
        *TESTS,
    ]


def environment() -> dict[str, str]:
    """Ours before what the system has; one thread a process, of which there are many."""
    paths = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "app"), os.environ.get("PYTHONPATH", "")]
    ours = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "PYTHONUNBUFFERED": "1"}
    ours |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HF_HUB_OFFLINE": "1"}
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | ours


def run(step: str, out: Path, seconds: float) -> Ended:
    """Run a step for at most so long, its output in a file."""
    given = environment()
    if step == "tests":
        # Every configuration is tested by name; measuring them first in every process would take most of the time.
        given |= {"INTERP_KERNELS_AUTOTUNE": "0"}
    log, start = out / f"{step}.txt", time.monotonic()
    with log.open("w") as file:
        program = subprocess.Popen(
            command_of(step, out), cwd=ROOT, env=given, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        was_cut = not _ends(program, seconds)
        if was_cut:
            # As from a keyboard, on which pytest and the benchmark tell what they have.
            os.kill(program.pid, signal.SIGINT)
            if not _ends(program, GRACE):
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
    said = tuple(line for line in log.read_text(errors="replace").splitlines() if _tells(line))
    return Ended(step, program.returncode, time.monotonic() - start, was_cut, said[-60:])


def _ends(program: subprocess.Popen, seconds: float) -> bool:
    try:
        program.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _tells(line: str) -> bool:
    return bool(re.match(r"(FAILED|ERROR|OFF|no CUDA|gpu |torch |triton |=+ .*(passed|failed|error)|\w*Error)", line))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gpu", help="folder for what the steps write")
    parser.add_argument("--minutes", type=float, default=8.0, help="at most so long, all steps together")
    parser.add_argument("--steps", nargs="+", choices=list(SHARES), default=list(SHARES))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    left, ended = 60 * arguments.minutes, []
    for n, step in enumerate(arguments.steps):
        rest = sum(SHARES[each] for each in arguments.steps[n:])
        ended.append(run(step, out, min(left, max(LEAST, left * SHARES[step] / rest - GRACE))))
        left -= ended[-1].seconds
        summary = "\n".join(map(str, ended)) + "\n"
        (out / "summary.txt").write_text(summary)
        print(ended[-1], flush=True)
        if step == "versions" and ended[-1].status:
            break
    raise SystemExit(any(each.status or each.was_cut for each in ended))


if __name__ == "__main__":
    main()
