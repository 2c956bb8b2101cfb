"""Every architecture of the zoo: output, layers and statistics are those of the model's own eager attention."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

import interp
from tests.interp.zoo.document import row
from tests.interp.zoo.entry import Entry
from tests.interp.zoo.parity import parity
from tests.interp.zoo.zoo import ZOO

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
NAMES = [f"{entry.model}{'' if entry.note == '' else ', ' + entry.note}" for entry in ZOO]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on models this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("entry", ZOO, ids=NAMES)
def test_parity_with_its_own_eager_attention(entry: Entry):
    found = parity(entry)
    assert set(found.layers) == set(entry.layers)
    excess, where = found.worst
    assert excess <= 1, f"{where}: error is {excess:.3g} times what is allowed, {found.errors[where]}"
    assert row(found) in PAGE.read_text(), "docs/models.md is not current: python -m tests.interp.zoo > docs/models.md"


def test_each_architecture_stands_in_the_zoo_once():
    assert len(set(NAMES)) == len(ZOO) >= 60


def test_the_page_is_of_this_zoo_and_this_version_of_transformers():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and line.count("|") == 5]
    assert {line.split(" | ")[0].removeprefix("| ") for line in rows} == {entry.model for entry in ZOO} | {"model"}
    assert f"transformers {transformers.__version__}:" in PAGE.read_text()


@pytest.mark.parametrize(
    ("name", "loaded"),
    [
        ("BartForConditionalGeneration", "BartForConditionalGeneration"),
        ("MarianMTModel", "MarianMTModel"),
        ("WhisperForConditionalGeneration", "WhisperForConditionalGeneration"),
        ("LlavaForConditionalGeneration", "LlavaForConditionalGeneration"),
        ("CLIPModel", "CLIPModel"),
        ("BloomForCausalLM", "BloomForCausalLM"),
        ("DistilBertForMaskedLM", "DistilBertModel"),
    ],
)
def test_a_folder_is_loaded_with_the_head_that_it_was_saved_with(name: str, loaded: str, tmp_path: Path):
    """Of encoders the head is left out: it stands after all attention."""
    entry = next(entry for entry in ZOO if entry.model == name)
    entry.build().save_pretrained(tmp_path)
    model = interp.load(tmp_path)
    assert type(model.model).__name__ == loaded
    assert set(model.layers) == set(entry.layers)
