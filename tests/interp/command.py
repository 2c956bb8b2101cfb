"""The command line run inside the test process."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from interp.cli import main

BAR = re.compile(r"(Loading weights|scan \S+): +\d+%\||$")
"""A step of a progress bar, or the empty line that it leaves."""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, all of it, as JSON."""
        return json.loads(self.out)

    def refused(self, code: int = 2) -> str:
        """The one line of an error: nothing on stdout, no traceback; nothing else on stderr but progress bars."""
        assert self.code == code, self
        assert self.out == ""
        lines = [line for line in self.err.splitlines() if not BAR.match(line)]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("interp: ")
        return lines[0].removeprefix("interp: ")


class Command:
    """``command("scan", "demo")`` runs ``interp scan demo``."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: object) -> Ran:
        self.capture.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(each) for each in arguments])
        out, err = self.capture.readouterr()
        code = stopped.value.code
        assert isinstance(code, int)
        return Ran(code, out, err)
