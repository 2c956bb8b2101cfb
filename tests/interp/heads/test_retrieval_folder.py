"""A retrieval run that is broken off goes on where it was, and ends with the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import interp
import interp.heads.answers
from interp.errors import InputError
from interp.heads import Needle, RetrievalResult, retrieval
from interp.models.hooked import HookedModel
from tests.interp.circuits_retrieval import retrieval_circuit
from tests.interp.heads.test_retrieval import SMALL
from tests.interp.words import words_tokenizer

module = sys.modules["interp.heads.retrieval"]

KILLED = """
import time
import sys
import interp
from tests.interp.circuits_retrieval import retrieval_circuit
from tests.interp.heads.test_retrieval import SMALL
from tests.interp.words import words_tokenizer

model = interp.load(retrieval_circuit(), tokenizer=words_tokenizer())
module = sys.modules["interp.heads.retrieval"]
measured = module.measured


def slowly(model, trial, scored):
    if trial.number == 3:
        print("at the fourth", flush=True)
        time.sleep(600)
    return measured(model, trial, scored)


module.measured = slowly
interp.heads.retrieval(model, **SMALL, folder=sys.argv[1], progress=False)
"""


@pytest.fixture
def model() -> HookedModel:
    return interp.load(retrieval_circuit(), tokenizer=words_tokenizer())


def run(model: HookedModel, folder: Path | None = None, **changed: object) -> RetrievalResult:
    return retrieval(model, **{**SMALL, **changed}, folder=folder, progress=False)


def same(one: RetrievalResult, other: RetrievalResult) -> bool:
    return (
        one.trial_scores.tobytes() == other.trial_scores.tobytes()
        and one.trial_chance.tobytes() == other.trial_chance.tobytes()
        and one.trials.equals(other.trials)
        and one.settings == other.settings
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the trials that are run."""
    numbers: list[int] = []
    measured = interp.heads.answers.measured

    def counting(model, trial, scored):
        numbers.append(trial.number)
        return measured(model, trial, scored)

    monkeypatch.setattr(module, "measured", counting)
    return numbers


def test_a_second_run_runs_nothing_and_gives_the_same(model: HookedModel, tmp_path: Path, counted: list[int]):
    first = run(model, tmp_path / "run")
    assert counted == list(range(6))
    assert same(first, run(model, tmp_path / "run"))
    assert counted == list(range(6))
    assert same(first, run(model))


def test_what_an_interruption_left_is_gone_on_with(
    model: HookedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: list[int]
):
    counting = module.measured

    def interrupted(model, trial, scored):
        if trial.number == 3:
            raise KeyboardInterrupt
        return counting(model, trial, scored)

    with monkeypatch.context() as patched:
        patched.setattr(module, "measured", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path)
    assert sorted(path.name for path in (tmp_path / "trials").iterdir()) == ["00000.json", "00001.json", "00002.json"]
    finished = run(model, tmp_path)
    assert counted == list(range(6))
    assert same(finished, run(model))


def test_a_run_that_is_killed_loses_nothing_that_was_finished(model: HookedModel, tmp_path: Path, counted: list[int]):
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(root), str(root / "kernels")])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "at the fourth\n"
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    finished = run(model, tmp_path)
    assert counted == [3, 4, 5]
    assert same(finished, run(model))


def test_rules_of_counting_may_differ(model: HookedModel, tmp_path: Path, counted: list[int]):
    run(model, tmp_path)
    again = run(model, tmp_path, counting="set", threshold=0.5, recall_above=80)
    assert counted == list(range(6))
    assert same(again, run(model, counting="set", threshold=0.5, recall_above=80))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"depths": [0, 50, 99]}, r"constants.depths: \[0.0, 50.0, 100.0\] there, \[0.0, 50.0, 99.0\] asked for"),
        ({"max_new_tokens": 5}, "constants.max_new_tokens: 4 there, 5 asked for"),
        ({"seed": 1}, "constants.seed: 0 there, 1 asked for"),
        ({"needles": [Needle("w50 w51 w52", "w52")]}, "constants.needles: "),
        ({"haystack": SMALL["haystack"][::-1].replace("w", "") + " w5" * 100}, "inputs.sha256: "),
    ],
)
def test_other_settings_are_refused(model: HookedModel, tmp_path: Path, changed: dict, said: str):
    run(model, tmp_path)
    with pytest.raises(InputError, match=f"holds trials of other settings.*{said}"):
        run(model, tmp_path, **changed)


def test_another_model_of_the_same_name_is_refused(model: HookedModel, tmp_path: Path):
    run(model, tmp_path)
    changed = retrieval_circuit()
    changed.lm_head.weight.data[3, 3] = 2.0
    changed.transformer.wte.weight.data *= 1.5
    with pytest.raises(InputError, match=r"holds trials of other settings.*weights: "):
        run(interp.load(changed, tokenizer=words_tokenizer()), tmp_path)


def test_an_edited_model_is_another(model: HookedModel, tmp_path: Path):
    run(model, tmp_path)
    with (
        model.edited(interp.edits.ablate("L1H1")),
        pytest.raises(InputError, match=r"holds trials of other settings.*model.edits: "),
    ):
        run(model, tmp_path)


def test_damaged_files_are_named(model: HookedModel, tmp_path: Path):
    run(model, tmp_path)
    path = tmp_path / "trials" / "00002.json"
    path.write_text('{"ids": [1, 2')
    with pytest.raises(InputError, match=r"00002.json cannot be read .*; delete it, and that trial is run again"):
        run(model, tmp_path)
    path.unlink()
    assert same(run(model, tmp_path), run(model))
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run.json cannot be read .*; give another folder"):
        run(model, tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"format": "other", "settings": {}}))
    with pytest.raises(InputError, match=r"run.json was not written by this interp; give another folder"):
        run(model, tmp_path)


def test_folders_that_cannot_be_written_are_refused_before_anything_runs(
    model: HookedModel, tmp_path: Path, counted: list[int]
):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file; give a folder"):
        run(model, tmp_path / "file")
    with pytest.raises(InputError, match="cannot write into /proc/nowhere"):
        run(model, Path("/proc/nowhere"))
    assert counted == []


def test_a_leftover_of_a_write_that_was_cut_off_does_no_harm(model: HookedModel, tmp_path: Path, counted: list[int]):
    run(model, tmp_path)
    (tmp_path / "trials" / "00004.json").rename(tmp_path / "trials" / ".00004.json.77.partial")
    assert same(run(model, tmp_path), run(model))
    assert counted[:7] == [0, 1, 2, 3, 4, 5, 4]
