"""What a batch is to do, read from TOML or made in Python, and checked whole before anything runs.

docs/batch.md has every key.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.batch.models import ModelRef, read_models
from interp.batch.names import expanded
from interp.batch.problems import Keys, Problems
from interp.batch.texts import TextEntry, read_texts
from interp.errors import InputError

if TYPE_CHECKING:
    from interp.batch.kinds import Settings

UNIT_CHARACTERS = 100_000
"""About 25,000 tokens of English: seconds to minutes of work, which is what a kill can cost."""
DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True, eq=False)
class Plan:
    """Models, texts, and what to measure. Make one with ``read_plan`` or ``make_plan``.

    settings         of the kind of work; see ``interp.batch.kinds``
    output           folder of the store
    unit_characters  documents are put into one unit of work until they have so many characters
    """

    models: tuple[ModelRef, ...]
    texts: tuple[TextEntry, ...]
    settings: Settings
    output: Path
    device: str
    dtype: str
    unit_characters: int

    @property
    def kind(self) -> str:
        return self.settings.kind


def read_plan(path: str | Path) -> Plan:
    """The plan in a TOML file; what it names relatively starts from the file's folder.

    Raises:
        InputError: there is no such file, it is no TOML, or the plan has problems; all of them are named.
    """
    path = expanded(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"plan {path}: there is no such file") from None
    except IsADirectoryError:
        raise InputError(f"plan {path} is a folder; give the TOML file of a plan") from None
    except UnicodeDecodeError as error:
        raise InputError(f"plan {path} is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"plan {path} is no TOML: {error}") from None
    except OSError as error:
        raise InputError(f"plan {path} cannot be read: {error.strerror}") from None
    return _plan(content, path.resolve().parent, f"plan {path}")


def make_plan(**keys: Any) -> Plan:
    """The plan of the same keys as in TOML: ``make_plan(models=["demo"], texts=["*.txt"], output="out")``.

    Relative paths start from the current folder. A model or text may be a string alone: a source, a file or glob.

    Raises:
        InputError: the plan has problems; all of them are named.
    """
    return _plan({key: _plain(value) for key, value in keys.items()}, Path.cwd(), "the plan")


def _plain(value: Any) -> Any:
    """Paths as strings, wherever they stand."""
    match value:
        case Path():
            return str(value)
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
    return value


def _plan(content: dict[str, Any], base: Path, what: str) -> Plan:
    from interp.batch.kinds import KINDS

    problems = Problems()
    keys = Keys(content, "", problems)
    for name in ("models", "texts"):
        keys.known.append(name)
        if isinstance(content.get(name), str):
            content = {**content, name: [content[name]]}
    kind = keys.choice("kind", "scan", KINDS)
    output = keys.take("output", str, needed=True)
    device = keys.take("device", str, "auto")
    dtype = keys.choice("dtype", "auto", DTYPES)
    characters = keys.number("unit_characters", UNIT_CHARACTERS, 1)
    models = read_models(content.get("models"), base, problems)
    texts = read_texts(content.get("texts", []), base, problems)
    settings = KINDS[kind].read(keys, has_texts=bool(content.get("texts")))
    keys.end()
    place = base
    if isinstance(output, str):
        try:
            place = expanded(output, base)
        except InputError as error:
            problems.add("output", str(error))
    problems.check(what)
    assert settings is not None
    assert characters is not None
    return Plan(models, texts, settings, place, device, dtype, characters)
