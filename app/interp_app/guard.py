"""Who may talk to the server: this machine's browsers, from the dashboard's own pages, and others with the token."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from flask import Flask, Response, abort, make_response, redirect, request

from interp_app.settings import LOCAL, AppSettings

COOKIE = "interp_token"
OVERHEAD = 2**20
"""Bytes of a request beside a text: what Dash says of the page's state."""


def protect(server: Flask, settings: AppSettings, script_hashes: Callable[[], Sequence[str]]) -> None:
    """Check every request, and say in every answer what a page may load.

    A name other than the server's own in ``Host`` is a rebinding attack, another site's ``Origin`` a forged request; both are
    refused. With a token, a browser shows it once in the address and keeps it in a cookie. Without one, only this machine is
    answered, whatever the server was bound to.

    script_hashes: of the inline scripts that the page consists of, as a Content-Security-Policy names them
    """
    server.config["MAX_CONTENT_LENGTH"] = 2 * settings.longest_text + OVERHEAD  # an upload comes in base64, in JSON
    names = {*LOCAL, *settings.names}

    @server.before_request
    def check() -> Any:
        host = _name(request.host)
        # Bound to all addresses, it cannot know its own names: the token stands in for them.
        if host not in names and settings.is_local:
            _refuse(f"This server does not answer to the name {host[:60]!r}.")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in (f"http://{request.host}", f"https://{request.host}"):
            _refuse("Requests from other sites are refused.")
        if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.method != "GET":
            _refuse("Requests from other sites are refused.")
        if settings.token is not None:
            return _with_token(settings.token)
        if not _is_near(request.remote_addr):
            _refuse("Without a token this server answers to its own machine alone.")
        return None

    @server.after_request
    def say(response: Response) -> Response:
        inline = " ".join(script_hashes())
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' {inline}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
            "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
            "form-action 'self'; frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


_PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


def _refuse(why: str) -> NoReturn:
    abort(make_response(f"{why}\n", 403, _PLAIN))


def _is_near(address: str | None) -> bool:
    """Whether a request comes from this machine; one through a Unix socket has no address."""
    if not address:
        return True
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())


def _with_token(token: str) -> Any:
    # Cookies do not tell ports apart: without it, one dashboard would shut out another of this machine.
    cookie = f"{COOKIE}_{request.host.rpartition(':')[2]}" if request.host[-1:].isdigit() else COOKIE
    given = request.args.get("token")
    if given is not None and request.method == "GET" and _is_same(given, token):
        rest = urlencode([(name, value) for name, value in request.args.items(multi=True) if name != "token"])
        # A path such as //name would lead to another server.
        path = "/" + quote(request.path.lstrip("/\\"))
        response = redirect(path + (f"?{rest}" if rest else ""))
        response.set_cookie(cookie, token, httponly=True, samesite="Strict", secure=request.is_secure)
        return response
    if not _is_same(request.cookies.get(cookie, ""), token):
        abort(
            make_response(
                "This dashboard wants a token: open the address that it printed when it was started.\n", 401, _PLAIN
            )
        )
    return None
