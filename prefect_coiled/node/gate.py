"""Closes Dask's HTTP server to everybody without the dashboard's token.

Dask's dashboard has no authentication of its own. The gate stands before all of its routes, the Bokeh
websockets too: a first visit with `?token=...` gets a cookie and is sent on; programs may send
`Authorization: Bearer`. TLS comes from `distributed.scheduler.dashboard.tls`.
"""

from __future__ import annotations

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

import tornado.httputil as httputil

from prefect_coiled.node.anteroom import Anteroom


class Gate(httputil.HTTPServerConnectionDelegate):  # type: ignore[misc]
    """Lets requests with the token through to an application.

    Args:
        token: The dashboard's token; empty closes the door to everybody.
        port: The dashboard's port: cookies are shared by the ports of one host, so it is in the name.
    """

    def __init__(
        self,
        application: httputil.HTTPServerConnectionDelegate,
        token: str,
        port: int,
        room: Anteroom | None = None,
    ) -> None:
        self._application = application
        self._room = room
        self._token = token
        # The cookie is derived, so that the token itself does not lie in the browser.
        self._cookie = hmac.new(token.encode(), b"dashboard cookie", hashlib.sha256).hexdigest()
        self._cookie_name = f"__Host-prefect-coiled-{port}"

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """Called by Tornado at each request."""
        return _Request(self, server_conn, request_conn)

    def open(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """Hand a request to the application."""
        if self._room is not None:
            self._room.leave(server_conn.stream)  # type: ignore[attr-defined]
        return self._application.start_request(server_conn, request_conn)

    def answer(
        self, start: httputil.RequestStartLine, headers: httputil.HTTPHeaders
    ) -> tuple[int, dict[str, str]] | None:
        """What to answer instead of the application: status and headers; None lets the request in."""
        if not self._token:
            return 401, {}
        if _is_foreign(start.method, headers):
            return 403, {}
        path, _, rest = start.path.partition("?")
        query = parse_qsl(rest, keep_blank_values=True)
        # Whoever has the cookie too is sent on as well, or the token would stay in the address.
        if not any(name == "token" and self._same(value, self._token) for name, value in query):
            let_in = self._has_cookie(headers) or self._same(
                headers.get("Authorization", ""), f"Bearer {self._token}"
            )
            return None if let_in else (401, {})
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # One leading slash: "//host" would lead elsewhere.
        location = "/" + path.lstrip("/\\") + (f"?{rest}" if rest else "")
        cookie = f"{self._cookie_name}={self._cookie}; Path=/; Secure; HttpOnly; SameSite=Lax"
        return 302, {"Location": location, "Set-Cookie": cookie}

    def _has_cookie(self, headers: httputil.HTTPHeaders) -> bool:
        try:
            found = SimpleCookie(headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            return False
        return found is not None and self._same(found.value, self._cookie)

    @staticmethod
    def _same(given: str, wanted: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _is_foreign(method: str, headers: httputil.HTTPHeaders) -> bool:
    """Whether a page of another site asks for a websocket, or to change something.

    Browsers send the cookie along with a websocket. For SameSite all ports of a host are one site, for some
    browsers http and https too: who is between could answer for the page without TLS. What a page of another
    site only asks for, its browser does not let it read.
    """
    origin = headers.get("Origin")
    looks = method in ("GET", "HEAD", "OPTIONS") and headers.get("Upgrade", "").strip().lower() != "websocket"
    if origin is None or looks:
        return False
    # Written as browsers do, and as nobody else needs to: https://www.rfc-editor.org/rfc/rfc6454#section-6.2
    return bool(origin.strip().lower() != f"https://{headers.get('Host', '').strip().lower()}")


class _Request(httputil.HTTPMessageDelegate):  # type: ignore[misc]
    """One request: decided by its headers, then passed on or swallowed."""

    def __init__(self, gate: Gate, server_conn: object, request_conn: httputil.HTTPConnection) -> None:
        self._gate = gate
        self._server_conn = server_conn
        self._request_conn = request_conn
        self._inner: httputil.HTTPMessageDelegate | None = None
        self._answer: tuple[int, dict[str, str]] = (401, {})
        self._method = ""

    def headers_received(self, start_line: Any, headers: httputil.HTTPHeaders) -> Any:
        self._method = start_line.method
        answer = self._gate.answer(start_line, headers)
        if answer is None:
            self._inner = self._gate.open(self._server_conn, self._request_conn)
            return self._inner.headers_received(start_line, headers)
        self._answer = answer
        return None

    def data_received(self, chunk: bytes) -> Any:
        return self._inner.data_received(chunk) if self._inner else None

    def on_connection_close(self) -> None:
        if self._inner:
            self._inner.on_connection_close()

    def finish(self) -> None:
        if self._inner:
            self._inner.finish()
            return
        status, extra = self._answer
        body = b"" if status == 302 else b"This dashboard needs its token: open the link of the cluster.\n"
        headers = httputil.HTTPHeaders(
            {
                "Content-Type": "text/plain; charset=utf-8",
                "Content-Length": str(len(body)),
                "Cache-Control": "no-store",
                "Referrer-Policy": "no-referrer",
                **extra,
            }
        )
        reason = httputil.responses[status]
        start = httputil.ResponseStartLine("HTTP/1.1", status, reason)
        self._request_conn.write_headers(start, headers, None if self._method == "HEAD" else body)
        self._request_conn.finish()
