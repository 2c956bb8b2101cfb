"""The command line: what goes to stdout, to stderr and to disk, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp.scores import COLUMNS
from interp.store import load_scan
from tests.interp.command import Command
from tests.interp.tiny import HEADS, LAYERS, token_ids
from tests.interp.words import text_of

STANDARD = [name for name, detector in interp.detectors().items() if detector.is_standard and name != "next_token"]
"""Of decoders."""
FEW = ("--samples", "2", "--detectors", "previous_token,induction")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(text_of(token_ids((150,), seed=2)))
    return path


def test_a_scan_of_a_text(command: Command, model_folder: Path, text: Path):
    ran = command("scan", model_folder, "--text", text, "--out", "out", "--samples", "2")
    assert ran.code == 0
    # The table: every detector with its three strongest heads; then where the report lies.
    scores = load_scan("out")
    for name in STANDARD:
        best = scores.of(name).iloc[0]
        (line,) = [line for line in ran.out.splitlines() if line.split()[:1] == [name]]
        assert f"L{best['layer']}H{best['head']} {best['score']:.3f}" in line
        assert f"of {LAYERS * HEADS}" in line
        assert f"{interp.detectors()[name].threshold:g}" in line
    assert ran.out.splitlines()[-1] == f"report: {Path('out/report.html')}"
    # Progress stands on stderr.
    assert f"scan {model_folder}" in ran.err
    assert "100%" in ran.err
    assert "100%" not in ran.out


def test_files_of_a_scan(command: Command, model_folder: Path, text: Path):
    command("scan", model_folder, "--text", text, "--out", "out", "--window", "70", "--seed", "4", "--samples", "2")
    assert {path.name for path in Path("out").iterdir()} == {"scores.parquet", "scan.json", "report.html"}
    table = pd.read_parquet("out/scores.parquet")
    assert {name: str(kind) for name, kind in table.dtypes.items()} == COLUMNS
    assert len(table) == LAYERS * HEADS * len(STANDARD)
    settings = json.loads(Path("out/scan.json").read_text())
    assert (settings["seed"], settings["samples"], settings["window"]) == (4, 2, 70)
    assert settings["model"]["model"] == str(model_folder)
    assert settings["model"]["versions"]["torch"] == torch.__version__
    assert "<html" in Path("out/report.html").read_text()


def test_the_same_as_from_python(command: Command, model_folder: Path, text: Path):
    command("scan", model_folder, "--text", text, "--out", "out", "--window", "70", "--samples", "2")
    scores = interp.scan(interp.load(model_folder), text=text.read_text(), window=70, samples=2, progress=False)
    pd.testing.assert_frame_equal(load_scan("out").frame, scores.frame, check_exact=True)


def test_a_model_without_tokenizer(command: Command, bare_folder: Path):
    ran = command("scan", bare_folder, "--samples", "2", "--quiet")
    assert ran.code == 0
    # The folder is named after the model.
    (folder,) = Path("interp-scans").iterdir()
    assert folder.name.endswith("bare-llama")
    left_out = [f"left out {name}: it needs a text; give text= (--text)" for name in ("induction_text", "copying")]
    assert ran.err.splitlines() == left_out
    assert f"report: {folder / 'report.html'}" in ran.out


def test_json_alone_on_stdout(command: Command, bare_folder: Path):
    ran = command("scan", bare_folder, *FEW, "--out", "out", "--json")
    assert ran.code == 0
    frame = load_scan("out").frame
    assert len(ran.json["scores"]) == len(frame) == 2 * LAYERS * HEADS
    for row, expected in zip(ran.json["scores"], frame.to_dict("records"), strict=True):
        assert row == pytest.approx(expected, abs=1e-9)
    assert ran.json["settings"]["detectors"] == ["previous_token", "induction"]
    assert ran.json["folder"] == "out"
    assert "previous_token" in ran.err  # the table for people
    assert "report: out/report.html" in ran.err


def test_json_of_one_sample_holds_null_for_its_error(command: Command, bare_folder: Path):
    ran = command("scan", bare_folder, "--samples", "1", "--detectors", "induction", "--json", "-q")
    assert {row["stderr"] for row in ran.json["scores"]} == {None}
    assert "NaN" not in ran.out


def test_quiet_shows_no_progress(command: Command, bare_folder: Path):
    assert command("scan", bare_folder, *FEW, "--out", "out", "-q").err == ""


def test_overwriting_on_request(command: Command, bare_folder: Path):
    assert command("scan", bare_folder, *FEW, "--out", "out").code == 0
    before = Path("out/scan.json").read_bytes()
    message = command("scan", bare_folder, *FEW, "--out", "out", "--seed", "1").refused()
    assert message == "out already holds a scan; give another folder, or overwrite it (--overwrite)"
    assert Path("out/scan.json").read_bytes() == before
    assert command("scan", bare_folder, *FEW, "--out", "out", "--seed", "1", "--overwrite").code == 0
    assert load_scan("out").settings["seed"] == 1


def test_options_from_the_environment(command: Command, bare_folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"SEED": "7", "SAMPLES": "2", "DETECTORS": "induction", "OUT": "there"}.items():
        monkeypatch.setenv(f"INTERP_SCAN_{name}", value)
    assert command("scan", bare_folder).code == 0
    settings = load_scan("there").settings
    assert (settings["seed"], settings["samples"], settings["detectors"]) == (7, 2, ["induction"])
    assert command("scan", bare_folder, "--seed", "8", "--overwrite").code == 0
    assert load_scan("there").settings["seed"] == 8
    monkeypatch.setenv("INTERP_SCAN_SEED", "seven")
    ran = command("scan", bare_folder, "--overwrite")
    assert ran.code == 2
    assert "Invalid value for '--seed'" in ran.err
    assert "Usage: interp scan" in ran.err


def test_beyond_the_context(command: Command, model_folder: Path, tmp_path: Path):
    long = tmp_path / "long.txt"
    long.write_text(text_of(token_ids((300,), seed=2)))
    options = ("--text", long, "--detectors", "previous_token", "--out", "out")
    message = command("scan", model_folder, *options).refused()
    assert message.startswith(f"the input has 301 tokens, {model_folder} is made for 256; cut the input into windows")
    assert message.endswith("(--beyond-context)")
    assert command("scan", model_folder, *options, "--beyond-context").code == 0
    assert load_scan("out").settings["beyond_context"] is True


def test_a_dtype(command: Command, bare_folder: Path):
    assert command("scan", bare_folder, *FEW, "--dtype", "bfloat16", "--device", "cpu", "--out", "out").code == 0
    assert load_scan("out").settings["model"]["dtype"] == "bfloat16"


def test_nan_in_the_model_is_a_failed_run(command: Command, bare_folder: Path):
    folder = Path("broken")
    interp.load(bare_folder).model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.q_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = command("scan", "./broken", *FEW, "-q", "--out", "out").refused(1)
    assert message.startswith("layer 1: NaN in the queries that enter its attention, while that of layer 0 was still")
    assert not Path("out").exists()


def test_a_full_disk_is_a_failed_run(command: Command, bare_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    message = command("scan", bare_folder, *FEW, "-q", "--out", "out").refused(1)
    assert message == "writing the scan into out failed: [Errno 28] No space left on device"


def test_an_interruption(command: Command, bare_folder: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.models.hooked.HookedModel.capture", interrupted)
    ran = command("scan", bare_folder, *FEW, "-q", "--out", "out")
    assert ran.code == 130
    assert ran.err == "interp: interrupted\n"
    assert not Path("out").exists()


def test_a_real_interrupt_signal(command: Command, bare_folder: Path):
    """Ctrl-C while the model runs: the model has its own attention back."""
    model = interp.load(bare_folder)
    model.model.model.layers[1].register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
    # Processes that a script starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("interp.loading.load.load", lambda *_, **__: model)
            ran = command("scan", "whatever", *FEW, "-q", "--out", "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ran.code == 130
    assert model.model.config._attn_implementation == "sdpa"


def test_report_is_written_again(command: Command, bare_folder: Path):
    command("scan", bare_folder, *FEW, "--out", "out")
    before = Path("out/report.html").read_bytes()
    Path("out/report.html").unlink()
    ran = command("report", "out")
    assert (ran.code, ran.out, ran.err) == (0, "report: out/report.html\n", "")
    assert Path("out/report.html").read_bytes() == before


def test_detectors(command: Command):
    ran = command("detectors")
    assert ran.code == 0
    for detector in interp.detectors().values():
        assert detector.name in ran.out
        assert f"{detector.threshold:g} (" in ran.out
    listed = command("detectors", "--json").json
    assert [entry["name"] for entry in listed] == list(interp.detectors())
    assert {"definition", "source", "threshold", "threshold_source"} <= set(listed[0])


def test_models(command: Command, own_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The demo, where it is there, and what the Hugging Face cache holds, with what cannot be scanned."""
    for name, model in (("llama", own_model("llama")), ("xlnet", xlnet())):
        snapshot = tmp_path / "hub" / f"models--someone--{name}" / "snapshots" / ("a" * 40)
        model.save_pretrained(snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    ran = command("models", "--json")
    assert ran.code == 0
    found = {entry["model"]: entry for entry in ran.json}
    assert {"someone/llama", "someone/xlnet"} <= set(found) <= {"someone/llama", "someone/xlnet", "demo"}
    expected = {"architecture": "LlamaForCausalLM", "layers": LAYERS, "heads": HEADS, "context": 256, "status": "yes"}
    assert found["someone/llama"] == {"model": "someone/llama"} | expected
    assert found["someone/xlnet"]["status"].startswith("no: XLNetLMHeadModel computes attention in code of its own")
    shown = command("models")
    assert "someone/llama" in shown.out
    assert "Any local folder in Hugging Face form" in shown.err


def xlnet():
    from tests.interp.loading.test_load import OWN_ATTENTION, made

    return made("XLNetLMHeadModel", *OWN_ATTENTION["XLNetLMHeadModel"])


def test_models_of_an_empty_cache(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert {entry["model"] for entry in command("models", "--json").json} <= {"demo"}


def test_version(command: Command):
    assert command("version").out == f"interp: {interp.__version__}\n"
    ran = command("version", "--env")
    assert ran.code == 0
    facts = dict(line.split(": ", 1) for line in ran.out.splitlines())
    assert facts["torch"] == torch.__version__
    assert {"python", "transformers", "system", "executable", "cpu threads", "gpu"} <= set(facts)


def test_help_names_the_commands(command: Command):
    ran = command("--help")
    assert ran.code == 0
    for name in ("scan", "report", "detectors", "models", "version"):
        assert name in ran.out


@pytest.mark.parametrize(
    "arguments", [[], ["scan"], ["no-such"], ["scan", "demo", "--no-such"], ["scan", "demo", "more"]]
)
def test_a_wrong_call(command: Command, arguments: list[str]):
    ran = command(*arguments)
    assert ran.code == 2
    assert "Usage" in ran.out + ran.err
