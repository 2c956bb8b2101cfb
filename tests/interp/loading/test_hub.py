"""A hub name: what is fetched is said first, what is in the cache needs no network, and a silent hub is not waited for.

Each test runs a fresh interpreter, since huggingface_hub reads its environment variables once, against a server on this
machine that plays the hub. Most of them stop before torch is needed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import interp
from tests.interp.loading.hub_server import NAME, Hub, serve

FETCH = """
import json, sys
from interp.errors import InputError
from interp.loading.hub import CONFIG, asked, cached
name, revision = sys.argv[1], sys.argv[2] or None
try:
    found = cached(name, revision)
    if found is None:
        remote = asked(name, revision)
        remote.fetch(CONFIG)
        found = remote.fetch(*remote.small, *remote.weights)
    print(json.dumps({"folder": str(found), "files": sorted(path.name for path in found.iterdir())}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""
LOAD = """
import json, os, sys, urllib.error, urllib.request, interp
def load():
    model = interp.load(sys.argv[1], revision=sys.argv[2] or None)
    return {"revision": model.revision, "name": model.name, "commit": model.model.config._commit_hash,
        "named": model.model.name_or_path, "ids": model.tokenizer("w5 w6 w7")["input_ids"],
        "weight": model.model.lm_head.weight.tolist()}
first = load()
try:
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/again")
except urllib.error.HTTPError:
    pass
print(json.dumps([first, load()]))
"""


class Machine:
    """An interpreter with its own Hugging Face home, and what it prints."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url

    def run(self, script: str, revision: str = "", name: str = NAME, **variables: str) -> tuple[Any, str]:
        """What ``script`` printed as JSON on stdout, and its stderr."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        own |= {"HF_HOME": str(self.home), "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | variables
        command = [sys.executable, "-c", script, name, revision]
        done = subprocess.run(command, capture_output=True, text=True, env=own, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr


@pytest.fixture
def hub(model_folder: Path, tmp_path: Path) -> Iterator[Hub]:
    """Two revisions of a tiny Llama; a README and weights of another framework stand beside the second."""
    other = Path(shutil.copytree(model_folder, tmp_path / "v2"))
    for name in ("README.md", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "modeling_own.py"):
        (other / name).write_bytes(b"x" * 2000)
    with serve(Hub({"main": model_folder, "v2": other})) as hub:
        yield hub


@pytest.fixture
def machine(hub: Hub, tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hub.url)


def test_a_download_is_announced_and_the_second_load_asks_nobody(machine: Machine, hub: Hub, model_folder: Path):
    (first, second), said = machine.run(LOAD)
    cache = machine.home / "hub"
    lines = [line for line in said.splitlines() if line.startswith("interp: downloading ")]
    assert len(lines) == 2
    assert lines[0].startswith("interp: downloading config.json (")
    size = sum((model_folder / n).stat().st_size for n in hub.resolved() if n != "config.json")
    for part in ("model.safetensors", f"({size / 1000:.0f} kB)", f"of {NAME} from {hub.url} into {cache}"):
        assert part in lines[1]
    assert first["revision"] == first["commit"] == hub.commit("main")
    assert first["name"] == first["named"] == NAME
    own = interp.load(model_folder)
    assert own.tokenizer is not None
    assert first["ids"] == own.tokenizer("w5 w6 w7")["input_ids"]
    assert first["weight"] == own.model.lm_head.weight.tolist()
    assert second == first
    assert hub.asked[-1] == "GET /again"


def test_the_revision_is_honoured_and_only_what_is_needed_comes(machine: Machine, hub: Hub):
    found, said = machine.run(FETCH, revision="v2")
    commit = hub.commit("v2")
    assert Path(found["folder"]) == machine.home / "hub" / "models--tester--tiny" / "snapshots" / str(commit)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(found["files"])
    assert not {"README.md", "tf_model.h5", "flax_model.msgpack", "pytorch_model.bin", "modeling_own.py"} & set(
        found["files"]
    )
    assert said.count(f"{NAME} at revision v2 from") == 2
    hub.asked.clear()
    for revision in ("v2", str(commit)):
        assert machine.run(FETCH, revision=revision)[0] == found
    assert hub.asked == []
    assert machine.run(FETCH)[0]["folder"].endswith(str(hub.commit("main")))


def test_what_the_cache_lacks_is_fetched_alone(machine: Machine, hub: Hub):
    folder = Path(machine.run(FETCH)[0]["folder"])
    (folder / "model.safetensors").resolve().unlink()
    (folder / "model.safetensors").unlink()
    hub.asked.clear()
    found, said = machine.run(FETCH)
    assert (folder / "model.safetensors").is_file()
    assert found["folder"] == str(folder)
    assert "downloading model.safetensors (" in said
    assert hub.resolved() == ["model.safetensors"]


def test_offline_a_cached_model_is_found_and_another_refused_at_once(machine: Machine, hub: Hub):
    found, _ = machine.run(FETCH)
    hub.asked.clear()
    assert machine.run(FETCH, HF_HUB_OFFLINE="1")[0] == found
    error = machine.run(FETCH, name="nobody/other", HF_HUB_OFFLINE="1")[0]["error"]
    assert error.startswith("found no model named 'nobody/other': there is no such folder, it is not in the cache")
    assert "the Hugging Face hub was not asked (offline)" in error
    (Path(found["folder"]) / "model.safetensors").unlink()
    error = machine.run(FETCH, HF_HUB_OFFLINE="1")[0]["error"]
    assert f"only a part of it in the cache {machine.home / 'hub'}" in error
    assert hub.asked == []


def test_a_hub_that_does_not_answer_is_asked_once(machine: Machine):
    """Nobody listens at the first address; at the second somebody who never speaks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for url in (closed, f"http://127.0.0.1:{silent.getsockname()[1]}"):
            begun = time.monotonic()
            error = machine.run(FETCH, HF_ENDPOINT=url)[0]["error"]
            assert f"asked the Hugging Face hub at {url}, which did not answer (" in error
            assert time.monotonic() - begun < 5 + 15  # the limit, and an interpreter on a busy machine


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        (NAME, "v9", "at revision v9: .* which has no such revision of it"),
        (
            "nobody/other",
            "",
            "named 'nobody/other': .* which knows none for you. Check the name, log in if it is gated",
        ),
        ("no such name", "", "no hub name looks like this"),
    ],
)
def test_what_the_hub_does_not_have(machine: Machine, name: str, revision: str, said: str):
    assert re.search(said, machine.run(FETCH, revision, name)[0]["error"])


def test_the_token_and_the_cache_of_the_environment_are_used(machine: Machine, hub: Hub, tmp_path: Path):
    hub.token = "hf_secret"
    assert "which knows none for you" in machine.run(FETCH)[0]["error"]
    elsewhere = tmp_path / "elsewhere"
    found, said = machine.run(FETCH, HF_TOKEN="hf_secret", HF_HUB_CACHE=str(elsewhere))
    assert Path(found["folder"]).is_relative_to(elsewhere)
    assert f"into {elsewhere}" in said
    assert "hf_secret" not in said


def test_a_repository_without_weights_is_refused_before_it_is_fetched(machine: Machine, hub: Hub, tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "weights.gguf").write_text("x")
    hub.revisions["main"] = bare
    assert (
        f"{NAME} has no weights that can be loaded: it has none of model.safetensors" in machine.run(FETCH)[0]["error"]
    )
