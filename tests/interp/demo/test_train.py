"""A tiny training run: resume is exact, Ctrl-C is safe, the outputs load, and every bad input has its error."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.demo import train
from interp.demo.card import evaluation_tables, write_card
from interp.demo.curve import read_curve
from interp.demo.evaluate import evaluate_demo
from interp.demo.figures import Evaluation
from interp.demo.settings import Phase, TrainSettings
from interp.demo.train import train_demo
from interp.errors import InputError


@pytest.fixture(scope="module")
def trained(tiny: TrainSettings, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_demo(tiny, library, out, progress=False)
    return out


def test_outputs_load_as_everybodys_models_do(trained: Path, tiny: TrainSettings) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert model.config.model_type == "llama"
    assert model.dtype == torch.float32
    assert torch.isfinite(model(torch.tensor([tokenizer("river garden").input_ids])).logits).all()
    record = json.loads((trained / "training.json").read_text())
    assert TrainSettings.from_mapping(record["settings"]) == tiny
    assert record["text"]["held_out"] == ["b-story"]
    assert record["tokens_seen"] == 8 * 512


def test_curve_has_a_row_per_measurement_and_head(trained: Path) -> None:
    rows = read_curve(trained / "training_curve.csv")
    assert [row["step"] for row in rows] == [0, 3, 6, 8]
    assert [row["context"] for row in rows] == [128, 128, 256, 256]
    assert {f"induction_L{layer}H{head}" for layer in range(2) for head in range(4)} <= set(rows[0])
    assert rows[-1]["train_loss"] < rows[1]["train_loss"]


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_interrupted_and_resumed_run_gives_the_same_weights_bit_for_bit(
    tiny: TrainSettings, library: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    out = tmp_path / "run"
    loss = train.weighted_loss
    calls = 0

    def interrupting(*arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            signal.raise_signal(signal.SIGINT)
        return loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "weighted_loss", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train_demo(tiny, library, out, progress=False)
    assert calls == stop_at
    train_demo(tiny, library, out, resume=True, progress=False)
    assert calls == tiny.steps
    whole, resumed = load_file(trained / "model.safetensors"), load_file(out / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (out / "training_curve.csv").read_text() == (trained / "training_curve.csv").read_text()


def test_evaluation_and_card_come_from_the_run(trained: Path, library: Path) -> None:
    evaluation = evaluate_demo(trained, library, prose_windows=2, trials=2, progress=False)
    assert Evaluation.from_mapping(json.loads(json.dumps(evaluation.to_mapping()))) == evaluation
    assert len(evaluation.heads) == 8
    assert evaluation.needles[0].depths[-1] == 1.0
    alone = evaluate_demo(trained, library, parts=["copies"], progress=False)
    assert alone.copies == evaluation.copies
    assert not alone.heads
    card = write_card(trained, evaluation).read_text()
    assert evaluation_tables(evaluation) in card
    assert "a story" in card


def test_bits_per_byte_and_nats_per_token_agree(trained: Path, library: Path) -> None:
    row = evaluate_demo(trained, library, parts=["prose"], progress=False).prose[-1]
    text = (library / "b-story.txt").read_bytes()
    tokens = AutoTokenizer.from_pretrained(trained)(text.decode()).input_ids
    per_token = row.bits_per_byte * len(text) / (len(tokens) - 1) * 0.6931
    assert per_token == pytest.approx(row.nats_per_token, rel=0.02)


def _text_folder(folder: Path, **texts: str) -> Path:
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_bad_texts_are_refused(tiny: TrainSettings, library: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"text folder .*nowhere does not exist"):
        train_demo(tiny, tmp_path / "nowhere", out)
    with pytest.raises(InputError, match=r"holds no \.txt files"):
        train_demo(tiny, _text_folder(tmp_path / "empty"), out)
    with pytest.raises(InputError, match=r"at least two \.txt files"):
        train_demo(tiny, _text_folder(tmp_path / "one", a="river"), out)
    with pytest.raises(InputError, match=r"too little text: only \d+ of 384 tokens"):
        train_demo(tiny, _text_folder(tmp_path / "short", a="river garden", b="winter"), out)
    with pytest.raises(InputError, match=r"held-out books \['c-story'\] are not in"):
        train_demo(dataclasses.replace(tiny, held_out=("c-story",)), library, out)
    latin = _text_folder(tmp_path / "latin", a="river")
    (latin / "b.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"b\.txt is not UTF-8 text"):
        train_demo(tiny, latin, out)
    assert not (out / "training.json").exists()


def test_bad_output_folders_are_refused(tiny: TrainSettings, library: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already holds files"):
        train_demo(tiny, library, trained)
    with pytest.raises(InputError, match="nothing to resume"):
        train_demo(tiny, library, tmp_path / "none", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to the output folder"):
        train_demo(tiny, library, tmp_path / "file" / "out")


def test_resume_with_other_settings_or_text_is_refused(
    tiny: TrainSettings, library: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="with other settings: seed was 0, now 1"):
        train_demo(dataclasses.replace(tiny, seed=1), library, trained, resume=True)
    texts = {path.stem: path.read_text() + "River." for path in library.glob("*.txt")}
    with pytest.raises(InputError, match="the text is not the one"):
        train_demo(tiny, _text_folder(tmp_path / "other", **texts), trained, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"heads": 4, "kv_heads": 3}, r"heads \(4\) must be a multiple of kv_heads \(3\)"),
        ({"warmup": 1.5}, r"warmup must lie in 0\.\.1"),
        ({"matrix_rate": 0.0}, "matrix_rate must be above 0"),
        ({"phases": ()}, "the last phase must last until 1.0"),
        ({"phases": [{"until": 1.0, "context": 64, "tokens": 512, "repeat": 0, "needle": 0}]}, r"lie in 128\.\.1024"),
        (
            {"phases": [{"until": 1.0, "context": 128, "tokens": 200, "repeat": 0, "needle": 0}]},
            "multiple of its context",
        ),
        (
            {"phases": [{"until": 1.0, "context": 128, "tokens": 256, "repeat": 0.8, "needle": 0.4}]},
            "exceed 1 together",
        ),
        ({"stepz": 3}, r"unknown training settings \['stepz'\]"),
        ({"phases": [{"untill": 1.0}]}, r"unknown training settings \['untill'\]"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainSettings.from_mapping(change)


def test_rate_rises_stays_and_falls_to_zero() -> None:
    settings = TrainSettings(steps=1000, warmup=0.1, decay=0.5, phases=(Phase(1.0, 128, 128, 0, 0),))
    assert settings.rate(49) == pytest.approx(0.5)
    assert settings.rate(300) == 1.0
    assert settings.rate(750) == pytest.approx(0.5)
    assert settings.rate(999) == pytest.approx(0.002)
