"""A batch does all of its plan, and only what is missing of it; what fails does not stop the rest."""

from __future__ import annotations

import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.batch import Plan, make_plan, open_store, run_batch
from interp.batch.folder import LOCK, BatchFolder
from interp.batch.kinds.scan import Scan
from interp.errors import InputError
from tests.interp.batch.stores import SMALL, contents, small_plan
from tests.interp.tiny import token_ids
from tests.interp.words import text_of


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Units that were measured, by their first document or part."""
    seen: list[str] = []
    plain = Scan.run

    def run(self: Scan, model: Any, unit: Any, *rest: Any, **options: Any) -> Any:
        seen.append(unit.documents[0].document if unit.documents else f"{unit.part} {unit.seed}")
        return plain(self, model, unit, *rest, **options)

    monkeypatch.setattr(Scan, "run", run)
    return seen


def texts_of(plan: Plan) -> dict[str, str]:
    lines = Path(plan.texts[0].paths[0]).read_text("utf-8").splitlines()
    return {content["id"]: content["text"] for content in map(json.loads, lines)}


def test_each_document_has_the_scores_that_a_scan_of_it_alone_gives(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, seeds=[5])
    assert run_batch(plan, progress=False).is_complete
    frame = open_store(plan.output).to_frame()
    # float32 as in the batch, and float64, which tells how far rounding alone moves the scores of this model.
    models = {dtype: interp.load(str(model_folder), device="cpu", dtype=dtype) for dtype in ("float32", "float64")}
    order = ["detector", "layer", "head"]
    errors: dict[str, list[float]] = {"alone": [], "batch": []}
    for document, text in texts_of(plan).items():
        rows = frame[frame["document"] == document].sort_values(order, ignore_index=True)
        alone, exact = (
            interp.scan(model, ["previous_token", "copying"], text=text, window=24, progress=False)
            .to_frame()
            .sort_values(order, ignore_index=True)
            for model in models.values()
        )
        for column in (*order, "is_above", "samples", "share_above"):
            assert rows[column].tolist() == alone[column].tolist(), column
        for column in ("score", "stderr", "chance"):
            assert rows[column].isna().tolist() == exact[column].isna().tolist(), column
            for name, found in (("alone", alone), ("batch", rows)):
                errors[name].append(float((found[column] - exact[column]).abs().max(skipna=True)))
    # Padding and the order of sums round anew: as far from the exact scores as a scan alone is, within a factor of two.
    assert 0 < np.nanmax(errors["alone"]) < 1e-4
    assert np.nanmax(errors["batch"]) <= 2 * np.nanmax(errors["alone"])
    drawn = interp.scan(models["float32"], ["induction"], window=24, samples=2, seed=5, progress=False).to_frame()
    rows = frame[frame["detector"] == "induction"]
    assert rows["score"].tolist() == drawn["score"].tolist()
    assert rows["document"].isna().all()


def test_a_text_counts_once_however_many_inputs_detectors_cut_from_it(model_folder: Path, tmp_path: Path):
    ids = token_ids((150,), seed=1).tolist()
    (tmp_path / "long.txt").write_text(text_of(ids), encoding="utf-8")
    found = {}
    # Windows of the longest length, and windows of 64 positions.
    for names in (["previous_token"], ["first_token_sink"], ["previous_token", "first_token_sink"]):
        output = tmp_path / "-".join(names)
        plan = make_plan(
            models=[str(model_folder)], texts=str(tmp_path / "long.txt"), output=output, device="cpu", detectors=names
        )
        summary = run_batch(plan, progress=False)
        inputs = open_store(output).to_frame("inputs")
        assert summary.positions == inputs["positions"].sum()
        found[tuple(names)] = summary.positions
    previous, sink, both = found.values()
    assert previous >= 150
    assert 128 <= sink <= 192
    assert both == max(previous, sink)


def test_what_a_detector_runs_in_a_way_of_its_own_is_not_counted(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, 2, detectors=["ov_copying"], window=None)
    summary = run_batch(plan, progress=False)
    assert (summary.is_complete, summary.positions) == (True, 0)
    store = open_store(plan.output)
    assert store.to_frame("inputs")[["sequences", "positions"]].isna().all(axis=None)
    assert len(store.to_frame()) > 0
    both = replace(
        plan, output=tmp_path / "both", settings=replace(plan.settings, detectors=("ov_copying", "induction"))
    )  # pyright: ignore[reportArgumentType]
    assert run_batch(both, progress=False).positions > 0


def test_random_tokens_count_as_often_as_they_are_drawn(model_folder: Path, tmp_path: Path):
    keys = {"models": [str(model_folder)], "device": "cpu", "window": 24, "samples": 2}
    found = [
        run_batch(make_plan(**keys, detectors=names, output=tmp_path / "-".join(names)), progress=False).positions
        for names in (["induction"], ["previous_token"], ["induction", "previous_token"])
    ]
    assert found[2] == found[0] + found[1]


def test_a_row_for_each_unit_is_the_mean_over_all_samples_of_its_documents(model_folder: Path, tmp_path: Path):
    by_document = small_plan(model_folder, tmp_path, detectors=["previous_token"])
    by_unit = replace(
        by_document,
        output=tmp_path / "units",
        settings=replace(by_document.settings, rows="unit"),  # pyright: ignore[reportArgumentType]
    )
    run_batch(by_document, progress=False)
    run_batch(by_unit, progress=False)
    frames = [open_store(plan.output).to_frame("heads") for plan in (by_document, by_unit)]
    assert len(open_store(by_unit.output).to_frame()) < len(open_store(by_document.output).to_frame())
    merged = frames[0].merge(frames[1], on=["detector", "layer", "head"])
    np.testing.assert_allclose(merged["score_x"], merged["score_y"], atol=1e-12)
    assert (merged["samples_x"] == merged["samples_y"]).all()


def test_a_second_run_does_only_what_is_missing(model_folder: Path, tmp_path: Path, ran: list[str]):
    plan = small_plan(model_folder, tmp_path)
    first = run_batch(plan, progress=False)
    before = contents(plan.output)
    folder = BatchFolder(plan.output)
    lost = sorted(folder.finished())[:2]
    for unit in lost:
        shutil.rmtree(plan.output / "shards" / unit)
    ran.clear()
    second = run_batch(plan, resume=True, progress=False)
    assert len(ran) == second.done == 2
    assert second.finished == first.finished == second.planned
    assert contents(plan.output) == before
    assert run_batch(plan, resume=True, progress=False).done == 0


def test_a_folder_that_holds_a_batch_is_refused_without_resume(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    with pytest.raises(InputError, match=r"holds a batch already \(2 finished units\); go on with it \(--resume"):
        run_batch(plan, progress=False)


def test_a_plan_that_grew_does_what_is_new(model_folder: Path, tmp_path: Path, ran: list[str]):
    run_batch(small_plan(model_folder, tmp_path, documents=4), progress=False)
    ran.clear()
    summary = run_batch(small_plan(model_folder, tmp_path, documents=4, seeds=[0, 1]), resume=True, progress=False)
    assert ran == ["random 1"]
    assert summary.is_complete
    assert summary.unshown == 0
    changed = run_batch(small_plan(model_folder, tmp_path, documents=4, samples=3), resume=True, progress=False)
    assert changed.done == changed.planned
    assert changed.unshown == summary.planned
    assert set(open_store(tmp_path / "store").to_frame("units")["seed"]) == {0}


def test_documents_that_a_detector_cannot_read_are_left_out_with_the_reason(model_folder: Path, tmp_path: Path):
    (tmp_path / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in ("", "w3 w4 w5 w6", "w3 w4 w3 w4 w5 w4")), encoding="utf-8"
    )
    texts = [{"jsonl": str(tmp_path / "texts.jsonl")}]
    plan = make_plan(models=[str(model_folder)], texts=texts, output=tmp_path / "out", device="cpu", **SMALL)
    assert run_batch(plan, progress=False).is_complete
    store = open_store(plan.output)
    left_out = store.to_frame("left_out").set_index("document")
    assert "none of its tokens comes twice" in str(left_out.loc["texts.jsonl:1", "reason"])
    assert left_out.loc["texts.jsonl:1", "detector"] == "copying"
    assert left_out.index.tolist() == ["texts.jsonl:0", "texts.jsonl:1"]
    scored = store.query(
        "select document, list(distinct detector order by detector) d from scores group by 1 order by 1"
    )
    assert [list(d) for d in scored["d"]] == [["previous_token"], ["copying", "previous_token"], ["induction"]]


def test_two_runs_on_one_store_at_once_are_refused(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path)
    plan.output.mkdir()
    with (plan.output / LOCK).open("w", encoding="utf-8") as other:
        other.write("process 7 on elsewhere\n")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"is being written by another run \(process 7 on elsewhere\)"):
            run_batch(plan, progress=False)
    assert run_batch(plan, progress=False).is_complete


def test_a_store_begun_with_other_versions_is_not_gone_on_with(model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    path = plan.output / "manifest.json"
    content = json.loads(path.read_text("utf-8"))
    content["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"was begun with torch 1\.0 \(here .*\), and numbers may differ"):
        run_batch(plan, resume=True, progress=False)


def test_models_whose_files_differ_have_units_of_their_own(model_folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    plan = small_plan(copy, tmp_path, documents=1)
    run_batch(plan, progress=False)
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}), encoding="utf-8")
    summary = run_batch(plan, resume=True, progress=False)
    assert summary.done == summary.planned == summary.unshown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "loca"}, "engine: expected one of local"),
        ({"workers": 0}, "workers: expected an integer of at least 1"),
        ({"threads": True}, "threads: expected an integer of at least 1"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(model_folder: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        run_batch(small_plan(model_folder, tmp_path), progress=False, **options)
    assert not (tmp_path / "store").exists()


def test_a_text_without_documents_is_refused(model_folder: Path, tmp_path: Path):
    (tmp_path / "none.jsonl").write_text("\n", encoding="utf-8")
    texts = [{"jsonl": str(tmp_path / "none.jsonl")}]
    with pytest.raises(InputError, match="the text 'none' holds no document"):
        run_batch(make_plan(models=[str(model_folder)], texts=texts, output=tmp_path / "out", **SMALL), progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "has schema 99, this interp reads schemas 1 and 2; read it with interp 7.0 or a later one"),
        ({"schema": 0}, "read it with the interp that wrote it (7.0), or run its plan again into another folder"),
        ({"schema": None}, "has schema None, this interp reads schemas 1 and 2"),
        ({"format": "other"}, "was not written by interp batch"),
        ({"kind": "films"}, "holds a batch of the kind 'films', which this interp does not know; update it"),
    ],
    ids=str,
)
def test_a_store_of_another_schema_or_kind_says_what_to_do(
    model_folder: Path, tmp_path: Path, change: dict, message: str
):
    plan = small_plan(model_folder, tmp_path, documents=1)
    run_batch(plan, progress=False)
    path = plan.output / "manifest.json"
    before = contents(plan.output)
    path.write_text(
        json.dumps({**json.loads(path.read_text("utf-8")), "versions": {"interp": "7.0"}, **change}), encoding="utf-8"
    )
    with pytest.raises(InputError) as raised:
        open_store(plan.output).to_frame()
    assert message in str(raised.value)
    with pytest.raises(InputError):
        run_batch(plan, resume=True, progress=False)
    assert {**contents(plan.output), "manifest.json": None} == {**before, "manifest.json": None}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "7",
        '{"format": "interp.batch", "schema": 99, "versions": 3}',
        '{"format": "interp.batch", "schema": 1}',
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str):
    (tmp_path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.json (cannot be read|was not written)|has schema 99"):
        open_store(tmp_path)
