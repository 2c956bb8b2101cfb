"""From a hub name to a folder of the Hugging Face cache: what is there is used, what is not is named before it is fetched.

The environment variables of huggingface_hub hold (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN), and so does
a stored login. A model that is in the cache is used as it is there, without asking the hub whether it has a newer one.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.sizes import readable

CONFIG = "config.json"
# In the order in which transformers looks for weights: one file, or an index that names the parts.
WHOLE = ("model.safetensors", "pytorch_model.bin")
PARTED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PARTS = {PARTED[0]: "model-*.safetensors", PARTED[1]: "pytorch_model-*.bin"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model", "vocab.txt")
SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Configuration, tokenizer, chat template and processor: what stands beside weights at the top of a repository."""
ANSWER_WITHIN = 5.0
"""Seconds in which the hub must answer the first question."""


@dataclass(frozen=True)
class HubModel:
    """A model of the hub at one commit, of which the cache holds some files: {file: bytes, None where the hub does not say}."""

    name: str
    revision: str | None
    commit: str
    files: dict[str, int | None]

    def fetch(self, *patterns: str) -> Path:
        """The folder of the cache with all files of these names in it; says on stderr what it downloads.

        Raises:
            InputError: too little room on the disk, no permission for a gated model, or the connection broke.
        """
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import GatedRepoError

        folder = self.folder
        wanted = [name for name in self.files if any(fnmatch(name, pattern) for pattern in patterns)]
        missing = [name for name in wanted if not (folder / name).is_file()]
        if missing:
            self._check_room(missing)
            self._announce(missing)
            try:
                snapshot_download(self.name, revision=self.revision, allow_patterns=missing)
            except GatedRepoError as error:
                raise InputError(
                    f"{self.name} is gated: ask for access on {constants.ENDPOINT}/{self.name}, then log in (hf auth "
                    "login) or set HF_TOKEN"
                ) from error
            except Exception as error:
                if not _is_of_the_connection(error):
                    raise
                raise InputError(f"the download of {self.name} failed: {_first_line(error)}") from error
        return folder

    @property
    def folder(self) -> Path:
        return _repository(self.name) / "snapshots" / self.commit

    @property
    def weights(self) -> tuple[str, ...]:
        """The patterns of the weight files that transformers would choose.

        Raises:
            InputError: there are none.
        """
        for whole, parted in zip(WHOLE, PARTED, strict=True):
            if whole in self.files:
                return (whole,)
            if parted in self.files:
                return parted, PARTS[parted]
        raise InputError(f"{self.name} has no weights that can be loaded: it has none of {', '.join(WHOLE + PARTED)}")

    @property
    def small(self) -> list[str]:
        """All but weights: at the top of the repository, of the kinds that configurations and tokenizers have."""
        return [n for n in self.files if "/" not in n and n not in PARTED and any(fnmatch(n, p) for p in SMALL)]

    @property
    def code(self) -> list[str]:
        return [name for name in self.files if name.endswith(".py")]

    def _announce(self, missing: list[str]) -> None:
        from huggingface_hub import constants

        sizes = [self.files[name] for name in missing]
        total = "" if None in sizes else f" ({readable(sum(size or 0 for size in sizes))})"
        named = ", ".join(missing[:4]) + (f" and {len(missing) - 4} files more" if len(missing) > 4 else "")
        at = f" at revision {self.revision}" if self.revision else ""
        print(
            f"interp: downloading {named}{total} of {self.name}{at} from {constants.ENDPOINT} into {_cache()}",
            file=sys.stderr,
            flush=True,
        )

    def _check_room(self, missing: list[str]) -> None:
        needed = sum(self.files[name] or 0 for name in missing)
        place = next(p for p in (_cache(), *_cache().parents) if p.exists())
        free = shutil.disk_usage(place).free
        if needed > free:
            raise InputError(
                f"{self.name} needs {readable(needed)} more on the disk of {_cache()}, which has {readable(free)} free; "
                "make room, or set HF_HUB_CACHE to a folder on another disk"
            )


def cached(name: str, revision: str | None) -> Path | None:
    """The folder of the cache that holds a model's configuration and all of its weights, None where there is no such."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        return None
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder is not None and _has_weights(folder) else None


def asked(name: str, revision: str | None) -> HubModel:
    """What the hub knows of a model: one question, without the library's retries.

    Raises:
        InputError: offline, no answer within ``ANSWER_WITHIN`` seconds, no such model or revision, or not for this user.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise _not_found(name, revision, "the Hugging Face hub was not asked (offline)")
    asked_at = f"asked the Hugging Face hub at {constants.ENDPOINT}"
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=ANSWER_WITHIN)
    except HFValidationError as error:
        raise _not_found(name, revision, "no hub name looks like this") from error
    except RevisionNotFoundError as error:
        raise _not_found(name, revision, f"{asked_at}, which has no such revision of it") from error
    except RepositoryNotFoundError as error:
        raise _not_found(name, revision, f"{asked_at}, which knows none for you") from error
    except Exception as error:
        if not _is_of_the_connection(error):
            raise
        raise _not_found(name, revision, f"{asked_at}, which did not answer ({_first_line(error)})") from error
    files = {each.rfilename: each.size for each in info.siblings or ()}
    if info.sha is None or CONFIG not in files:
        raise InputError(f"{name} on the Hugging Face hub is no model of transformers: it has no {CONFIG}")
    return HubModel(name, revision, info.sha, files)


def rest_of(name: str, commit: str) -> HubModel | None:
    """What the hub knows of a model that is in the cache; None where it cannot be asked, so that the cache must do."""
    try:
        return asked(name, commit)
    except InputError:
        return None


def _not_found(name: str, revision: str | None, tried: str) -> InputError:
    at = f" at revision {revision}" if revision else ""
    part = "only a part of it" if _repository(name).is_dir() else "it is not"
    return InputError(
        f"found no model named {name!r}{at}: there is no such folder, {part} in the cache {_cache()}, and "
        f"{tried}. Check the name, log in if it is gated, or give a local folder or 'demo'"
    )


def _has_weights(folder: Path) -> bool:
    for whole, parted in zip(WHOLE, PARTED, strict=True):
        if (folder / whole).is_file():
            return True
        if (folder / parted).is_file():
            index: dict[str, Any] = json.loads((folder / parted).read_text(encoding="utf-8"))
            return all((folder / part).is_file() for part in set(index["weight_map"].values()))
    return False


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(name: str) -> Path:
    return _cache() / f"models--{name.replace('/', '--')}"


def _is_of_the_connection(error: Exception) -> bool:
    """Whether it came from the network: of the HTTP library, whichever huggingface_hub uses, or from the operating system."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0].startswith(
        ("httpx", "httpcore", "requests")
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
