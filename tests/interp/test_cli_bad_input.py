"""Bad input on the command line: exit code 2, one line that says what came, and nothing left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interp.command import Command
from tests.interp.loading.test_load import OWN_ATTENTION, made
from tests.interp.tiny import token_ids
from tests.interp.words import text_of

Prepared = Callable[..., list[object]]


@pytest.fixture
def folders(model_folder: Path, bare_folder: Path, encoder_folder: Path) -> dict[str, Path]:
    return {"model": model_folder, "bare": bare_folder, "encoder": encoder_folder}


def without(source: Path, name: str) -> Path:
    folder = Path(shutil.copytree(source, "spoilt"))
    (folder / name).unlink()
    return Path("./spoilt")


def written(name: str, content: str | bytes) -> Path:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(name)


def saved(model: str) -> Path:
    made(model, *OWN_ATTENTION[model]).save_pretrained(model)
    Path(model, "model.safetensors").write_text("unreadable")
    return Path(f"./{model}")


COPIES = text_of([*range(3, 40), *range(3, 40)])

CASES: dict[str, tuple[Callable[[dict[str, Path]], list[object]], str]] = {
    "unknown name": (
        lambda _: ["nobody/no-such"],
        "found no model named 'nobody/no-such': there is no such folder, it is",
    ),
    "unknown path": (
        lambda _: ["./nowhere"],
        "there is no folder nowhere; give a local model folder, a hub name, or 'demo'",
    ),
    "no weights": (
        lambda f: [without(f["bare"], "model.safetensors")],
        "spoilt has a config.json but no weights; looked for *.safetensors",
    ),
    "no config": (lambda f: [without(f["bare"], "config.json")], "spoilt is no model folder: it has no config.json"),
    "encoder for a causal detector": (
        lambda f: [f["encoder"], "--detectors", "previous_token,induction"],
        "detector 'induction' cannot be run: it is defined for heads that look back only",
    ),
    "text too short": (
        lambda f: [f["model"], "--text", written("t", "w5 w6 w5 w7")],
        "first_token_sink, hidden_sink: the text has 4 tokens, fewer than the 63 that a window of 64 positions needs",
    ),
    "text without a copy": (
        lambda f: [f["model"], "--text", written("t", "w5 w6 w7"), "--detectors", "induction_text"],
        "induction_text: the text is too short, none of its tokens comes twice; give a longer text",
    ),
    "text too long": (
        lambda f: [f["model"], "--text", written("t", text_of(token_ids((300,))))],
        "the input has 301 tokens, ",
    ),
    "empty text": (
        lambda f: [f["model"], "--text", written("t", " \n")],
        "--text t is empty; give a text with at least one",
    ),
    "no such text": (lambda f: [f["model"], "--text", "nowhere.txt"], "--text nowhere.txt: there is no such file"),
    "text is a folder": (lambda f: [f["model"], "--text", "."], "--text . is a folder; give a text file"),
    "text is not UTF-8": (
        lambda f: [f["model"], "--text", written("t", b"w5 \xff\xfe")],
        "--text t is not UTF-8 text (byte 3); convert it first",
    ),
    "text below a file": (
        lambda f: [f["model"], "--text", written("t", "w5") / "deeper"],
        "--text t/deeper cannot be read: Not a directory",
    ),
    "text without a tokenizer": (
        lambda f: [f["bare"], "--text", written("t", COPIES), "--detectors", "induction_text"],
        "detector 'induction_text' cannot be run: it needs a text, and ",
    ),
    "detector that needs a text": (
        lambda f: [f["model"], "--detectors", "induction_text"],
        "detector 'induction_text' cannot be run: it needs a text; give text= (--text)",
    ),
    "unknown detector": (
        lambda f: [f["bare"], "--detectors", "induction,previous_tokn"],
        "unknown detector 'previous_tokn'; did you mean 'previous_token'? (known: ",
    ),
    "no detector": (lambda f: [f["bare"], "--detectors", " , "], "detectors: give at least one name, or 'standard'"),
    "output is a file": (lambda f: [f["bare"], "--out", written("o", "x")], "o is a file; give a folder"),
    "output below a file": (
        lambda f: [f["bare"], "--out", written("o", "x") / "deeper"],
        "cannot write into o/deeper: Not a directory; give a folder that can be written",
    ),
    "device": (lambda f: [f["bare"], "--device", "cuda:99"], "device 'cuda:99' cannot be used here: "),
    "dtype": (
        lambda f: [f["bare"], "--dtype", "int8"],
        "dtype: expected 'auto' or one of float32, float16, bfloat16, float64",
    ),
    "samples": (lambda f: [f["bare"], "--samples", "0"], "samples: expected an integer of at least 1, got 0"),
    "window": (lambda f: [f["bare"], "--window", "3"], "window: expected an integer of at least 8, got 3"),
    "seed": (lambda f: [f["bare"], "--seed", "-1"], "seed: expected an integer from 0 to 2**32 - 1, got -1"),
    **{
        model: (
            lambda _, model=model: [saved(model)],
            f"{model.replace('ForMaskedLM', 'Model')} computes attention in code of its own and not through ",
        )
        for model in OWN_ATTENTION
    },
}


@pytest.mark.parametrize("case", CASES)
def test_scan(case: str, command: Command, folders: dict[str, Path]):
    arguments, expected = CASES[case]
    given = ["scan", *arguments(folders)]
    before = sorted(Path().rglob("*"))
    message = command(*given).refused()
    assert message.startswith(expected)
    assert sorted(Path().rglob("*")) == before


def test_a_text_too_long_for_learned_positions(command: Command, own_model, tokenizer):
    own_model("gpt2").save_pretrained("gpt2")
    tokenizer.save_pretrained("gpt2")
    text = written("t", text_of(token_ids((300,))))
    message = command("scan", "./gpt2", "--text", text, "--beyond-context").refused()
    assert message == (
        "the input has 301 tokens, ./gpt2 is made for 256, and its learned positions end there; cut the input into windows"
    )


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a file system that nobody can write")
def test_output_on_a_file_system_that_cannot_be_written(command: Command, bare_folder: Path):
    message = command("scan", bare_folder, "--out", "/proc/interp-scan").refused()
    assert message.startswith("cannot write into /proc/interp-scan: ")


def test_bad_input_is_found_before_the_model_is_read(
    command: Command, bare_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("interp.loading.folder.ModelFolder.weights", lambda *_: pytest.fail("the weights were read"))
    written("o", "x")
    for options in (
        ["--out", "o"],
        ["--text", "nowhere"],
        ["--detectors", "xyzzy"],
        ["--device", "cuda:99"],
        ["--dtype", "int8"],
    ):
        command("scan", bare_folder, *options).refused()


def test_report_of_no_scan(command: Command):
    assert command("report", "nowhere").refused().startswith("nowhere holds no scan (no scan.json); give a folder that")
    written("scan.json", "[]")
    assert command("report", ".").refused() == "scan.json was not written by interp scan"
