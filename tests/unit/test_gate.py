"""The gate before the dashboard answers every method, and no page of another site gets a websocket."""

from __future__ import annotations

from typing import Any

import pytest
from tornado import httputil
from tornado.testing import AsyncHTTPTestCase

from prefect_coiled.node.gate import Gate

COOKIE = Gate(None, "token", 8787).answer(httputil.RequestStartLine("GET", "/?token=token", "HTTP/1.1"), {})  # type: ignore[arg-type]


class TestGate(AsyncHTTPTestCase):
    """The gate before nothing, on a server of Tornado's."""

    def get_app(self) -> Any:
        return Gate(None, "token", 8787)  # type: ignore[arg-type]

    def test_every_method_without_a_token_is_refused(self) -> None:
        for method in ("GET", "HEAD", "OPTIONS", "DELETE", "GET"):
            reply = self.fetch("/status", method=method)
            assert reply.code == 401
            assert bool(reply.body) is (method != "HEAD")


def test_a_token_in_the_address_does_not_stay_there() -> None:
    gate = Gate(None, "token", 8787)  # type: ignore[arg-type]
    assert COOKIE is not None
    cookie = COOKIE[1]["Set-Cookie"].partition(";")[0]
    for known in ({}, {"Cookie": cookie}, {"Authorization": "Bearer token"}):
        line = httputil.RequestStartLine("GET", "//evil.example/status?a=1&token=token", "HTTP/1.1")
        answer = gate.answer(line, httputil.HTTPHeaders(known))
        assert answer is not None
        assert (answer[0], answer[1]["Location"]) == (302, "/evil.example/status?a=1")
    for attribute in ("Path=/", "Secure", "HttpOnly", "SameSite=Lax"):
        assert attribute in COOKIE[1]["Set-Cookie"]
    assert "token" not in cookie


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("https://192.0.2.1:8786", 403),
        ("https://192.0.2.1:8787.evil.example", 403),
        ("http://192.0.2.1:8787", 403),
        ("ftp://192.0.2.1:8787", 403),
        ("//192.0.2.1:8787", 403),
        ("https://192.0.2.1:8787@evil.example", 403),
        ("http://[", 403),
        ("", 403),
        ("null", 403),
        ("https://192.0.2.1:8787", None),
        (None, None),
    ],
)
def test_a_page_of_another_site_gets_no_websocket_and_changes_nothing(
    origin: str | None, status: int | None
) -> None:
    assert COOKIE is not None
    headers = httputil.HTTPHeaders({"Host": "192.0.2.1:8787"})
    headers["Cookie"] = COOKIE[1]["Set-Cookie"].partition(";")[0]
    if origin is not None:
        headers["Origin"] = origin
    gate = Gate(None, "token", 8787)  # type: ignore[arg-type]

    def asked(method: str, path: str, **more: str) -> int | None:
        line = httputil.RequestStartLine(method, path, "HTTP/1.1")
        answer = gate.answer(line, httputil.HTTPHeaders({**headers, **more}))
        return answer and answer[0]

    assert asked("GET", "/status/ws", Upgrade="WebSocket") == status
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert asked(method, "/api/v1/retire_workers") == status
    assert asked("GET", "/status") is None


def test_a_gate_without_a_token_lets_nobody_in() -> None:
    gate = Gate(None, "", 8787)  # type: ignore[arg-type]
    known = Gate(None, "x", 8787)  # type: ignore[arg-type]
    name = known._cookie_name
    for path, headers in (
        ("/?token=", {}),
        ("/", {"Authorization": "Bearer "}),
        ("/", {"Authorization": "Bearer"}),
        ("/", {"Cookie": f"{name}={gate._cookie}"}),
        ("/", {"Cookie": f"{name}="}),
    ):
        line = httputil.RequestStartLine("GET", path, "HTTP/1.1")
        assert gate.answer(line, httputil.HTTPHeaders(headers)) == (401, {})


def test_another_token_than_the_gates_lets_nobody_in() -> None:
    gate, other = Gate(None, "token", 8787), Gate(None, "tokem", 8787)  # type: ignore[arg-type]
    for path, headers in (
        ("/status?token=tokem", {}),
        ("/status?token=toke", {}),
        ("/status?token=", {}),
        ("/status", {"Authorization": "Bearer tokem"}),
        ("/status", {"Authorization": "token"}),
        ("/status", {"Cookie": f"{gate._cookie_name}={other._cookie}"}),
        ("/status", {"Cookie": f"{gate._cookie_name}=token"}),
    ):
        line = httputil.RequestStartLine("GET", path, "HTTP/1.1")
        assert gate.answer(line, httputil.HTTPHeaders(headers)) == (401, {})
