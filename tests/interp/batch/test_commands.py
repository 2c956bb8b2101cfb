"""`interp batch` and `interp query` through the command line: what they print, and how they end."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from interp.batch import open_store
from interp.batch.folder import LOCK, BatchFolder
from interp.batch.shard import ShardRunner
from tests.interp.batch.stores import store_of, write_documents
from tests.interp.command import Command


@pytest.fixture
def plan(model_folder: Path, tmp_path: Path) -> Path:
    write_documents(tmp_path / "texts.jsonl", 4)
    path = tmp_path / "plan.toml"
    path.write_text(
        f"""
        output = "store"
        device = "cpu"
        window = 24
        samples = 2
        unit_characters = 200
        detectors = ["induction", "previous_token"]
        [[models]]
        source = {json.dumps(str(model_folder))}
        name = "m"
        [[texts]]
        jsonl = "texts.jsonl"
        """,
        encoding="utf-8",
    )
    return path


def test_a_batch_that_is_complete_ends_with_0_and_a_summary(command: Command, plan: Path):
    ran = command("batch", plan, "--quiet")
    store = open_store(plan.parent / "store")
    units = len(store.to_frame("units"))
    assert ran.code == 0
    assert ran.err == ""
    assert ran.out.startswith(f"{units} of {units} units are in {store.folder}: {units} of them done now, in ")
    again = command("batch", plan, "--resume", "--quiet", "--json")
    assert again.code == 0
    assert {key: again.json[key] for key in ("planned", "done", "finished", "failed", "missing")} == {
        "planned": units,
        "done": 0,
        "finished": units,
        "failed": {},
        "missing": 0,
    }


def test_a_batch_whose_units_fail_ends_with_1_and_names_them(command: Command, plan: Path, model_folder: Path):
    bad = plan.parent / "bad"
    shutil.copytree(model_folder, bad)
    weights = next(bad.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    plan.write_text(plan.read_text("utf-8") + '\n[[models]]\nsource = "bad"\n', encoding="utf-8")
    ran = command("batch", plan, "--quiet")
    assert ran.code == 1
    assert re.search(r"^\d+ units failed:\n  bad, random, seed 0: the weights of ", ran.out, flags=re.MULTILINE)
    told = command("batch", plan, "--resume", "--quiet", "--json")
    assert told.code == 1
    assert len(told.json["failed"]) == 3
    assert told.json["missing"] == 0
    retried = command("batch", plan, "--resume", "--retry-failed", "--quiet", "--json")
    assert (retried.code, retried.json["done"], len(retried.json["failed"])) == (1, 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retry-failed"], "--retry-failed goes with --resume"),
        (["--workers", "0"], "workers: expected an integer of at least 1, got 0"),
        (["--engine", "loca"], "engine: expected one of "),
        (["--dry-run", "--workers", "0"], "workers: expected an integer of at least 1, got 0"),
    ],
)
def test_options_that_cannot_be_used_end_with_2(command: Command, plan: Path, options: list[str], message: str):
    assert command("batch", plan, "--quiet", *options).refused().startswith(message)
    assert not (plan.parent / "store").exists()


def test_a_plan_that_cannot_be_used_ends_with_2(command: Command, plan: Path):
    assert command("batch", "none.toml").refused() == "plan none.toml: there is no such file"
    plan.write_text("windw = 3\n" + plan.read_text("utf-8"), encoding="utf-8")
    refused = command("batch", plan, "--dry-run").refused()
    assert refused == f"plan {plan} has a problem: windw: unknown key; did you mean 'window'?"


def test_a_store_that_is_there_is_refused_without_resume(command: Command, plan: Path):
    assert command("batch", plan, "--quiet").code == 0
    refused = command("batch", plan, "--quiet").refused()
    assert "holds a batch already (3 finished units); go on with it (--resume" in refused


def test_a_full_disk_ends_with_1_and_one_line(command: Command, plan: Path, monkeypatch: pytest.MonkeyPatch):
    def write_bytes(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert "No space left on device" in command("batch", plan, "--quiet").refused(1)


def test_an_interruption_ends_with_130_and_says_how_to_go_on(
    command: Command, plan: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, count = ShardRunner.run, [0]

    def run(self: ShardRunner, *units: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return plain(self, *units)

    monkeypatch.setattr(ShardRunner, "run", run)
    ran = command("batch", plan, "--quiet")
    assert ran.code == 130
    assert ran.out == ""
    assert f"what is finished is kept in {plan.parent / 'store'}; --resume does the rest" in ran.err
    assert "Traceback" not in ran.err
    monkeypatch.undo()
    again = command("batch", plan, "--resume", "--quiet", "--json")
    assert (again.code, again.json["done"], again.json["finished"]) == (0, 2, 3)


def test_a_dry_run_prints_work_memory_and_time_and_writes_nothing(command: Command, plan: Path):
    ran = command("batch", plan, "--dry-run", "--quiet", "--workers", "2")
    assert ran.code == 0
    assert ran.err == ""
    first, documents, units, seconds, memory = ran.out.splitlines()
    assert re.fullmatch(r"a model: m; it has [\d.,]+ \w+ of weights", first)
    characters = sum(
        len(json.loads(line)["text"]) for line in (plan.parent / "texts.jsonl").read_text("utf-8").splitlines()
    )
    assert documents == f"4 documents, {characters:,} characters"
    assert units == "3 units of work, 0 finished, 3 to do"
    assert re.fullmatch(r"about [\d.]+ (s|min.*) with 2 workers, after a piece that was run", seconds)
    assert re.fullmatch(r"about [\d.,]+ [kMG]i?B of memory for each worker", memory)
    assert not (plan.parent / "store").exists()
    told = command("batch", plan, "--dry-run", "--quiet", "--json").json
    assert (told["units"], told["finished"], told["documents"], told["characters"]) == (3, 0, 4, characters)
    assert told["models"] == {"m": 1}
    assert told["memory"] > told["weights"]["m"] > 0
    assert told["seconds"] > 0
    assert command("batch", plan, "--quiet").code == 0
    left = command("batch", plan, "--dry-run", "--quiet", "--json").json
    assert (left["finished"], left["seconds"]) == (3, 0)


ROWS = [
    {"model": "m, \u2028<b>", "detector": "x", "layer": 0, "head": head, "score": score}
    for head, score in enumerate([0.1234567890123456, None, 1.0])
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store", ROWS).folder


ASKED = "select model, head, score, [head, 7] as list, score > 0.5 as high from scores order by head"


def test_rows_as_json_keep_every_digit(command: Command, store: Path):
    ran = command("query", store, ASKED, "--json")
    assert ran.code == 0
    assert [row["score"] for row in ran.json] == [0.1234567890123456, None, 1.0]
    assert ran.json[0]["model"] == "m, \u2028<b>"
    assert [row["list"] for row in ran.json] == [[0, 7], [1, 7], [2, 7]]
    assert [row["high"] for row in ran.json] == [False, None, True]


def test_rows_as_json_are_json_also_where_numbers_are_not_finite(command: Command, store: Path):
    asked = "select 'inf'::double as far, ['nan'::double, 2] as list, {'a': '-inf'::double} as nested, date '2026-01-02' as day"
    assert command("query", store, asked, "--json").json == [
        {"far": None, "list": [None, 2], "nested": {"a": None}, "day": "2026-01-02T00:00:00"}
    ]


def test_a_table_on_a_terminal_shows_control_characters_as_escapes(command: Command, store: Path):
    ran = command("query", store, "select chr(27) || '[31mred' || chr(7) || chr(8238) || 'é' as name")
    assert "\\x1b[31mred\\x07\\u202eé" in ran.out
    assert not {"\x1b", "\x07", "\u202e"} & set(ran.out)


def test_rows_as_csv_keep_every_digit(command: Command, store: Path):
    ran = command("query", store, ASKED, "--csv")
    assert ran.code == 0
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["score"] for row in rows] == ["0.1234567890123456", "", "1.0"]
    assert rows[0]["model"] == "m, \u2028<b>"


def test_rows_as_a_table_show_what_is_missing(command: Command, store: Path):
    ran = command("query", store, "select head, score from scores order by head")
    assert ran.code == 0
    cells = [line.split() for line in ran.out.splitlines() if line.strip() and "─" not in line]
    assert cells == [["head", "score"], ["0", "0.1235"], ["1", "–"], ["2", "1"]]


def test_a_question_without_rows_gives_an_empty_answer(command: Command, store: Path):
    asked = "select head from scores where head > 9"
    assert command("query", store, asked, "--json").json == []
    assert command("query", store, asked, "--csv").out.split() == ["head"]
    assert command("query", store, asked).code == 0


@pytest.mark.parametrize(
    ("options", "sql", "message"),
    [
        (["--json", "--csv"], "select 1", "give either --json or --csv"),
        ([], "copy scores to 'out.csv'", "the query is a COPY statement, and a batch can only be read; give a select"),
        ([], "select * from read_csv('/etc/passwd')", "the query cannot be answered: Permission Error"),
        ([], "select 1; select 2", "the query has 2 statements; give one"),
    ],
)
def test_questions_that_are_refused_end_with_2(
    command: Command, store: Path, options: list[str], sql: str, message: str
):
    ran = command("query", store, sql, *options)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith(f"interp: {message}")
    assert not list(Path.cwd().iterdir())


def test_a_folder_without_a_batch_ends_with_2(command: Command):
    refused = command("query", "nowhere", "select 1").refused()
    assert refused == "nowhere holds no batch (no manifest.json); give the output folder of interp batch"


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


ENDED = """
import os, signal, sys
from pathlib import Path
from interp.cli import main
from interp.progress import Bar

plain, done = Bar.update, []

def update(self, *arguments):
    plain(self, *arguments)
    done.append(1)
    if len(done) == 3:
        os.write(1, Path(f"/proc/self/task/{os.getpid()}/children").read_bytes())
        os.kill(os.getpid(), signal.SIGNAL)

Bar.update = update
main()
"""
"""The command line, sent a signal at the third outcome: nothing is handed out after it, so the moment lies inside the run."""


def ended(plan: Path, name: str, workers: int) -> subprocess.CompletedProcess[str]:
    """A run that the signal of that name ended."""
    code = ENDED.replace("SIGNAL", name)
    return subprocess.run(
        [sys.executable, "-c", code, "batch", str(plan), "--workers", str(workers), "--threads", "1", "--quiet"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_with_130_leaves_no_worker_and_keeps_what_is_finished(plan: Path, workers: int):
    """A real SIGINT, as a terminal sends it."""
    write_documents(plan.parent / "texts.jsonl", 12)
    interrupted = ended(plan, "SIGINT", workers)
    assert interrupted.returncode == 130
    assert f"what is finished is kept in {plan.parent / 'store'}; --resume does the rest" in interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    children = set(map(int, interrupted.stdout.split()))
    assert len(children) == (workers if workers > 1 else 0)
    assert not any(map(is_running, children))
    store = open_store(plan.parent / "store")
    finished = int((store.to_frame("units")["state"] == "finished").sum())
    assert 3 <= finished <= 4 < len(store.to_frame("units"))
    assert store.check() == {}
    assert store.manifest["runs"][0]["done"] >= 2
    assert "ended" in store.manifest["runs"][0]


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="the system has no such /proc")
def test_a_killed_run_leaves_no_worker_behind_and_a_whole_store(command: Command, plan: Path):
    write_documents(plan.parent / "texts.jsonl", 12)
    killed = ended(plan, "SIGKILL", workers=2)
    assert killed.returncode == -signal.SIGKILL
    workers = set(map(int, killed.stdout.split()))
    assert len(workers) == 2
    end = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_running, workers))
    folder = BatchFolder(plan.parent / "store")
    found = len(folder.finished())
    # The three outcomes, and what the two workers had in hand: they end after that unit.
    assert 3 <= found <= 5 < len(open_store(folder.path).to_frame("units"))
    assert open_store(folder.path).check() == {}
    assert (folder.path / LOCK).exists()
    again = command("batch", plan, "--resume", "--threads", "1", "--quiet", "--json")
    assert (again.code, again.json["missing"]) == (0, 0)
    assert again.json["done"] == again.json["planned"] - found
    assert not list(folder.path.rglob("*.partial"))
