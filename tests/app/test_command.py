"""``interp app`` on the command line: its help, one clear error for what cannot be, and a server that answers and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, build_opener

import pytest

from tests.interp.command import Command


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program serves."""
    with closing(socket.socket()) as place:
        place.bind(("127.0.0.1", 0))
        place.listen()
        yield place.getsockname()[1]


def test_its_help_says_what_it_takes(command: Command):
    shown = command("app", "--help")
    assert shown.code == 0
    for option in ("--model", "--text", "--scans", "--host", "--port", "--token", "--memory", "--name"):
        assert option in shown.out
    assert "interp app ./my-model" in shown.out


def test_a_port_that_there_cannot_be_is_refused(command: Command):
    for port in (70000, -1):
        assert command("app", "--port", port).refused() == f"port: expected a number from 0 to 65535, got {port}"


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(command: Command, taken: int):
    begun = time.monotonic()
    said = command("app", "--port", taken).refused()
    assert said == f"cannot listen on 127.0.0.1, port {taken} (Address already in use); give another --host or --port"
    assert time.monotonic() - begun < 30


def test_a_host_that_is_not_this_machine_is_refused(command: Command):
    assert "cannot listen on 203.0.113.7" in command("app", "--host", "203.0.113.7", "--port", 0).refused()


def test_a_model_that_is_not_there_is_said(command: Command):
    ran = command("app", "./no-such-model", "--port", 0)
    assert ran.code == 2
    errors = [line for line in ran.err.splitlines() if line.startswith("interp: ")]
    assert len(errors) == 1
    assert "no-such-model" in errors[0]
    assert "Traceback" not in ran.err


def test_a_text_that_cannot_be_read_is_said_before_anything_is_loaded(command: Command, tmp_path: Path):
    assert (
        command("app", "--text", tmp_path / "none.txt").refused()
        == f"--text {tmp_path / 'none.txt'}: there is no such file"
    )
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert "is not UTF-8 text" in command("app", "--text", tmp_path / "latin.txt").refused()


def test_an_empty_token_does_not_open_the_server(command: Command):
    assert command("app", "--host", "0.0.0.0", "--token", "").refused().startswith("token: expected 8 to 200 letters")


def test_no_memory_is_refused(command: Command):
    assert command("app", "--memory", 0).refused() == "memory: expected a whole number of at least 1, got 0"


@pytest.mark.parametrize("options", [[], ["--host", "0.0.0.0"]])
def test_it_serves_until_it_is_interrupted(tmp_path: Path, options: list[str]):
    process = subprocess.Popen(
        [sys.executable, "-m", "interp_app", "--port", "0", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/\S*", said)
        assert found, (said, process.poll())
        assert ("token=" in found[0]) == bool(options)
        browser = build_opener(HTTPCookieProcessor(CookieJar()))
        with browser.open(found[0], timeout=30) as answer:
            assert "<title>interp</title>" in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0  # what runs is stopped at its next step, however slow the machine
        errors = process.stderr.read()
        assert "Traceback" not in errors
        assert ("warning: 0.0.0.0 can be reached from other machines" in errors) == bool(options)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_without_the_extra_it_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("interp_app.command.NEEDED", ("dash", "a_package_that_is_not_there"))
    ended = command("app")
    assert ended.code == 2
    assert "the dashboard needs a_package_that_is_not_there" in ended.err
    assert "pip install -c constraints.txt" in ended.err
