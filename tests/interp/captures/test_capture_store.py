"""Captures on disk: what is written, read back, refused; and that a failing write spoils nothing."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import interp
from interp.captures import store as capture_store
from interp.captures.capture import Capture
from interp.errors import InputError, RunError
from interp.inputs.batch import Batch
from interp_kernels import Mask
from tests.interp.tiny import COMMON, randomised, right_padded, token_ids

FILES = {"capture.json", "tensors.safetensors"}


@pytest.fixture(scope="module")
def padded(own_model, tokenizer) -> Capture:
    _, ids, keep = right_padded((12, 9))
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    probes = ["entropy", "peak", "received", interp.OffsetMass((0, 1), name="shift / 1", reduce="mean")]
    return model.capture(Batch(ids, keep), probes, value_norms=True, logits=True)


@pytest.fixture
def stored(padded: Capture, tmp_path: Path) -> Path:
    return padded.save(tmp_path / "a" / "stored")


def assert_same(found: Capture, expected: Capture) -> None:
    assert list(found.stats) == list(expected.stats)
    for name, values in expected.stats.items():
        assert list(found[name]) == list(values)
        for layer, value in values.items():
            assert found[name][layer].dtype == value.dtype
            assert torch.equal(found[name][layer].nan_to_num(-9), value.nan_to_num(-9))
    for name in ("ids", "keep", "logits"):
        got, want = getattr(found, name), getattr(expected, name)
        assert (got is None and want is None) or torch.equal(got, want)
    for name in ("tokens", "layers", "heads", "kv_heads", "facts", "statistics", "measured"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.sides.keys() == expected.sides.keys()
    for stack, pair in expected.sides.items():
        for got, want in zip(found.sides[stack], pair, strict=True):
            assert (got.tokens, got.first) == (want.tokens, want.first)
            assert (got.keep is None and want.keep is None) or torch.equal(got.keep, want.keep)
            assert (got.ids is None and want.ids is None) or torch.equal(got.ids, want.ids)
    assert list(found.masks) == list(expected.masks)
    for layer, mask in expected.masks.items():
        got = found.masks[layer]
        assert (got.is_causal, got.window, got.offset) == (mask.is_causal, mask.window, mask.offset)
        for a, b in ((got.keep, mask.keep), (got.documents, mask.documents)):
            assert (a is None and b is None) or torch.equal(a, b)


def test_round_trip(padded: Capture, stored: Path):
    assert {path.name for path in stored.iterdir()} == FILES
    found = interp.Capture.load(stored)
    assert_same(found, padded)
    assert found.masks[0].keep is found.masks[1].keep, "what layers share is written once"


def test_a_loaded_capture_is_saved_as_the_same_bytes(stored: Path, tmp_path: Path):
    again = interp.Capture.load(stored).save(tmp_path / "again")
    for name in FILES:
        assert (again / name).read_bytes() == (stored / name).read_bytes()


def test_round_trip_of_chosen_heads_in_bfloat16(own_model, tmp_path: Path):
    model = interp.load(own_model("llama").__class__(own_model("llama").config).eval().bfloat16())
    capture = model.capture(token_ids((1, 9)), heads=["L1H3"], outputs=True, contributions=True)
    found = interp.Capture.load(capture.save(tmp_path / "x"))
    assert_same(found, capture)
    assert found["contribution"][1].dtype == torch.bfloat16


def test_round_trip_of_an_encoder_decoder(tmp_path: Path):
    config = transformers.T5Config(
        **COMMON, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    model = interp.load(randomised(transformers.T5ForConditionalGeneration(config).eval()))
    _, ids, keep = right_padded((8, 5))
    inputs = {"input_ids": ids, "attention_mask": keep, "decoder_input_ids": token_ids((2, 4), seed=2)}
    capture = model.capture(inputs)
    assert set(capture.sides) == {"decoder", "cross"}
    assert_same(interp.Capture.load(capture.save(tmp_path / "x")), capture)


def test_views_of_one_tensor_are_written_each_by_itself(padded: Capture, tmp_path: Path):
    both = torch.rand(2, 4, 24)
    stats = {"entropy": {0: both[:, :, :12], 1: both[:, :, 12:]}}
    found = interp.Capture.load(Capture(**{**vars(padded), "stats": stats}).save(tmp_path / "x"))
    assert all(torch.equal(found["entropy"][layer], stats["entropy"][layer]) for layer in (0, 1))


def test_a_mask_with_a_function_is_left_out_and_said_so(padded: Capture, tmp_path: Path):
    strange = Mask.causal() & Mask.from_predicate(lambda b, i, j: i >= j)
    capture = Capture(**{**vars(padded), "masks": {0: strange, 1: padded.masks[1]}})
    with pytest.warns(UserWarning, match=r"^the masks of layers \[0\] hold a Python function and are not written"):
        capture.save(tmp_path / "x")
    found = interp.Capture.load(tmp_path / "x")
    assert list(found.masks) == [1]
    assert found.facts["masks_left_out"] == [0]
    assert list(found["entropy"]) == [0, 1]


def test_nothing_is_overwritten_unasked(padded: Capture, stored: Path):
    before = (stored / "capture.json").stat().st_mtime_ns
    with pytest.raises(
        InputError, match=r"already holds a capture; give another folder, or overwrite it \(overwrite=True\)"
    ):
        padded.save(stored)
    assert (stored / "capture.json").stat().st_mtime_ns == before
    padded.save(str(stored), overwrite=True)
    assert_same(interp.Capture.load(str(stored)), padded)


def test_a_file_in_the_way(padded: Capture, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"is a file; give a folder"):
        padded.save(tmp_path / "file")


def test_a_write_that_fails_leaves_what_was_there(padded: Capture, stored: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in stored.iterdir()}

    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"^writing the capture into .* failed: .*No space left"):
        padded.save(stored, overwrite=True)
    assert {path.name: path.read_bytes() for path in stored.iterdir()} == before


def test_a_folder_without_a_capture(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"holds no capture \(no capture\.json\); give a folder that Capture\.save wrote"
    ):
        interp.Capture.load(tmp_path)


def rewrite(folder: Path, **changes: Any) -> None:
    """Another content, with the checksum that belongs to it."""
    content = json.loads((folder / "capture.json").read_text()) | changes
    text = json.dumps({key: value for key, value in content.items() if value is not ...})
    (folder / "capture.json").write_text(text)
    tensors = load_file(folder / "tensors.safetensors")
    save_file(tensors, folder / "tensors.safetensors", {"interp.capture": capture_store._checksum(text)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "interp.scan"}, r"was not written by Capture\.save"),
        ({"format_version": 2}, r"has format version 2, this interp reads 1"),
        ({"layers": ...}, r"cannot be read: it lacks 'layers'"),
        ({"ids": "idz"}, r"cannot be read: it lacks 'idz'"),
        ({"heads": "four"}, r"cannot be read: invalid literal"),
        ({"stats": []}, r"cannot be read"),
        ({"measured": [[0, {}]]}, r"cannot be read"),
        ({"layers": [0, 1.5]}, r"1\.5 is no layer"),
    ],
)
def test_a_changed_content_is_refused(changes: dict[str, Any], message: str, stored: Path):
    rewrite(stored, **changes)
    with pytest.raises(InputError, match=message):
        interp.Capture.load(stored)


def test_values_of_another_shape_are_refused(stored: Path):
    content = json.loads((stored / "capture.json").read_text())
    content["stats"]["entropy"]["meaning"]["axes"] = ["batch", "head"]
    rewrite(stored, stats=content["stats"])
    with pytest.raises(InputError, match=r"'entropy' of layer 0 has shape \[2, 4, 12\], expected 4 heads and the axes"):
        interp.Capture.load(stored)


def test_files_of_two_captures_do_not_mix(padded: Capture, own_model, stored: Path, tmp_path: Path):
    other = interp.load(own_model("llama")).capture(token_ids((1, 9))).save(tmp_path / "other")
    (other / "tensors.safetensors").rename(stored / "tensors.safetensors")
    with pytest.raises(InputError, match=r"tensors\.safetensors does not belong to the capture\.json beside it"):
        interp.Capture.load(stored)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_cut_file_is_refused(name: str, stored: Path):
    path = stored / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"^the capture in .* cannot be read: "):
        interp.Capture.load(stored)


def test_a_missing_file_is_refused(stored: Path):
    (stored / "tensors.safetensors").unlink()
    with pytest.raises(InputError, match=r"tensors\.safetensors is missing; the capture is not whole"):
        interp.Capture.load(stored)


def test_the_tensors_can_be_read_without_interp(padded: Capture, stored: Path):
    with warnings.catch_warnings(), safe_open(stored / "tensors.safetensors", "np") as file:
        assert file.get_tensor("stats/entropy/1").shape == (2, 4, 12)
    content = json.loads((stored / "capture.json").read_text())
    assert content["facts"]["versions"]["torch"] == torch.__version__
