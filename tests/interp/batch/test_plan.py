"""A plan is checked whole before anything runs, and one error names everything that is wrong with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from interp.batch import make_plan, open_store, read_plan, read_published
from interp.errors import InputError


def plan_file(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_start_from_the_folder_of_the_plan(model_folder: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("w3 w4", encoding="utf-8")
    path = plan_file(
        tmp_path,
        f"""
        output = "out"
        window = 16
        [[models]]
        source = "{model_folder}"
        [[texts]]
        files = "*.txt"
        """,
    )
    plan = read_plan(path)
    assert plan.output == tmp_path / "out"
    assert plan.texts[0].paths == (str(tmp_path / "a.txt"),)
    assert [ref.model for ref in plan.models] == [model_folder.name]


def test_all_problems_stand_in_one_error(tmp_path: Path):
    path = plan_file(
        tmp_path,
        """
        windw = 64
        samples = 0
        detectors = ["inductoin"]
        seeds = [1, 1]
        [[models]]
        source = "./nowhere"
        [[models]]
        sorce = "demo"
        [[texts]]
        files = "missing-*.txt"
        [[texts]]
        jsonl = "none.jsonl"
        files = "a.txt"
        """,
    )
    with pytest.raises(InputError) as raised:
        read_plan(path)
    message = str(raised.value)
    for part in (
        "windw: unknown key; did you mean 'window'?",
        "samples: expected an integer of at least 1, got 0",
        "unknown detector 'inductoin'; did you mean 'induction'?",
        "seeds: expected different integers",
        f"models[0]: there is no folder {tmp_path / 'nowhere'}",
        "models[1].sorce: unknown key; did you mean 'source'?",
        "models[1]: give either source (one model) or checkpoints",
        "no file matches 'missing-*.txt'",
        "texts[1]: give one of files, parquet, jsonl, dataset, got files, jsonl",
        "output: is missing; give a string",
    ):
        assert part in message, part
    assert message.startswith(f"plan {path} has 10 problems: ")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"models": []}, "models: expected at least one"),
        ({"models": ["demo"], "dtype": "int8"}, "dtype: expected one of auto, float32"),
        ({"models": ["demo"], "kind": "skan"}, "kind: expected one of scan"),
        ({"models": ["demo"], "window": True}, "window: expected an integer, got True"),
        ({"models": ["demo"], "detectors": ["copying"]}, "detectors: copying need texts"),
        ({"models": ["demo"], "options": {"broad": {}}}, "options: 'broad' is none of the detectors"),
        (
            {"models": ["demo"], "detectors": ["retrieval"], "options": {"retrieval": {"length": [9]}}},
            "options.retrieval.length: unknown option; did you mean 'lengths'?",
        ),
        ({"models": ["demo", "demo"]}, "two are called 'demo'"),
        ({"models": [{"source": "demo", "step": "("}]}, "'(' is no regular expression"),
        ({"models": [{"source": "a/b", "revision": "x", "revisions": ["y"]}]}, "either revision or revisions"),
        ({"models": [{"checkpoints": "nothing-*"}]}, "no folder matches 'nothing-*'"),
        ({"models": ["demo"], "texts": [{"files": "a", "column": "b"}]}, "a file is one document"),
        ({"models": ["demo"], "rows": "head"}, "rows: expected one of document, unit"),
    ],
)
def test_a_key_that_cannot_be_used_is_named(keys: dict, message: str, tmp_path: Path):
    with pytest.raises(InputError, match="the plan has") as raised:
        make_plan(output=tmp_path, **keys)
    assert message in str(raised.value)


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such file"):
        read_plan(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"is no TOML: Invalid value"):
        read_plan(plan_file(tmp_path, "models = ["))


def test_checkpoints_are_in_the_order_of_their_steps(model_folder: Path, tmp_path: Path):
    for step in (10, 9, 100):
        (tmp_path / "run" / f"step{step}").parent.mkdir(exist_ok=True)
        (tmp_path / "run" / f"step{step}").symlink_to(model_folder)
    plan = make_plan(models=[{"checkpoints": str(tmp_path / "run" / "step*")}], output=tmp_path / "out")
    assert [(ref.model, ref.checkpoint, ref.step) for ref in plan.models] == [
        ("run", "step9", 9),
        ("run", "step10", 10),
        ("run", "step100", 100),
    ]


def test_revisions_are_checkpoints_whose_number_is_their_step(tmp_path: Path):
    models = [{"source": "org/model", "revisions": ["step1000", "main"], "name": "m"}]
    plan = make_plan(models=models, output=tmp_path / "out")
    assert [(ref.label, ref.step, ref.revision) for ref in plan.models] == [
        ("m@step1000", 1000, "step1000"),
        ("m@main", None, "main"),
    ]


def test_a_folder_without_weights_is_a_problem(tmp_path: Path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"models\[0\]: .* has a config.json but no weights"):
        make_plan(models=[str(tmp_path / "half")], output=tmp_path / "out")


def test_checkpoints_of_several_runs_are_named_by_their_run(model_folder: Path, tmp_path: Path):
    for run in ("a", "b"):
        shutil.copytree(model_folder, tmp_path / "runs [2]" / run / f"step-{len(run)}")
        shutil.copytree(model_folder, tmp_path / "runs [2]" / run / "step-20")
    # The folder that patterns start from may be called as it likes.
    plan = plan_file(tmp_path / "runs [2]", 'output = "out"\n[[models]]\ncheckpoints = "*/step-*"\n')
    assert [ref.label for ref in read_plan(plan).models] == ["a@step-1", "a@step-20", "b@step-1", "b@step-20"]
    with pytest.raises(InputError, match="models: two are called 'm@step-1'"):
        read_plan(plan_file(tmp_path / "runs [2]", plan.read_text("utf-8") + 'name = "m"\n'))


def test_paths_may_stand_anywhere_in_a_plan_of_python(model_folder: Path, tmp_path: Path):
    (tmp_path / "a.txt").write_text("w3 w4", encoding="utf-8")
    plan = make_plan(models=[model_folder], texts=[{"files": [tmp_path / "a.txt"]}], output=tmp_path / "out")
    assert plan.models[0].source == str(model_folder)
    assert plan.texts[0].paths == (str(tmp_path / "a.txt"),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"retrieval": {"lengths": "abc"}},
            r"options\.retrieval\.lengths: expected tuple\[int, \.\.\.\] \| None, got 'abc'",
        ),
        ({"retrieval": {"lengths": [1.5]}}, r"options\.retrieval\.lengths: expected tuple\[int, .*, got \[1\.5\]"),
        (
            {"retrieval": {"counting": "cod"}},
            r"options\.retrieval\.counting: expected Literal\['code', 'set'\], got 'cod'",
        ),
        ({"induction": {"threshold": "x"}}, r"options\.induction\.threshold: expected float, got 'x'"),
        ({"induction": {"threshold": float("nan")}}, r"options\.induction\.threshold: expected float, got nan"),
        ({"induction": {"treshold": 0.3}}, r"options\.induction\.treshold: unknown option; did you mean 'threshold'\?"),
    ],
)
def test_options_of_the_wrong_kind_are_problems(tmp_path: Path, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        make_plan(models=["demo"], output=tmp_path / "out", detectors=list(options), options=options)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"texts": ["~nobody-here/x"]}, r"texts\[0\]\.files: '~nobody-here/x': there is no home folder of that user"),
        ({"texts": ["~nobody-here/*"]}, r"texts\[0\]\.files: '~nobody-here/\*': there is no home folder"),
        ({"models": ["~nobody-here/x"]}, r"models\[0\]\.source: '~nobody-here/x': there is no home folder"),
        (
            {"models": [{"checkpoints": "~nobody-here/*"}]},
            r"models\[0\]\.checkpoints: '~nobody-here/\*': there is no home",
        ),
        ({"output": "~nobody-here/x"}, r"output: '~nobody-here/x': there is no home folder"),
        ({"output": ""}, r"output: expected a path, got ''"),
        ({"output": "a\0b"}, r"output: expected a path, got 'a\\x00b'"),
        ({"texts": [{"files": "a.txt", "name": ""}]}, r"texts\[0\]\.name: expected a name, got ''"),
        ({"texts": [{"files": "a.txt", "name": "\ud800"}]}, r"texts\[0\]\.name: expected a name, got '\\ud800'"),
    ],
)
def test_paths_and_names_that_are_none_are_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict, message: str
):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        make_plan(**{"models": ["demo"], "output": "out", **keys})


def test_files_of_nobody_are_named(tmp_path: Path):
    for read in (read_plan, open_store, read_published):
        with pytest.raises(InputError, match="'~nobody-here/x': there is no home folder of that user"):
            read("~nobody-here/x")


def test_an_empty_list_of_texts_is_none(tmp_path: Path):
    with pytest.raises(InputError, match=r"detectors: copying need texts; give \[\[texts\]\]"):
        make_plan(models=["demo"], output=tmp_path / "out", detectors=["copying"], texts=[])


def test_settings_survive_json_so_that_workers_have_the_same():
    from interp.batch.kinds import KINDS

    plan = make_plan(
        models=["demo"], output="out", detectors=["retrieval"], options={"retrieval": {"lengths": [64]}}, seeds=[3, 4]
    )
    import json

    again = KINDS["scan"].of_json(json.loads(json.dumps(plan.settings.as_json())))
    assert again == plan.settings
    assert again.chosen()[0].lengths == (64,)  # pyright: ignore[reportAttributeAccessIssue]
