"""A program that is killed: it runs batches in forked children and sends them SIGKILL at random moments.

    python killing.py PLAN SEED KILLS

Forked, a child begins at once, with everything imported: so twenty kills take seconds. Prints the folders as JSON: one batch
that was left alone, and those that were killed, as many as it takes for so many kills, each then gone on with to its end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from interp.batch import Plan, read_plan, run_batch
from interp.scan import scan


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
    plan, seed, wanted = read_plan(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    model = plan.models[0].load("cpu", "auto")
    scan(model, ["induction"], samples=1, progress=False)
    del model
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
