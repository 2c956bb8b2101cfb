"""Models that the tests of interp share; none is changed by a test that leaves it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import interp
from interp.scores import HeadScores
from tests.conftest import IS_PRETENDED
from tests.interp.command import Command
from tests.interp.tiny import ARCHITECTURES, BERT, token_ids
from tests.interp.words import text_of, words_tokenizer

Build = Callable[[str], PreTrainedModel]


@pytest.fixture(scope="session")
def own_model() -> Build:
    """The tiny model of an architecture with its own fused attention, float32."""
    made: dict[str, PreTrainedModel] = {}

    def build(name: str) -> PreTrainedModel:
        if name not in made:
            made[name] = (BERT if name == "bert" else ARCHITECTURES[name]).build()
        return made[name]

    return build


@pytest.fixture(scope="session")
def eager_model() -> Build:
    """The same weights with eager attention, in float64."""
    made: dict[str, PreTrainedModel] = {}

    def build(name: str) -> PreTrainedModel:
        if name not in made:
            made[name] = (BERT if name == "bert" else ARCHITECTURES[name]).build(kernel="eager").double()
        return made[name]

    return build


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return words_tokenizer()


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, own_model: Build, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A Llama with its tokenizer, as saved by transformers."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    own_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory: pytest.TempPathFactory, own_model: Build) -> Path:
    """The same without a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "bare-llama"
    own_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(
    tmp_path_factory: pytest.TempPathFactory, own_model: Build, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """An encoder, whose heads see both ways."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    own_model("bert").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scores(own_model: Build, tokenizer: PreTrainedTokenizerFast) -> HeadScores:
    """A standard scan of a tiny Llama on a text of 200 words in windows of 70 positions."""
    text = text_of(token_ids((200,), seed=9))
    model = interp.load(own_model("llama"), tokenizer=tokenizer)
    return interp.scan(model, text=text, window=70, samples=3, progress=False)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, run in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Command(capfd)


@pytest.fixture(autouse=IS_PRETENDED, scope="session")
def _weights_may_be_pretended() -> Iterator[None]:
    """A pretended device's weights are of a class of their own, which ``load`` takes for packed ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("interp.loading.placement._check_weights", lambda *_: None)
        yield
