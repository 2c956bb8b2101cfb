"""Attacks on the server: other names, other sites, forged and oversized requests, tokens, redirects."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pytest
from flask.testing import FlaskClient

from interp.errors import InputError
from interp_app.guard import OVERHEAD
from interp_app.server import create_app
from interp_app.settings import AppSettings
from interp_app.workspace import Workspace
from tests.app.callbacks import AROUND, UPDATE
from tests.app.conftest import Served

TOKEN = "correct-horse_battery"
Client = Callable[..., FlaskClient]


@pytest.fixture(scope="module")
def client(workspace: Workspace) -> Client:
    """A client of a server that was started with these settings."""

    def made(**settings: Any) -> FlaskClient:
        return create_app(AppSettings(**settings), workspace=workspace).server.test_client()

    return made


@pytest.fixture(scope="module")
def local(client: Client) -> FlaskClient:
    return client()


@pytest.fixture
def public(client: Client) -> FlaskClient:
    """Bound to all addresses, with a token."""
    return client(host="0.0.0.0", token=TOKEN)


def get(address: str) -> bytes:
    with urlopen(address, timeout=20) as answer:
        return answer.read()


def host(name: str, **more: str) -> dict[str, str]:
    return {"Host": name, **more}


@pytest.mark.parametrize("name", ["127.0.0.1:8050", "localhost", "LOCALHOST:1", "[::1]:8050", "[::1]", "127.0.0.1"])
def test_the_names_of_this_machine_are_answered(local: FlaskClient, name: str):
    assert local.get("/", headers=host(name)).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "evil.example:8050",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example@127.0.0.1.evil.example",
        "127.0.0.2",
        "2130706433",
        "0.0.0.0",
        "[::2]",
        "[::1",
        "localhost.",
        "",
        "a b",
        "<script>",
    ],
)
def test_other_names_are_refused_as_rebinding(local: FlaskClient, name: str):
    for path in ("/", "/assets/app.css", "/_dash-layout", "/no/such/page"):
        answer = local.get(path, headers=host(name))
        assert answer.status_code in (400, 403), path
    assert local.post(UPDATE, json=AROUND, headers=host(name)).status_code in (400, 403)


def test_a_refusal_is_plain_text(local: FlaskClient):
    answer = local.get("/", headers=host("evil.example"))
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.text == "This server does not answer to the name 'evil.example'.\n"


def test_names_of_a_proxy_are_answered_in_any_case(client: Client):
    proxied = client(names=("Heads.Example.org",))
    assert proxied.get("/", headers=host("heads.example.ORG")).status_code == 200
    assert proxied.get("/", headers=host("evil.example")).status_code == 403


def test_a_forwarded_name_is_not_believed(local: FlaskClient):
    forged = host(
        "evil.example",
        **{"X-Forwarded-Host": "127.0.0.1", "X-Forwarded-For": "127.0.0.1", "Forwarded": "host=127.0.0.1"},
    )
    assert local.get("/", headers=forged).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "http://localhost:8050",
        "http://127.0.0.1:8050.evil.example",
        "http://127.0.0.1:8050@evil.example",
        "file://",
        "http://[::1",
        "",
        "chrome-extension://abc",
    ],
)
def test_posts_from_other_sites_are_refused(local: FlaskClient, origin: str):
    answer = local.post(UPDATE, json=AROUND, headers=host("127.0.0.1:8050", Origin=origin))
    assert answer.status_code == 403
    assert answer.text == "Requests from other sites are refused.\n"


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8050", "https://127.0.0.1:8050"])
def test_posts_from_its_own_pages_are_answered(local: FlaskClient, origin: str):
    answer = local.post(UPDATE, json=AROUND, headers=host("127.0.0.1:8050", Origin=origin))
    assert answer.status_code == 200


def test_a_cross_site_post_without_an_origin_is_refused_and_a_link_is_not(local: FlaskClient):
    cross = host("127.0.0.1:8050", **{"Sec-Fetch-Site": "cross-site"})
    assert local.post(UPDATE, json=AROUND, headers=cross).status_code == 403
    assert local.get("/", headers=cross).status_code == 200


def test_no_other_site_may_read_an_answer(local: FlaskClient):
    for answer in (
        local.get("/"),
        local.options(UPDATE),
        local.get("/no/such/page"),
        local.get("/", headers=host("x")),
    ):
        assert not [name for name in answer.headers if name[0].startswith("Access-Control")]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_every_answer_says_what_a_page_may_load(local: FlaskClient):
    for answer in (
        local.get("/"),
        local.get("/assets/app.css"),
        local.get("/assets/missing.js"),
        local.get("/", headers=host("evil.example")),
        local.post(UPDATE, data="{", content_type="application/json"),
    ):
        policy = dict(
            part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";") if part.strip()
        )
        assert policy["default-src"] == "'self'"
        assert "'unsafe-inline'" not in policy["script-src"]
        assert "'unsafe-eval'" not in policy["script-src"]
        assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
        assert policy["connect-src"] == policy["form-action"] == "'self'"
        assert not [source for source in " ".join(policy.values()).split() if "http" in source or source == "*"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        answer.close()


def test_only_this_machine_is_answered_without_a_token(local: FlaskClient):
    """Whatever a WSGI server was bound to: a Host header is easily forged outside a browser."""
    for address, status in [
        ("127.0.0.1", 200),
        ("127.8.8.8", 200),
        ("::1", 200),
        ("", 200),
        ("10.0.0.7", 403),
        ("fe80::1%eth0", 403),
        ("x", 403),
    ]:
        answer = local.get("/", headers=host("127.0.0.1"), environ_overrides={"REMOTE_ADDR": address})
        assert answer.status_code == status, address


def test_with_a_token_other_machines_are_answered(public: FlaskClient):
    far = {"REMOTE_ADDR": "10.0.0.7"}
    assert public.get("/", headers=host("box.lan:8050"), environ_overrides=far).status_code == 401
    public.get(f"/?token={TOKEN}", headers=host("box.lan:8050"), base_url="http://box.lan:8050", environ_overrides=far)
    assert public.get("/", base_url="http://box.lan:8050", environ_overrides=far).status_code == 200


def test_a_server_for_other_machines_always_has_a_token():
    settings = AppSettings(host="0.0.0.0")
    assert settings.made_token
    assert len(settings.token or "") >= 32
    assert settings.token != AppSettings(host="0.0.0.0").token
    assert settings.address == f"http://127.0.0.1:8050/?token={settings.token}"


@pytest.mark.parametrize("token", ["", "short", "a" * 201, "with space", "semi;colon", "ünïcödé-token", "line\nbreak"])
def test_tokens_that_protect_nothing_are_refused(token: str):
    with pytest.raises(InputError, match="token: expected 8 to 200 letters") as refused:
        AppSettings(host="0.0.0.0", token=token)
    assert token not in str(refused.value) or not token


@pytest.mark.parametrize("name", ["", "http://a.example", "a.example:443", "a b", "a/b", "*"])
def test_names_that_are_no_names_are_refused(name: str):
    with pytest.raises(InputError, match="names: expected names such as heads"):
        AppSettings(names=(name,))


@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies", "/assets/app.css", "/scans", "/x"])
def test_nothing_is_answered_without_the_token(public: FlaskClient, path: str):
    for given in (
        "",
        "?token=",
        "?token=wrong",
        f"?token={TOKEN}x",
        f"?token={TOKEN[:-1]}",
        "?token=%ff%fe",
        f"?Token={TOKEN}",
    ):
        answer = public.get(path + given)
        assert answer.status_code == 401, given
        assert "Set-Cookie" not in answer.headers
    assert public.post(UPDATE, json=AROUND).status_code == 401
    assert public.post(f"{UPDATE}?token={TOKEN}", json=AROUND).status_code == 401


def test_the_token_leaves_the_address_for_a_cookie(public: FlaskClient):
    answer = public.get(f"/scans?detector=sink&token={TOKEN}&head=L1H2")
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/scans?detector=sink&head=L1H2"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/" in cookie
    assert public.get(answer.headers["Location"]).status_code == 200
    assert public.post(UPDATE, json=AROUND).status_code == 200


def test_the_token_is_taken_out_however_it_is_written(public: FlaskClient):
    answer = public.get(f"/?%74oken={TOKEN}&model=a%26token%3Db&x=%ff")
    assert answer.status_code == 302
    assert TOKEN not in answer.headers["Location"]
    assert "model=a%26token%3Db" in answer.headers["Location"]


def test_a_cookie_that_is_wrong_is_refused(public: FlaskClient):
    for value in ("wrong", "", TOKEN + "x", "\x80"):
        public.set_cookie("interp_token", value)
        assert public.get("/").status_code == 401


def test_dashboards_on_two_ports_hold_their_tokens_apart(public: FlaskClient):
    names = {
        public.get(f"/?token={TOKEN}", base_url=f"http://127.0.0.1:{port}").headers["Set-Cookie"].split("=")[0]
        for port in (8050, 8051)
    }
    assert len(names) == 2


def test_the_cookie_wants_an_encrypted_connection_where_there_is_one(public: FlaskClient):
    answer = public.get(f"/?token={TOKEN}", base_url="https://heads.example.org")
    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "//evil.example/%2e%2e",
        "/\\evil.example",
        "///evil.example",
        "/%09/evil.example",
        "/%5Cevil.example",
        "/%0d%0aSet-Cookie:%20a=b",
    ],
)
def test_the_redirect_leads_nowhere_else(public: FlaskClient, path: str):
    answer = public.get("/", environ_overrides={"PATH_INFO": _decoded(path), "QUERY_STRING": f"token={TOKEN}"})
    location = answer.headers.get("Location", "/")
    assert urlsplit(location).netloc in ("", "localhost"), location
    if not urlsplit(location).netloc:
        assert location.startswith("/")
        assert not location.startswith(("//", "/\\"))
    assert not set(location) & set("\\\r\n\t")
    assert "evil" not in answer.headers.get("Set-Cookie", "")


def _decoded(path: str) -> str:
    return unquote(path)


def test_a_body_that_is_too_large_is_refused(client: Client):
    small = client(longest_text=1000)
    most = 2 * 1000 + OVERHEAD
    large = b'{"output": "' + b"x" * most + b'"}'
    assert small.post(UPDATE, data=large, content_type="application/json").status_code == 413


def test_a_body_of_unknown_length_is_cut_off(served: Served):
    most = 2 * served.workspace.settings.longest_text + OVERHEAD
    # Whole, it would be JSON, and fail in another way.
    chunks = (b'{"output": "', *[b"x" * 65536] * (most // 65536 + 2), b'"}')
    place = urlsplit(served.address)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=20)
    try:
        connection.request("POST", UPDATE, chunks, {"Content-Type": "application/json"}, encode_chunked=True)
        assert connection.getresponse().status in (400, 413)
    except ConnectionError:
        pass  # it was closed before all was sent
    finally:
        connection.close()
    assert get(served.address)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b'"x"', b"null", b"{}", b"\xff\xfe", b'{"output": "no.such"}', b"[" * 5000]
)
def test_forged_bodies_show_no_trace(local: FlaskClient, body: bytes):
    answer = local.post(UPDATE, data=body, content_type="application/json")
    assert answer.status_code >= 400
    for telling in ("Traceback", ".py", str(Path.home())):
        assert telling not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../server.py",
        "/assets/..%2fserver.py",
        "/assets/%2e%2e/%2e%2e/pyproject.toml",
        "/assets//etc/passwd",
        "/assets/app.css%00.png",
        "/_dash-component-suites/dash/../../etc/passwd",
        "/_dash-component-suites/os/environ",
        "/_dash-component-suites/interp_app/settings.py",
    ],
)
def test_no_file_beside_the_assets_is_served(local: FlaskClient, path: str):
    answer = local.get(path)
    for telling in ("root:", "import ", "[project]", "Traceback"):
        assert telling not in answer.text


@pytest.mark.parametrize(
    "query", ["page=1", "page=x&page=y", "workspace=1", "self=1", "query=1", "path=%2Fetc", "model[]=x", "a.b=1"]
)
def test_no_field_of_an_address_breaks_a_page(local: FlaskClient, query: str):
    answer = local.post(
        UPDATE,
        json={
            "output": ".._pages_content.children..._pages_store.data..",
            "outputs": [
                {"id": "_pages_content", "property": "children"},
                {"id": "_pages_store", "property": "data"},
            ],
            "inputs": [
                {"id": "_pages_location", "property": "pathname", "value": "/"},
                {"id": "_pages_location", "property": "search", "value": f"?{query}"},
            ],
            "changedPropIds": ["_pages_location.pathname"],
        },
    )
    assert answer.status_code == 200, answer.text[:200]
    assert "Overview" in answer.text


def test_debugging_is_off(local: FlaskClient):
    assert local.get("/?__debugger__=yes&cmd=resource&f=debugger.js").content_type.startswith("text/html")
    assert local.get("/console").status_code == 200
    assert "Interactive Console" not in local.get("/console").text
    assert not local.application.debug
