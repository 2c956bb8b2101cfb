"""A plan from its first unit to its last: only what is missing is done, and what fails does not stop the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from interp.batch.folder import BatchFolder
from interp.batch.plan import Plan, read_plan
from interp.batch.shard import Order, Outcome
from interp.batch.summary import Summary
from interp.batch.units import SCHEMA, Unit, Work, units_table, work_of
from interp.errors import InputError
from interp.folders import check_output_folder
from interp.progress import Bar


def run_batch(
    plan: Plan | str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
) -> Summary:
    """Do all units of a plan that its store does not hold yet; see docs/batch.md.

    However it ends, finished units are kept whole, and a run with ``resume=True`` does the rest: the store is then the same to
    the last bit (but for times in its manifest) as after one undisturbed run, with the same engine and as many threads.

    Args:
        plan: of ``read_plan`` or ``make_plan``, or the path of its TOML file.
        engine: "local": on this machine; "ray": on the Ray cluster that RAY_ADDRESS names, or that this machine is in.
        workers: each has a model of its own. None: of "local" one, or one for each GPU; of "ray" one for each GPU of the
            cluster, or as many as its cores allow. One worker of "local" works in this process.
        threads: of each worker. None: of "local" this process's own, or the cores shared among the workers; of "ray" one.
        resume: go on with what the output folder holds. Without, a folder that holds a batch is refused.
        retry_failed: try units again that failed in an earlier run.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the plan, the folder or an argument cannot be used; another run writes there; or it was begun with other
            versions of the libraries that numbers depend on.
        RunError: the work cannot go on, as when the disk is full. What was finished is kept.
    """
    from interp.batch.engines import ENGINES
    from interp.loading.quiet import without_loading_bar

    plan = plan if isinstance(plan, Plan) else read_plan(plan)
    if engine not in ENGINES:
        raise InputError(f"engine: expected one of {', '.join(ENGINES)}, got {engine!r}")
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name}: expected an integer of at least 1, got {value!r}")
    opening = ENGINES[engine](plan.device, workers, threads)
    folder = BatchFolder(plan.output)
    _check_folder(folder, resume)
    with folder.locked(), opening as place:
        folder.clean()
        work = _work(plan, folder, place.device_type, progress=progress)
        settings = plan.settings.as_json()
        order = Order(str(folder.path.resolve()), plan.kind, settings, place.device, plan.dtype, place.threads)
        with without_loading_bar():
            return _run(
                plan,
                folder,
                work,
                partial(place.run, order),
                retry_failed=retry_failed,
                progress=progress,
                facts={"engine": engine, "workers": place.workers, "threads": place.threads or _own_threads()},
            )


def _check_folder(folder: BatchFolder, resume: bool) -> None:
    check_output_folder(folder.path, "", "batch", overwrite=True, how="")
    if not folder.holds_batch:
        return
    schema, made = folder.manifest()["schema"], folder.manifest()["versions"].get("interp", "?")
    if schema != SCHEMA:
        raise InputError(
            f"{folder.path} has schema {schema}, this interp writes schema {SCHEMA}: it can be asked, but not be gone on with; "
            f"finish it with the interp that began it ({made}), or give another output"
        )
    if not resume:
        raise InputError(
            f"{folder.path} holds a batch already ({len(folder.finished())} finished units); go on with it (--resume, "
            "resume=True), or give another output"
        )


def _work(plan: Plan, folder: BatchFolder, device: str, *, progress: bool) -> Work:
    """The plan's units; refused where the store was begun with other versions."""
    known = folder.checksums()
    before = dict(known)
    work = work_of(plan, known, device, progress=progress)
    if known != before:
        folder.write_checksums(known)
    if folder.holds_batch and folder.finished():
        begun = folder.manifest()["versions"]
        if begun != work.versions:
            changed = [
                f"{name} {begun.get(name, 'none')} (here {work.versions.get(name, 'none')})"
                for name in sorted({*begun, *work.versions})
                if begun.get(name) != work.versions.get(name)
            ]
            raise InputError(
                f"{folder.path} was begun with {', '.join(changed)}, and numbers may differ in their last digits; go on with "
                "those versions, or give another output"
            )
    return work


def _run(
    plan: Plan,
    folder: BatchFolder,
    work: Work,
    run: Callable[[list[Unit]], Iterator[Outcome]],
    *,
    retry_failed: bool,
    progress: bool,
    facts: dict[str, Any],
) -> Summary:
    units = {unit.id: unit for unit in work.units}
    finished, failed = folder.finished(), folder.failed()
    todo = [u for u in work.units if u.id not in finished and (retry_failed or u.id not in failed)]
    runs = folder.manifest().get("runs", []) if folder.holds_batch else []
    this: dict[str, Any] = {"began": _now(), **facts, "done": 0, "failed": 0, "positions": 0, "seconds": 0.0}
    manifest = {**_facts(plan, work), "runs": [*runs, this]}
    folder.write_manifest(manifest, units_table(work.units))
    start = time.perf_counter()
    here = len(finished & units.keys())
    done: set[str] = set()
    try:
        with (
            Bar(total=len(units), initial=here, unit="unit", what=f"batch {folder.path.name}", show=progress) as bar,
            closing(_outcomes(run, todo, in_order=(facts["engine"], facts["workers"]) == ("local", 1))) as outcomes,
        ):
            for outcome in outcomes:
                if not outcome.is_done:
                    folder.write_error(units[outcome.unit], outcome.kind, outcome.message, outcome.trace)
                else:
                    done.add(outcome.unit)
                this["done" if outcome.is_done else "failed"] += 1
                this["positions"] += outcome.positions
                bar.update()
    finally:
        this["seconds"] = round(time.perf_counter() - start, 3)
        this["ended"] = _now()
        folder.write_manifest(manifest)
    # Where workers write from other machines, this one's view of the folder may be seconds old.
    finished = folder.finished() | done
    failed = folder.failed() - done
    errors = {unit.label: folder.error(unit.id)["message"] for unit in work.units if unit.id in failed}
    return Summary(
        folder.path,
        planned=len(units),
        done=this["done"],
        finished=len(finished & units.keys()),
        failed=errors,
        unshown=len(finished - units.keys()),
        positions=this["positions"],
        seconds=this["seconds"],
    )


def _outcomes(
    run: Callable[[list[Unit]], Iterator[Outcome]], todo: list[Unit], *, in_order: bool
) -> Generator[Outcome]:
    """All units. Those that gather others wait until these are done; a single worker, which goes in order, keeps its model."""
    first, then = (todo, []) if in_order else ([u for u in todo if not u.gathers], [u for u in todo if u.gathers])
    for units in (first, then):
        if units:
            with closing(run(units)) as outcomes:  # type: ignore[type-var]
                yield from outcomes


def _facts(plan: Plan, work: Work) -> dict[str, Any]:
    """What the manifest says beside its runs: the same whenever the plan is run."""
    return {
        "kind": plan.kind,
        "settings": plan.settings.as_json(),
        "dtype": plan.dtype,
        "device": work.device,
        "unit_characters": plan.unit_characters,
        "models": work.models,
        "texts": [asdict(entry) for entry in plan.texts],
        "documents": work.documents,
        "characters": work.characters,
        "units": len(work.units),
        "versions": work.versions,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _own_threads() -> int:
    import torch

    return torch.get_num_threads()
