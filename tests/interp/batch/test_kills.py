"""A batch that is killed again and again ends as one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp.folders import PARTIAL
from tests.interp.batch.stores import SMALL, contents, write_documents

ROOT = Path(__file__).parents[3]
SEED = 7
SCAN = f"""
        window = {SMALL["window"]}
        samples = 2
        seeds = [0, 1]
        detectors = {json.dumps(SMALL["detectors"])}
"""
DOSSIERS = """
        kind = "dossiers"
        dossiers = {length = 24, strongest = 2, samples = 1, pool = 8}
"""


@pytest.mark.parametrize(("kind", "kills"), [(SCAN, 20), (DOSSIERS, 8)], ids=["scan", "dossiers"])
def test_a_store_after_kills_at_random_moments_is_that_of_an_undisturbed_run(
    model_folder: Path, tmp_path: Path, kind: str, kills: int
):
    write_documents(tmp_path / "texts.jsonl", 26)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f"""
        output = "stores"
        device = "cpu"
        unit_characters = 250
        {kind}
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
        # The allocator of pyarrow else has a thread, and the program forks.
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
    }
    script = ROOT / "tests" / "interp" / "batch" / "killing.py"
    done = subprocess.run(
        [sys.executable, str(script), str(plan), str(SEED), str(kills)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == kills
    alone = contents(Path(told["alone"]))
    assert sum(name.endswith("shard.json") for name in alone) > kills
    runs = 0
    for folder in told["killed"]:
        found = contents(Path(folder))
        assert found == alone, f"seed {SEED}, {folder}"
        assert not [name for name in found if name.endswith(PARTIAL)]
        runs += len(json.loads((Path(folder) / "manifest.json").read_text("utf-8"))["runs"])
    # A run that was killed before it wrote the manifest is not told of there; most come later.
    assert runs > len(told["killed"]) + kills // 4, told
