"""Head dossiers as batch work: those of one streaming pass over the same documents, however they were made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import interp
from interp.batch import BatchStore, Plan, make_plan, open_store, run_batch
from interp.batch.dossiers import StoredDossiers, file_names, listed
from interp.batch.folder import BatchFolder
from interp.batch.kinds import KINDS
from interp.batch.kinds.dossiers import Dossiers
from interp.batch.kinds.scan import Scan
from interp.dossiers import HeadDossiers
from interp.errors import InputError
from tests.interp.batch.stores import contents, small_plan
from tests.interp.command import Command
from tests.interp.tiny import HEADS, LAYERS

OPTIONS: dict[str, Any] = {"length": 24, "strongest": 2, "samples": 1, "pool": 8, "by": "entropy", "seed": 3}
PLACE = ["unit", "model", "checkpoint", "step"]


def dossier_plan(model: Path, folder: Path, documents: int = 8, **keys: Any) -> Plan:
    given = {"kind": "dossiers", "dossiers": OPTIONS, **keys}
    if "scan" not in given["kind"]:
        given |= {"detectors": None, "window": None, "samples": None}
    return small_plan(model, folder, documents, **given)


def texts_of(plan: Plan) -> list[str]:
    return [json.loads(line)["text"] for line in Path(plan.texts[0].paths[0]).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def plan(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Eight documents in several units, run once; no test changes its store."""
    made = dossier_plan(model_folder, tmp_path_factory.mktemp("dossiers"))
    assert run_batch(made, progress=False).is_complete
    return made


@pytest.fixture(scope="module")
def store(plan: Plan) -> BatchStore:
    return open_store(plan.output)


@pytest.fixture(scope="module")
def streamed(plan: Plan, model_folder: Path) -> HeadDossiers:
    """The same by ``interp.head_dossiers``."""
    model = interp.load(str(model_folder), device="cpu")
    return interp.head_dossiers(model, texts_of(plan), **OPTIONS, progress=False)


def test_they_are_those_of_one_pass_over_the_same_documents(store: BatchStore, streamed: HeadDossiers):
    found = store.dossiers()
    assert (found.layers, found.heads, found.by) == (streamed.layers, streamed.heads, "entropy")
    # Documents run in other batches: float32 rounds anew, by up to 2^-23 of values of some units, through two layers.
    for name, columns in {
        "metrics": ["value", "stderr", "chance"],
        "distance": ["mass", "stderr", "chance"],
        "shown": ["value"],
    }.items():
        ours, theirs = getattr(found, name), getattr(streamed, name)
        exact = [column for column in theirs if column not in columns]
        pd.testing.assert_frame_equal(ours[exact], theirs[exact], check_dtype=False)
        for column in columns:
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-5, atol=1e-5, err_msg=f"{name} {column}")
    for column in ("passage", "text", "start", "digest"):
        assert found.passages[column].tolist() == streamed.passages[column].tolist()
    for column in ("ids", "tokens"):
        assert list(map(list, found.passages[column])) == list(map(list, streamed.passages[column]))
    assert found.histograms.groupby("metric")["count"].sum().to_dict() == (
        streamed.histograms.groupby("metric")["count"].sum().to_dict()
    )
    assert len(found.edges) > 0
    assert found.settings["inputs"] == streamed.settings["inputs"]
    assert found.settings["constants"]["seed"] == 3


def test_one_unit_gives_the_same_to_the_last_bit(model_folder: Path, tmp_path: Path):
    plan = dossier_plan(model_folder, tmp_path, unit_characters=100_000)
    assert run_batch(plan, progress=False).planned == 2
    found = open_store(plan.output).dossiers()
    model = interp.load(str(model_folder), device="cpu")
    streamed = interp.head_dossiers(model, texts_of(plan), **OPTIONS, progress=False)
    for name in ("metrics", "histograms", "distance", "tokens", "shown", "edges"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(streamed, name), check_exact=True)
    assert {key: value for key, value in found.settings.items() if key != "batch"} == streamed.settings
    assert found.settings["batch"] == {"model": model_folder.name, "checkpoint": "", "step": None}


def test_a_page_is_made_of_what_is_stored(store: BatchStore, plan: Plan, tmp_path: Path, command: Command):
    copy = tmp_path / "copy"
    shutil.copytree(plan.output, copy)
    ran = command("report", copy)
    name = listed(store)[0].label
    assert (ran.code, ran.out) == (0, f"report: {copy}/reports/{name}.html\n")
    page = (copy / "reports" / f"{name}.html").read_text(encoding="utf-8")
    assert page == store.dossiers().report()
    assert page.count('<section id="L') == LAYERS * HEADS
    shutil.rmtree(copy / "shards")
    refused = command("report", copy).refused()
    assert "holds no finished head dossiers; they are of batches of the kinds dossiers and scan+dossiers" in refused


def test_sql_asks_their_tables(store: BatchStore):
    best = store.query("select layer, head, value from metrics where metric = 'entropy' order by value desc limit 1")
    expected = store.dossiers().of("entropy").iloc[0]
    assert best.iloc[0].tolist() == expected[["layer", "head", "value"]].tolist()
    named = store.query(
        "select distinct document from shown join passages using (unit, passage) where \"group\" = 'strongest'"
    )
    assert set(named["document"]) <= {f"d{n}" for n in range(8)}
    assert store.query("select sum(positions) n from inputs")["n"][0] == store.dossiers().settings["inputs"]["tokens"]
    assert store.views == ()
    for table in store.tables:
        frame = store.to_frame(table)
        assert frame.columns[:4].tolist() == PLACE or table in ("units", "errors")


def test_passages_are_named_by_the_document_that_they_stand_in(store: BatchStore, plan: Plan, tokenizer: Any):
    texts = texts_of(plan)
    rows = store.to_frame("passages").to_dict("records")
    assert len({row["number"] for row in rows}) > 4
    for row in rows:
        assert row["document"] == f"d{row['number']}"
        assert row["text"] == "texts"
        words = [tokenizer.decode([i]) for i in row["ids"] if i not in tokenizer.all_special_ids]
        assert " ".join(words) in texts[row["number"]]


def test_what_is_missing_is_done_and_the_store_is_that_of_an_undisturbed_run(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    again = replace(plan, output=tmp_path / "again")
    shutil.copytree(plan.output, again.output)
    units = open_store(plan.output).to_frame("units")
    measured: list[str] = []
    plain = Dossiers.run

    def run(self: Dossiers, model: Any, unit: Any, *rest: Any, **options: Any) -> Any:
        measured.append(unit.part)
        return plain(self, model, unit, *rest, **options)

    monkeypatch.setattr(Dossiers, "run", run)
    for lost in (units["unit"].iloc[[1]], units["unit"].iloc[[0, -1]], units["unit"].iloc[[-1]]):
        for unit in lost:
            shutil.rmtree(again.output / "shards" / unit)
        measured.clear()
        assert run_batch(again, resume=True, progress=False).is_complete
        assert measured == units.set_index("unit").loc[lost, "part"].tolist()
        assert contents(again.output) == contents(plan.output)


def test_workers_gather_when_all_is_measured(plan: Plan, tmp_path: Path):
    import torch

    outputs = tmp_path / "alone", tmp_path / "two"
    threads = torch.get_num_threads()
    try:
        for output, workers in zip(outputs, (1, 2), strict=True):
            made = replace(plan, output=output)
            assert run_batch(made, workers=workers, threads=1, progress=False).is_complete
    finally:
        torch.set_num_threads(threads)
    alone, two = map(contents, outputs)
    assert {n: data for n, data in two.items() if n != "manifest.json"} == {
        n: data for n, data in alone.items() if n != "manifest.json"
    }


def test_a_group_that_failed_leaves_its_model_without_dossiers_until_it_is_tried_again(
    model_folder: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    made = dossier_plan(model_folder, tmp_path, models=[str(model_folder), str(other)])
    plain = Dossiers.run

    def run(self: Dossiers, model: Any, unit: Any, *rest: Any, **options: Any) -> Any:
        if unit.model.model == "other" and unit.documents and unit.documents[0].document == "d0":
            raise MemoryError
        return plain(self, model, unit, *rest, **options)

    monkeypatch.setattr(Dossiers, "run", run)
    summary = run_batch(made, progress=False)
    monkeypatch.undo()
    groups = summary.planned // 2 - 1
    retry = "with --resume --retry-failed (retry_failed=True) they and it are tried again"
    assert sorted(summary.failed.values()) == [
        f"1 of the {groups} units that it is made of failed; {retry}",
        "MemoryError",
    ]
    store = open_store(made.output)
    assert [each.model for each in listed(store)] == [model_folder.name]
    assert store.dossiers().settings["batch"]["model"] == model_folder.name
    assert run_batch(made, resume=True, progress=False).done == 0
    assert run_batch(made, resume=True, retry_failed=True, progress=False).is_complete
    with pytest.raises(InputError, match=r"model: the store holds dossiers of several, give one of .*, other"):
        open_store(made.output).dossiers()
    with pytest.raises(InputError, match=r"model: there are no dossiers of 'othr'; did you mean 'other'\?"):
        open_store(made.output).dossiers("othr")
    mine, theirs = open_store(made.output).dossiers("other"), open_store(plan.output).dossiers()
    pd.testing.assert_frame_equal(mine.metrics, theirs.metrics, check_exact=True)


def test_scans_and_dossiers_share_a_store_and_what_is_done_already(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scans = small_plan(model_folder, tmp_path, 4)
    first = run_batch(scans, progress=False)
    before = {
        unit: contents(scans.output)[f"shards/{unit}/shard.json"] for unit in BatchFolder(scans.output).finished()
    }
    monkeypatch.setattr(Scan, "run", None)
    both = dossier_plan(model_folder, tmp_path, 4, kind="scan+dossiers")
    summary = run_batch(both, resume=True, progress=False)
    monkeypatch.undo()
    assert (summary.is_complete, summary.unshown) == (True, 0)
    assert summary.done == summary.planned - first.planned
    store = open_store(both.output)
    assert set(before) < BatchFolder(both.output).finished()
    assert {"scores", "metrics", "edges", "dossiers"} < set(store.tables)
    assert len(store.to_frame("heads")) > 0
    assert store.dossiers().settings["inputs"]["passages"] > 0
    assert store.check() == {}
    # One kind alone makes the same shards.
    alone = replace(dossier_plan(model_folder, tmp_path, 4), output=tmp_path / "alone")
    run_batch(alone, progress=False)
    assert BatchFolder(alone.output).finished() == BatchFolder(both.output).finished() - set(before)


def test_documents_without_a_passage_are_left_out_with_the_reason(model_folder: Path, tmp_path: Path):
    texts = tmp_path / "few.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in ("", "  \n", "w3 w4 w5")), encoding="utf-8")
    plan = make_plan(
        kind="dossiers",
        models=[str(model_folder)],
        texts=[{"jsonl": str(texts)}],
        output=tmp_path / "out",
        device="cpu",
    )
    assert run_batch(plan, progress=False).is_complete
    store = open_store(plan.output)
    assert store.to_frame("inputs")["sequences"].tolist() == [0, 0, 1]
    left_out = store.to_frame("left_out")
    assert left_out["document"].tolist() == ["few.jsonl:0", "few.jsonl:1"]
    assert set(left_out["reason"]) == {"it has fewer than two tokens"}
    assert store.to_frame("passages")["document"].tolist() == ["few.jsonl:2"]


def test_a_corpus_without_a_passage_fails_and_says_where_the_reason_stands(bare_folder: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("w3 w4 w5", encoding="utf-8")
    plan = make_plan(
        kind="dossiers",
        models=[str(bare_folder)],
        texts=str(tmp_path / "text.txt"),
        output=tmp_path / "out",
        device="cpu",
    )
    summary = run_batch(plan, progress=False)
    assert list(summary.failed.values()) == ["the documents gave no passage of two tokens; the table left_out says why"]
    assert "tokenizer" in open_store(plan.output).to_frame("left_out")["reason"][0]


def test_a_damaged_part_is_named_with_what_to_do(plan: Plan, tmp_path: Path):
    again = replace(plan, output=tmp_path / "again")
    shutil.copytree(plan.output, again.output)
    units = open_store(plan.output).to_frame("units")["unit"]
    (again.output / "shards" / units.iloc[0] / "part_kept.parquet").write_bytes(b"something else")
    shutil.rmtree(again.output / "shards" / units.iloc[-1])
    summary = run_batch(again, resume=True, progress=False)
    [message] = summary.failed.values()
    assert message.startswith(f"{again.output}/shards/{units.iloc[0]} cannot be read (")
    assert message.endswith("delete it, and --resume --retry-failed makes it again")
    shutil.rmtree(again.output / "shards" / units.iloc[0])
    assert run_batch(again, resume=True, retry_failed=True, progress=False).is_complete
    assert contents(again.output) == contents(plan.output)


def test_a_table_that_is_another_is_named(plan: Plan, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(plan.output, copy)
    shard = BatchFolder(copy).shard(listed(open_store(copy))[0].unit)
    shutil.copy(shard / "metrics.parquet", shard / "shown.parquet")
    with pytest.raises(
        InputError, match=r"a shard cannot be read \(shown of .* is another table\); check\(\) names those"
    ):
        open_store(copy).dossiers()
    assert open_store(copy).check() == {shard.name: "shown.parquet is not what was written"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dossiers": {"lenght": 5}}, r"dossiers\.lenght: unknown key; did you mean 'length'\?"),
        ({"dossiers": {"by": "entrpy"}}, r"dossiers\.by: expected one of strongest, previous_token.*, got 'entrpy'"),
        ({"dossiers": {"least": 1}}, r"dossiers\.least: expected a number of at least 0 and less than 1, got 1"),
        ({"dossiers": {"least": True}}, r"dossiers\.least: expected a number .*, got True"),
        ({"dossiers": {"pool": 7, "samples": 2}}, r"dossiers\.pool: 7 passages cannot give 2 out of each fifth; .* 10"),
        ({"dossiers": 3}, r"dossiers: expected a table, got 3"),
        ({"detectors": ["induction"]}, r"detectors: unknown key"),
        ({"texts": []}, r"texts: head dossiers are of a corpus; give \[\[texts\]\]"),
    ],
)
def test_problems_of_a_plan_are_named(tmp_path: Path, keys: dict[str, Any], message: str):
    (tmp_path / "text.txt").write_text("a", encoding="utf-8")
    given = {"kind": "dossiers", "models": ["demo"], "texts": str(tmp_path / "text.txt"), "output": tmp_path / "out"}
    with pytest.raises(InputError, match=message):
        make_plan(**{**given, **keys})


@pytest.mark.parametrize("kind", ["dossiers", "scan+dossiers"])
def test_settings_survive_json(tmp_path: Path, kind: str):
    (tmp_path / "text.txt").write_text("a", encoding="utf-8")
    plan = make_plan(kind=kind, models=["demo"], texts=str(tmp_path / "text.txt"), output="out", dossiers=OPTIONS)
    assert KINDS[kind].of_json(json.loads(json.dumps(plan.settings.as_json()))) == plan.settings


def test_a_dry_run_times_the_gathering_too_and_writes_nothing(model_folder: Path, tmp_path: Path, command: Command):
    plan = dossier_plan(model_folder, tmp_path)
    text = f"""
        kind = "dossiers"
        output = {json.dumps(str(plan.output))}
        device = "cpu"
        unit_characters = 200
        models = {json.dumps([str(model_folder)])}
        [dossiers]
        length = 24
        [[texts]]
        jsonl = {json.dumps(plan.texts[0].paths[0])}
        """
    (tmp_path / "plan.toml").write_text(text, encoding="utf-8")
    told = command("batch", tmp_path / "plan.toml", "--dry-run", "--quiet", "--json").json
    assert set(told["rates"][model_folder.name]) == {"passages", "dossiers"}
    assert all(rate > 0 for rate in told["rates"][model_folder.name].values())
    assert not plan.output.exists()


def test_pages_have_names_of_plain_letters_that_differ():
    found = [
        StoredDossiers(unit * 32, model, checkpoint, "{}")
        for unit, model, checkpoint in (
            ("a", "org/m", "step 1"),
            ("b", "org-m", "step-1"),
            ("c", "../..", ""),
            ("d", "m", ""),
        )
    ]
    assert file_names(found) == [
        "org-m@step-1-aaaaaaaa.html",
        "org-m@step-1-bbbbbbbb.html",
        "model.html",
        "m.html",
    ]
