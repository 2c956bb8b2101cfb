"""A program that is killed: it runs batches in forked children and sends them SIGKILL at random moments.

    python killing.py PLAN SEED KILLS

Forked, a child begins at once, with what is slow imported and compiled: so twenty kills take seconds. Before it forks, this
process has one thread: a lock that another one holds at that moment would stay locked in the child. Prints the folders as JSON:
one batch that was left alone, and those that were killed, as many as it takes for so many kills, each gone on with to its end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import tqdm

from interp.batch import Plan, read_plan, run_batch
from interp.dossiers import DossierSettings, measure_part, passages_of
from interp.dossiers.edges import edges_of

IMPORTED = (
    "interp.batch.shard",
    "interp.dossiers.collect",
    "interp.scan",
    "interp.scores",
    "pandas",
    "pyarrow.parquet",
)
"""What a run imports when it begins: in a child it would take as long as the work, and kills would come before it."""


def begin(plan: Plan) -> int:
    """Run a plan in a child of its own; returns its process."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if run_batch(plan, resume=True, progress=False).is_complete else 3
        finally:
            os._exit(code)
    return child


def finish(plan: Plan) -> None:
    _, status = os.waitpid(begin(plan), 0)
    assert status == 0, status


def killed(plan: Plan, chance: random.Random, span: float, most: int) -> int:
    """Begin, kill, begin again, until it is complete or was killed ``most`` times; returns how often it was."""
    kills = 0
    while kills < most:
        child = begin(plan)
        # From the second on it is there already: at least one is killed that had begun its work.
        while kills and not (plan.output / "manifest.json").exists():
            # One that ended by itself before it got there would be waited for without end.
            ended, status = os.waitpid(child, os.WNOHANG)
            assert not ended, f"a run ended with status {status} before it wrote its manifest"
            time.sleep(0.001)
        time.sleep(chance.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert status == 0, status
            break
        kills += 1
    finish(plan)
    return kills


def main() -> None:
    tqdm.tqdm.monitor_interval = 0
    for name in IMPORTED:
        import_module(name)
    plan, seed, wanted = read_plan(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = plan.models[0].load("cpu", "auto")
    settings = DossierSettings(length=24).resolved(model)
    passages = list(passages_of(model, [list(range(3, 20))], settings.longest))
    measure_part(model, passages, settings)
    edges_of(model, passages, {0: {0: [0]}}, settings)
    del model, passages
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread may hold a lock when this process forks"
    alone = replace(plan, output=plan.output / "alone")
    begun = time.perf_counter()
    finish(alone)
    seconds = time.perf_counter() - begun
    chance, kills, folders = random.Random(seed), 0, []
    while kills < wanted:
        again = replace(plan, output=Path(plan.output) / f"killed{len(folders)}")
        kills += killed(again, chance, seconds / 4, wanted - kills)
        folders.append(str(again.output))
    print(json.dumps({"alone": str(alone.output), "killed": folders, "kills": kills, "seconds": seconds}))


if __name__ == "__main__":
    main()
