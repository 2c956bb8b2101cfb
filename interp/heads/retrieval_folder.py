"""A retrieval run on disk while it is under way: one file a finished trial, so that what is done is never done again.

    run.json            the settings that the answers depend on
    trials/00042.json   the answer of trial 42, written beside its place and then moved there

An interruption at any moment, SIGKILL too, leaves whole files alone. Numbers are written as Python writes floats, which are read
back to the last bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.errors import InputError
from interp.folders import check_output_folder, write_together
from interp.heads.answers import Answer

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

RUN, TRIALS = "run.json", "trials"
FORMAT = "interp.retrieval.1"
SAMPLED = 64
"""Numbers of each weight that its checksum is of."""


class RunFolder:
    """The finished trials of one run.

    Raises:
        InputError: the folder cannot be written, or holds the trials of other settings, or of something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        # As a file gives them back, so that what was read and what is asked for compare.
        asked = json.loads(json.dumps(dict(settings), default=str))
        check_output_folder(folder, RUN, "retrieval run", overwrite=True, how="")
        path = folder / RUN
        if path.exists():
            self._check(path, asked)
        else:
            text = json.dumps({"format": FORMAT, "settings": asked}, indent=1, ensure_ascii=False) + "\n"
            write_together(folder, {RUN: partial(_write, text)}, "retrieval run")

    def finished(self, number: int) -> Answer | None:
        """The answer of a trial, None where it is still to be made.

        Raises:
            InputError: its file is damaged.
        """
        path = self._path(number)
        try:
            return Answer.of_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete it, and that trial is run again") from error

    def keep(self, number: int, answer: Answer) -> None:
        """Write the answer of a trial.

        Raises:
            RunError: the disk is full, or the folder can no longer be written.
        """
        text = json.dumps(answer.as_json(), ensure_ascii=False)
        write_together(self._path(number).parent, {self._path(number).name: partial(_write, text)}, "trial")

    def _path(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:05d}.json"

    def _check(self, path: Path, asked: dict[str, Any]) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content["settings"] if content["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); give another folder") from error
        if not isinstance(found, dict):
            raise InputError(f"{path} was not written by this interp; give another folder")
        if _digest(found) != _digest(asked):
            raise InputError(
                f"{self.folder} holds trials of other settings ({_differences(found, asked)}); give those settings, or "
                "another folder"
            )


def fingerprint(model: HookedModel) -> str:
    """A checksum of the names and shapes of a model's weights, and of up to ``SAMPLED`` numbers of each."""
    digest = hashlib.sha256()
    for name, weight in model.host.inner.named_parameters():
        digest.update(f"{name} {list(weight.shape)} {weight.dtype}".encode())
        if not weight.is_meta and weight.numel():
            places = torch.linspace(0, weight.numel() - 1, min(SAMPLED, weight.numel()), dtype=torch.float64)
            sample = weight.detach().reshape(-1)[places.long().to(weight.device)]
            digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any], within: str = "") -> str:
    said = []
    for name in sorted(found.keys() | asked.keys()):
        there, wanted = found.get(name), asked.get(name)
        if there == wanted:
            continue
        if isinstance(there, dict) and isinstance(wanted, dict):
            said.append(_differences(there, wanted, f"{within}{name}."))
        else:
            said.append(f"{within}{name}: {there!r:.60} there, {wanted!r:.60} asked for")
    return "; ".join(said)


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
