"""The WSGI entry: settings from the environment, and a real gunicorn with one worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import HTTPCookieProcessor, Request, build_opener

import pytest

from interp.errors import InputError
from interp_app.environment import settings_of
from interp_app.settings import AppSettings
from tests.app.callbacks import AROUND, UPDATE, drawing

PATIENCE = 90.0
TOKEN = "correct-horse_battery"


def test_an_empty_environment_gives_the_defaults():
    assert settings_of({}) == settings_of({"PATH": "/bin", "INTERP_APP_TOKEN": ""}) == AppSettings()


def test_every_setting_can_be_given(tmp_path: Path):
    (tmp_path / "text.txt").write_text("some words", encoding="utf-8")
    assert settings_of(
        {
            "INTERP_APP_MODELS": "demo, ./other",
            "INTERP_APP_TEXT": str(tmp_path / "text.txt"),
            "INTERP_APP_SCANS": "stored",
            "INTERP_APP_HOST": "0.0.0.0",
            "INTERP_APP_NAMES": "a.example,b.example",
            "INTERP_APP_TOKEN": TOKEN,
            "INTERP_APP_MEMORY": "100",
            "INTERP_APP_DEVICE": "cpu",
            "INTERP_APP_DTYPE": "float64",
        }
    ) == AppSettings(
        models=("demo", "./other"),
        text="some words",
        scans=Path("stored"),
        host="0.0.0.0",
        names=("a.example", "b.example"),
        token=TOKEN,
        memory=100 * 2**20,
        device="cpu",
        dtype="float64",
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("INTERP_APP_TOKENS", TOKEN, "INTERP_APP_TOKENS: there is no such setting; known are INTERP_APP_MODELS, "),
        ("INTERP_APP_TOKEN", "short", "token: expected 8 to 200"),
        ("INTERP_APP_MEMORY", "2GB", "INTERP_APP_MEMORY: expected a whole number of megabytes, got '2GB'"),
        ("INTERP_APP_MODELS", ",", "models: expected names or folders"),
        ("INTERP_APP_NAMES", "http://a", "names: expected names such as"),
        ("INTERP_APP_TEXT", "/no/such/text", "INTERP_APP_TEXT /no/such/text: there is no such file"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str, why: str):
    with pytest.raises(InputError) as refused:
        settings_of({name: value})
    assert str(refused.value).startswith(why)


def test_a_token_that_is_made_up_is_in_the_log(caplog: pytest.LogCaptureFixture):
    settings = settings_of({"INTERP_APP_HOST": "0.0.0.0"})
    assert settings.token
    assert settings.token in caplog.text


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gunicorn that asks for a token; the app is loaded before it forks."""
    pytest.importorskip("gunicorn", reason="needs gunicorn (the extra `dev`)")
    with closing(socket.socket()) as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    log = tmp_path_factory.mktemp("gunicorn") / "log"
    options = ["--workers", "1", "--threads", "8", "--preload", "--bind", f"127.0.0.1:{port}", "--log-level", "warning"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "INTERP_APP_TOKEN": TOKEN,
        "INTERP_APP_NAMES": "heads.example.org",
    }
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *options, "interp_app.wsgi:server"],
            cwd=log.parent,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + PATIENCE
    while _status(address) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def _status(address: str, **headers: str) -> int | None:
    """The status of an answer; None where nobody answers."""
    try:
        with build_opener().open(Request(address, headers=headers), timeout=20) as answer:
            return answer.status
    except HTTPError as error:
        error.close()
        return error.code
    except URLError:
        return None


def test_gunicorn_asks_for_the_token_and_knows_its_names(gunicorn: str):
    assert _status(gunicorn) == 401
    assert _status(gunicorn, Cookie="interp_token=wrong") == 401
    assert _status(gunicorn, Host="evil.example") == 403
    assert _status(gunicorn, Host="heads.example.org") == 401


def test_gunicorn_serves_pages_and_works_in_the_background(gunicorn: str):
    """With --preload: the threads that work are begun in the process that serves, not in the one that forked it."""
    browser = build_opener(HTTPCookieProcessor(CookieJar()))
    with browser.open(f"{gunicorn}/?token={TOKEN}", timeout=30) as answer:
        assert answer.url == f"{gunicorn}/"
        assert b"<title>interp</title>" in answer.read()
    drawn = json.dumps(drawing("text-facts")).encode()
    end = time.monotonic() + PATIENCE
    while True:
        with browser.open(
            Request(gunicorn + UPDATE, drawn, {"Content-Type": "application/json"}), timeout=30
        ) as answer:
            body = answer.read().decode()
        if "context of the model" in body:
            break
        assert "Cancel" in body, body[:500]
        assert time.monotonic() < end
        time.sleep(0.2)
    with browser.open(
        Request(gunicorn + UPDATE, json.dumps(AROUND).encode(), {"Content-Type": "application/json"}), timeout=30
    ) as answer:
        assert answer.status == 200
