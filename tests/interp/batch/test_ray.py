"""The engine ray on a real cluster of several nodes, all on this machine: the same store, whoever dies."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from interp.batch import Plan, Summary, engines, make_plan, open_store, run_batch
from interp.batch.engines import ground
from interp.batch.folder import BatchFolder
from interp.errors import InputError, RunError
from interp.progress import Progress, Stopped, Watcher, watched
from tests.interp.batch.stores import contents, small_plan

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (the extra `ray`)")

# Read when Ray is imported: without the first it would listen on all interfaces, without the next two to everybody.
os.environ.update(
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_USAGE_STATS_ENABLED="0",
)
HEALTH = {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}
"""A lost node is missed within seconds."""
SMALL = {"object_store_memory": 100 * 2**20}
"""Of the memory that is shared, of which containers have little."""


class Nodes:
    """A cluster whose head does no work, and two nodes of one core, the second with a GPU that is only said to be there."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.nodes = [cluster.add_node(num_cpus=1, **SMALL), cluster.add_node(num_cpus=1, num_gpus=1, **SMALL)]

    def actors(self, node: Any = None) -> list[psutil.Process]:
        """Processes of workers, of all nodes or of one."""
        raylets = [
            info.process.pid
            for each in ([node] if node is not None else self.cluster.list_all_nodes())
            for info in each.all_processes["raylet"]
        ]
        found = [p for raylet in raylets for p in psutil.Process(raylet).children(recursive=True)]
        return [p for p in found if _title(p).startswith("ray::Actor")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    root = Path(__file__).parents[3]
    # Short: the paths of Ray's sockets must be.
    folder = tempfile.mkdtemp(prefix="ray-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (root, root / "kernels"))))
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH, **SMALL},
        )
        try:
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield Nodes(cluster)
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


class Alone(NamedTuple):
    """A plan, and the store of one local worker of one thread: what every run of it below must come to."""

    plan: Plan
    contents: dict[str, Any]


@pytest.fixture(scope="module")
def alone(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    plan = small_plan(model_folder, tmp_path_factory.mktemp("alone"), documents=60)
    threads = torch.get_num_threads()
    try:
        run_batch(plan, threads=1, progress=False)
    finally:
        torch.set_num_threads(threads)
    return Alone(plan, contents(plan.output))


def run_on_ray(plan: Plan, **options: Any) -> Summary:
    return run_batch(plan, engine="ray", progress=False, **options)


def when_begun(folder: Path, do: Callable[[], None]) -> threading.Thread:
    """``do`` as soon as the store has a shard; the thread that does it."""

    def wait() -> None:
        while not BatchFolder(folder).finished():
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_the_shards_are_those_of_the_local_engine_and_a_broken_model_fails_alone(
    nodes: Nodes, model_folder: Path, tmp_path: Path, alone: Alone
):
    bad = tmp_path / "bad"
    shutil.copytree(model_folder, bad)
    weights = next(bad.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    models = make_plan(models=[str(bad)], output="none").models + alone.plan.models
    plan = replace(alone.plan, models=models, output=tmp_path / "store")
    handler = signal.getsignal(signal.SIGTERM)
    heard: list[Progress] = []
    with watched(Watcher(heard.append)):
        summary = run_on_ray(plan)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert summary.planned == 2 * summary.finished == 2 * len(summary.failed)
    assert all("the weights of" in message for message in summary.failed.values())
    store = open_store(plan.output)
    assert set(store.to_frame("errors")["model"]) == {"bad"}
    found = {name: data for name, data in contents(plan.output).items() if name.startswith("shards")}
    assert found == {name: data for name, data in alone.contents.items() if name.startswith("shards")}
    [run] = store.manifest["runs"]
    assert (run["engine"], run["workers"], run["threads"]) == ("ray", 2, 1)
    assert [progress.done for progress in heard if progress.what.startswith("batch")][-1] == summary.planned


def test_a_killed_worker_is_replaced_and_its_unit_tried_again(nodes: Nodes, tmp_path: Path, alone: Alone):
    plan = replace(alone.plan, output=tmp_path / "store")
    killed: list[int] = []

    def kill() -> None:
        victim = nodes.actors()[0]
        victim.kill()
        killed.append(victim.pid)

    killer = when_begun(plan.output, kill)
    summary = run_on_ray(plan, workers=1)
    killer.join()
    assert killed
    assert summary.done == summary.planned, summary
    assert contents(plan.output) == alone.contents


def test_an_interrupted_run_leaves_a_store_that_goes_on_and_no_workers(nodes: Nodes, tmp_path: Path, alone: Alone):
    plan = replace(alone.plan, output=tmp_path / "store")
    # It is stopped at the step after.
    watcher = Watcher(lambda progress: watcher.stop() if progress.done == 3 and progress.unit == "unit" else None)
    with pytest.raises(Stopped), watched(watcher):
        run_on_ray(plan)
    manifest = open_store(plan.output).manifest
    assert manifest["runs"][0]["done"] == 4
    psutil.wait_procs(nodes.actors(), timeout=20)
    assert nodes.actors() == []
    finished = len(BatchFolder(plan.output).finished())
    assert 4 <= finished < manifest["units"]
    threads = torch.get_num_threads()
    try:
        summary = run_batch(plan, resume=True, threads=1, progress=False)
    finally:
        torch.set_num_threads(threads)
    assert summary.done == manifest["units"] - finished
    assert contents(plan.output) == alone.contents


def test_a_worker_that_is_not_as_the_run_refuses_the_work(
    nodes: Nodes, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plan = small_plan(model_folder, tmp_path, documents=1)
    versions = ground.used_versions()
    monkeypatch.setattr(ground, "used_versions", lambda: {**versions, "tokenizers": "0.0"})
    with pytest.raises(RunError, match=r"a worker on .* cannot do the work: tokenizers is .* it is 0\.0; install the"):
        run_on_ray(plan)
    assert BatchFolder(plan.output).finished() == set()
    assert not list(plan.output.rglob("*.partial"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a machine without the GPU that its cluster speaks of")
def test_the_devices_are_those_of_the_cluster_and_not_of_the_machine_that_starts_the_run(
    nodes: Nodes, model_folder: Path, tmp_path: Path
):
    plan = small_plan(model_folder, tmp_path, documents=1, device="auto")
    with pytest.raises(RunError, match=r"a worker on .* cannot do the work: device 'cuda' cannot be used here"):
        run_on_ray(plan)
    manifest = open_store(plan.output).manifest
    assert manifest["device"] == "cuda"
    assert manifest["runs"][0]["workers"] == 1


def test_a_cluster_without_room_for_a_worker_is_refused(nodes: Nodes, model_folder: Path, tmp_path: Path):
    plan = small_plan(model_folder, tmp_path, documents=1)
    with pytest.raises(
        InputError, match=r"no machine with room for a worker, which takes 64 CPU; .* how many --workers"
    ):
        run_on_ray(plan, threads=64)


# The last on the cluster: it takes one of the nodes away.
def test_a_lost_node_loses_nothing(nodes: Nodes, tmp_path: Path, alone: Alone):
    plan = replace(alone.plan, output=tmp_path / "store")
    busy: list[int] = []

    def lose() -> None:
        node = nodes.nodes[0]
        busy.append(len(nodes.actors(node)))
        nodes.cluster.remove_node(node, allow_graceful=False)

    killer = when_begun(plan.output, lose)
    summary = run_on_ray(plan)
    killer.join()
    assert busy == [1]
    assert summary.done == summary.planned, summary
    assert contents(plan.output) == alone.contents


NO_CLUSTER = "no Ray cluster could be joined "


@pytest.mark.parametrize(
    ("device", "address", "message"),
    [
        (
            "cuda:1",
            "",
            "device: the engine ray takes one of auto, cpu, cuda and gives each worker a GPU of its own; got",
        ),
        ("cpu", "ray://head:10001", NO_CLUSTER + "(ray://head:10001): expected HOST:PORT, as a program on a machine"),
        ("cpu", "127.0.0.1:1", NO_CLUSTER + "(127.0.0.1:1): "),
        (
            "cpu",
            "127.0.0.1:1",
            "refused; start one, or name it in RAY_ADDRESS (docs/scale.md), with RAY_AUTH_MODE=token",
        ),
    ],
)
def test_what_the_engine_does_not_take_is_named(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, address: str, message: str
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=re.escape(message)):
        run_on_ray(small_plan(model_folder, tmp_path, documents=1, device=device))


def test_without_ray_it_is_said_what_to_install(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs Ray, which is not installed here: pip install "interp\[ray\]"'):
        run_on_ray(small_plan(model_folder, tmp_path, documents=1))
    assert not (tmp_path / "store").exists()
