"""A worker on another machine says what is not there as it is where the run was started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import interp.batch.engines.ground as grounds
from interp.batch.engines.ground import Ground, prepared
from interp.batch.shard import Order
from interp.batch.units import work_of
from tests.interp.batch.stores import small_plan


def test_the_ground_of_a_run_is_checked(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(grounds, "PATIENCE", 0.0)
    plan = small_plan(model_folder, tmp_path, documents=3)
    plan.output.mkdir()
    units = work_of(plan, {}, "cpu").units
    with prepared(Order(str(plan.output), "scan", {}, "cpu", "auto"), units) as told:
        ground = Ground(**told.as_json())
        assert ground.problems("cpu") == []
        weights = sum(file.stat().st_size for file in model_folder.glob("*.safetensors"))
        assert ground.models == {str(model_folder): weights}
        assert ground.texts == [str(tmp_path / "texts.jsonl")]

        def only(other: Ground, device: str = "cpu") -> str:
            [problem] = other.problems(device)
            return problem

        versions = dict(ground.versions)
        torch = versions["torch"]
        assert only(replace(ground, versions={**versions, "torch": "1.0"})) == (
            f"torch is {torch}, where the run was started it is 1.0; install the same"
        )
        assert only(replace(ground, versions={**versions, "flash": "3"})).startswith("flash is none, where")
        del versions["torch"]
        assert only(replace(ground, versions=versions)).endswith(
            "where the run was started it is none; install the same"
        )
        for other in (replace(ground, secret="other"), replace(ground, token=str(tmp_path / "none"))):
            assert "is not the one of the run; give one that all machines share" in only(other)
        assert only(replace(ground, models={str(tmp_path / "none"): 7})) == (
            f"the model folder {tmp_path / 'none'} holds 0 bytes of weights, where the run was started 7"
        )
        assert only(replace(ground, texts=["/none.txt"])) == "the text /none.txt is not there"
        assert only(ground, "cuda:99").startswith("device 'cuda:99' cannot be used here")
    assert list(plan.output.iterdir()) == []
