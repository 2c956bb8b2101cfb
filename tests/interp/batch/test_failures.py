"""What goes wrong in a batch: full disks, memory, broken models, interruptions. What is finished stays, the rest goes on."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interp.batch import open_store, run_batch
from interp.batch.folder import BatchFolder
from interp.batch.kinds.scan import Scan
from interp.batch.models import ModelRef
from interp.batch.shard import ShardRunner
from interp.errors import InputError, RunError
from interp.folders import WriteError
from tests.interp.batch.stores import contents, small_plan

HERE = socket.gethostname().replace(".", "-")
"""As this machine stands in names of files that are half written."""


def test_a_corrupt_model_among_good_ones_fails_alone(model_folder: Path, tmp_path: Path):
    bad = tmp_path / "bad"
    shutil.copytree(model_folder, bad)
    weights = next(bad.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    plan = small_plan(model_folder, tmp_path, documents=4, models=[str(bad), str(model_folder), str(other)])
    summary = run_batch(plan, progress=False)
    units = summary.planned // 3
    assert summary.finished == 2 * units
    assert len(summary.failed) == units
    assert not summary.is_complete
    assert all("the weights of" in message for message in summary.failed.values())
    assert f"{units} units failed" in str(summary)
    store = open_store(plan.output)
    errors = store.to_frame("errors")
    assert set(errors["model"]) == {"bad"}
    assert set(store.to_frame()["model"]) == {model_folder.name, "other"}
    again = run_batch(plan, resume=True, progress=False)
    assert again.done == 0
    assert len(again.failed) == units


def test_what_failed_is_tried_again_on_request_and_its_error_goes(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = small_plan(model_folder, tmp_path)
    plain = Scan.run

    def out_of_memory(self: Scan, model: Any, unit: Any, *rest: Any, **options: Any) -> Any:
        if unit.documents and unit.documents[0].document == "d0":
            raise MemoryError
        return plain(self, model, unit, *rest, **options)

    monkeypatch.setattr(Scan, "run", out_of_memory)
    summary = run_batch(plan, progress=False)
    assert list(summary.failed.values()) == ["MemoryError"]
    assert "out_of_memory" in open_store(plan.output).to_frame("errors")["trace"][0]
    monkeypatch.undo()
    assert run_batch(plan, resume=True, progress=False).failed
    assert run_batch(plan, resume=True, retry_failed=True, progress=False).is_complete
    assert open_store(plan.output).to_frame("errors").empty
    alone = replace(plan, output=tmp_path / "alone")
    run_batch(alone, progress=False)
    assert contents(plan.output) == contents(alone.output)


def test_a_full_disk_ends_the_run_and_leaves_whole_shards(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = small_plan(model_folder, tmp_path)
    plain, written = Path.write_bytes, [0]

    def write_bytes(self: Path, data: bytes) -> int:
        if self.name.endswith(".parquet"):
            written[0] += 1
            if written[0] == 5:
                plain(self, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(WriteError, match=r"writing the shard into .* failed: .*No space left"):
        run_batch(plan, progress=False)
    monkeypatch.undo()
    assert len(BatchFolder(plan.output).finished()) == 1
    assert BatchFolder(plan.output).failed() == set()
    assert not list(plan.output.rglob("*.partial"))
    assert run_batch(plan, resume=True, progress=False).is_complete
    assert open_store(plan.output).check() == {}


def test_a_file_that_may_not_grow_is_a_full_disk_too(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path)
    # Whatever is compiled and cached has been written before files are kept small.
    alone = replace(plan, output=tmp_path / "alone")
    run_batch(alone, progress=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, before[1]))
        with pytest.raises(WriteError, match=r"writing the \w+ into .* failed: .*File too large"):
            run_batch(plan, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(plan.output.rglob("*.partial"))
    assert run_batch(plan, resume=plan.output.joinpath("manifest.json").exists(), progress=False).is_complete
    assert contents(plan.output) == contents(alone.output)


def test_what_a_killed_run_left_half_written_is_removed_and_never_read(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path)
    run_batch(plan, progress=False)
    before = contents(plan.output)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    half = plan.output / "shards" / f".{'0' * 32}.{HERE}.{gone.pid}.partial"
    half.mkdir()
    (half / "scores.parquet").write_bytes(b"PAR1")
    (plan.output / f".manifest.json.{HERE}.{gone.pid}.partial").write_text("{", encoding="utf-8")
    assert len(open_store(plan.output).to_frame()) > 0
    run_batch(plan, resume=True, progress=False)
    assert contents(plan.output) == before


def test_what_another_machine_writes_is_left_alone_until_it_is_old(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    # Of this process, which runs: on the other machine it is another one.
    halves = [plan.output / "shards" / f".{n * 32}.elsewhere.{os.getpid()}.partial" for n in "01"]
    for half in halves:
        half.mkdir()
    os.utime(halves[0], (time.time() - 7200,) * 2)
    run_batch(plan, resume=True, progress=False)
    assert [half.exists() for half in halves] == [False, True]


def test_an_interruption_keeps_what_is_finished(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = small_plan(model_folder, tmp_path)
    plain, count = ShardRunner.run, [0]

    def run(self: ShardRunner, *units: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        return plain(self, *units)

    monkeypatch.setattr(ShardRunner, "run", run)
    with pytest.raises(KeyboardInterrupt):
        run_batch(plan, progress=False)
    monkeypatch.undo()
    manifest = open_store(plan.output).manifest
    assert manifest["runs"][0]["done"] == 2
    assert "ended" in manifest["runs"][0]
    assert run_batch(plan, resume=True, progress=False).done == manifest["units"] - 2


def test_a_run_error_in_the_model_is_recorded(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any, **options: Any) -> None:
        raise RunError("NaN in layer 1")

    monkeypatch.setattr(Scan, "run", broken)
    summary = run_batch(small_plan(model_folder, tmp_path, documents=1), progress=False)
    assert set(summary.failed.values()) == {"NaN in layer 1"}
    assert summary.finished == 0


def test_a_shard_that_cannot_be_read_is_told_with_what_to_do(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    shards = list((plan.output / "shards").iterdir())
    for shard in shards:
        (shard / "scores.parquet").write_bytes(b"something else")
    with pytest.raises(InputError, match=r"a shard cannot be read .*check\(\) names those that are damaged"):
        open_store(plan.output).to_frame()
    with pytest.raises(InputError, match=r"the query cannot be answered: .*/scores\.parquet"):
        open_store(plan.output).query("select * from scores")
    (shards[0] / "scores.parquet").unlink()
    with pytest.raises(InputError, match="a shard cannot be read"):
        open_store(plan.output).query("select * from heads")


def test_a_shard_that_was_changed_is_found(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    shard = next((plan.output / "shards").iterdir())
    (shard / "scores.parquet").write_bytes(b"something else")
    assert open_store(plan.output).check() == {shard.name: "scores.parquet is not what was written"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_room(model_folder: Path, tmp_path: Path, small_disk: Path):
    alone = small_plan(model_folder, tmp_path, documents=24)
    assert run_batch(alone, progress=False).is_complete
    plan = replace(alone, output=small_disk / "store")
    with pytest.raises(WriteError, match=r"writing the \w+ into .* failed: .*No space left on device"):
        run_batch(plan, progress=False)
    store = open_store(plan.output)
    assert len(store.to_frame("inputs")) > 0
    assert store.check() == {}
    assert set(store.to_frame("units")["state"]) == {"finished", "missing"}
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert run_batch(plan, resume=True, progress=False).is_complete
    assert contents(plan.output) == contents(alone.output)


def test_what_an_error_says_is_kept_also_where_it_is_no_text(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*args: Any, **options: Any) -> None:
        raise RunError("half of a pair: \ud83d")

    monkeypatch.setattr(Scan, "run", broken)
    plan = small_plan(model_folder, tmp_path, documents=1)
    assert set(run_batch(plan, progress=False).failed.values()) == {"half of a pair: \\ud83d"}
    assert set(open_store(plan.output).to_frame("errors")["message"]) == {"half of a pair: \\ud83d"}


def test_a_unit_that_memory_does_not_suffice_for_fails_alone_and_lets_go_of_its_model(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch

    plain, models = Scan.run, []

    def run(self: Scan, model: Any, unit: Any, *rest: Any, **options: Any) -> Any:
        models.append(weakref.ref(model))
        if unit.documents and unit.documents[0].document == "d0":
            torch.empty(2**50)  # the allocator itself says no
        return plain(self, model, unit, *rest, **options)

    monkeypatch.setattr(Scan, "run", run)
    plan = small_plan(model_folder, tmp_path)
    summary = run_batch(plan, progress=False)
    [message] = summary.failed.values()
    assert "allocate" in message
    assert summary.finished == summary.planned - 1
    assert models[0]() is None
    assert len({id(each()) for each in models[2:]}) == 1


@pytest.mark.parametrize("error", [InputError, ValueError])
def test_a_model_that_could_not_be_loaded_is_not_kept_by_its_error(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
):
    class Weights:
        pass

    held: list[weakref.ref[Weights]] = []

    def load(self: ModelRef, device: str, dtype: str) -> None:
        weights = Weights()
        held.append(weakref.ref(weights))
        try:
            raise KeyError("a tensor")
        except KeyError as inner:
            raise error("its weights are damaged") from inner

    monkeypatch.setattr(ModelRef, "load", load)
    runner: list[ShardRunner] = []
    plain = ShardRunner.__exit__

    def leave(self: ShardRunner, *error: object) -> None:
        runner.append(self)
        plain(self, *error)

    monkeypatch.setattr(ShardRunner, "__exit__", leave)
    summary = run_batch(small_plan(model_folder, tmp_path), progress=False)
    assert set(summary.failed.values()) == {"its weights are damaged"}
    gc.collect()
    # One try for all units; its error is still known, what it had loaded is gone.
    assert len(held) == len(runner[0]._broken) == 1
    assert held[0]() is None


def test_what_a_killed_run_of_the_same_process_number_left_is_in_nobodys_way(model_folder: Path, tmp_path: Path):
    """In containers every run may have the number 1."""
    plan = small_plan(model_folder, tmp_path)
    run_batch(plan, progress=False)
    before = contents(plan.output)
    unit = min(BatchFolder(plan.output).finished())
    shutil.rmtree(plan.output / "shards" / unit)
    half = plan.output / "shards" / f".{unit}.{HERE}.{os.getpid()}.partial"
    half.mkdir()
    (half / "scores.parquet").write_bytes(b"PAR1")
    assert run_batch(plan, resume=True, progress=False).is_complete
    assert contents(plan.output) == before
    # Nor where nobody cleaned up: a worker that gets the number later.
    shutil.rmtree(plan.output / "shards" / unit)
    half.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchFolder, "clean", lambda self: None)
        assert run_batch(plan, resume=True, progress=False).is_complete
    assert contents(plan.output) == before


def test_a_store_of_the_former_schema_is_read_and_not_gone_on_with(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=2)
    run_batch(plan, progress=False)
    frame = open_store(plan.output).to_frame()
    path = plan.output / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "schema": 1}), encoding="utf-8")
    before = contents(plan.output)
    assert open_store(plan.output).to_frame().equals(frame)
    with pytest.raises(
        InputError, match=r"has schema 1, this interp writes schema 2: it can be asked, but not be gone on with"
    ):
        run_batch(plan, resume=True, progress=False)
    assert contents(plan.output) == before


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "[" * 100_000, '{"kind": 1, "message": null}'])
def test_what_a_failed_unit_said_may_be_damaged(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
):
    def broken(*args: Any, **options: Any) -> None:
        raise RunError("NaN in layer 1")

    monkeypatch.setattr(Scan, "run", broken)
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    monkeypatch.undo()
    for path in (plan.output / "errors").iterdir():
        path.write_text(content, encoding="utf-8")
    messages = open_store(plan.output).to_frame("errors")["message"]
    assert all(said.startswith("it failed, and what it said cannot be read (") for said in messages)
    assert set(run_batch(plan, resume=True, progress=False).failed.values()) == set(messages)
    assert run_batch(plan, resume=True, retry_failed=True, progress=False).is_complete


@pytest.mark.parametrize("content", ["", "[]", "null", '{"tables": 3}', '{"tables": {"scores.parquet": 3}}'])
def test_a_list_of_tables_that_is_damaged_is_found(model_folder: Path, tmp_path: Path, content: str):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    shard = next((plan.output / "shards").iterdir())
    (shard / "shard.json").write_text(content, encoding="utf-8")
    assert open_store(plan.output).check()[shard.name].startswith("shard.json cannot be read, or a table of it: ")


def test_a_table_of_units_that_is_another_is_named(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    shutil.copy(next((plan.output / "shards").iterdir()) / "inputs.parquet", plan.output / "units.parquet")
    with pytest.raises(InputError, match=r"units\.parquet cannot be read: it lacks number, part"):
        open_store(plan.output).to_frame("units")
