"""A batch that is killed again and again ends as one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from interp.folders import PARTIAL
from tests.interp.batch.stores import SMALL, contents, write_documents

ROOT = Path(__file__).parents[3]
KILLS, SEED = 20, 7


def test_a_store_after_twenty_kills_is_that_of_an_undisturbed_run(model_folder: Path, tmp_path: Path):
    write_documents(tmp_path / "texts.jsonl", 26)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f"""
        output = "stores"
        device = "cpu"
        unit_characters = 250
        window = {SMALL["window"]}
        samples = 2
        seeds = [0, 1]
        detectors = {json.dumps(SMALL["detectors"])}
        [[models]]
        source = {json.dumps(str(model_folder))}
        name = "one"
        [[models]]
        source = {json.dumps(str(model_folder))}
        name = "two"
        [[texts]]
        jsonl = "texts.jsonl"
        id_column = "id"
        """,
        encoding="utf-8",
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    script = ROOT / "tests" / "interp" / "batch" / "killing.py"
    done = subprocess.run(
        [sys.executable, str(script), str(plan), str(SEED), str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == KILLS
    alone = contents(Path(told["alone"]))
    assert sum(name.endswith("scores.parquet") for name in alone) > KILLS
    runs = 0
    for folder in told["killed"]:
        found = contents(Path(folder))
        assert found == alone, f"seed {SEED}, {folder}"
        assert not [name for name in found if name.endswith(PARTIAL)]
        runs += len(json.loads((Path(folder) / "manifest.json").read_text("utf-8"))["runs"])
    # A run that was killed before it wrote the manifest is not in it; not all of them were.
    assert runs > len(told["killed"])
