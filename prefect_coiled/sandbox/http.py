"""The HTTP server: werkzeug's, but with connections that are kept alive.

werkzeug closes each connection because it does not know whether the request's body was read to its end.
Here the body is read to its end, or the connection is closed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from prefect_coiled.sandbox.calls import HANG_UP, Environ, WsgiApp
from prefect_coiled.sandbox.peers import may_ask

__all__ = ["LOOPBACK", "serve_on"]

LOOPBACK = "127.0.0.1"

_log = logging.getLogger(__name__)
_DRAIN = 1 << 20  # bytes of an unread body that are read to keep a connection
# Seconds that a connection may be idle between requests.
_KEPT_S = 300
# No length.
_UNCLEAR = -1
# Seconds that a body may take, and one more for so many bytes; bytes that are read at once; and those of a
# body whose length nobody says.
_BODY_S, _SLOWEST, _PIECE, _LONGEST_CHUNKED = 60.0, 50_000, 1 << 16, 1 << 28
# Connections that have sent no whole request yet, and seconds that each may take for the head of its first.
_SILENT, _HEAD_S = 64, 10


class _Body(io.RawIOBase):
    """The body of a request, which never reads into the next request, nor waits for it without end.

    Args:
        stream: What comes.
        length: How much of it is the body; None where it ends by itself, as a chunked one does.
    """

    def __init__(self, stream: Any, length: int | None) -> None:
        self._stream = stream
        self._ends = length is None
        self.left = _LONGEST_CHUNKED if length is None else length
        self._until = time.monotonic() + _BODY_S + self.left / _SLOWEST

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        parts: list[bytes] = []
        while wanted:
            if time.monotonic() > self._until:
                raise TimeoutError("the body of a request comes too slowly")
            data = self._some(wanted)
            if not data:
                self.left = 0
                break
            parts.append(data)
            self.left -= len(data)
            wanted -= len(data)
        if self._ends and not self.left and parts and self._some(1):
            raise ConnectionError("the body of a request has no end")
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        """What there is of it by now; empty at its end."""
        read = self._stream.read if self._ends else self._stream.read1
        data: bytes = read(min(most, _PIECE))
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readline(self, size: int | None = -1) -> bytes:
        wanted = self.left if size is None or size < 0 else min(size, self.left)
        data: bytes = self._stream.readline(wanted) if wanted else b""
        self.left -= len(data)
        return data


class _Silent:
    """Connections that have said nothing yet: where they are too many, the oldest is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}

    def came(self, connection: socket.socket) -> None:
        """A connection was made."""
        with self._lock:
            self._waiting[connection] = None
            oldest = next(iter(self._waiting)) if len(self._waiting) > _SILENT else None
            if oldest is not None:
                del self._waiting[oldest]
        if oldest is not None:
            # Its thread, which waits for more of it, sees its end.
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)

    def spoke(self, connection: socket.socket) -> None:
        """It has sent the head of a request, or ended."""
        with self._lock:
            self._waiting.pop(connection, None)


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto has no types
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = _HEAD_S

    def handle(self) -> None:
        """Answer the requests of one connection, if its other end is ours."""
        # What is in a network namespace is not listed here.
        if self.server.host != LOOPBACK or may_ask(self.client_address, self.connection.getsockname()):
            silent: _Silent = self.server.silent
            silent.came(self.connection)
            try:
                super().handle()
            finally:
                silent.spoke(self.connection)
        else:
            _log.warning("refused a connection of another user from port %s", self.client_address[1])

    def log_request(self, *args: Any) -> None:
        """Calls are recorded elsewhere."""

    def run_wsgi(self) -> None:
        """Answer one request and leave the connection ready for the next."""
        self.server.silent.spoke(self.connection)
        self.connection.settimeout(_KEPT_S)
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        length = self._length()
        # A line that is no field ends the head for Python: https://www.rfc-editor.org/rfc/rfc9112#section-5.1
        if length == _UNCLEAR or self.headers.defects:
            # Who reads on in another place takes the rest for a request of its own.
            self.close_connection = True
            self.send_error(400)
            return
        environ: Environ = self.make_environ()
        if length is None:
            # A chunked body says itself where it ends; the connection is not used again after it.
            self.close_connection = True
            environ["wsgi.input"] = _Body(environ["wsgi.input"], None)
        body = _Body(self.rfile, length or 0)
        if length is not None:
            environ["wsgi.input"] = body
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            head[:] = [status, headers]
            return lambda data: None

        try:
            parts = self.server.app(environ, start_response)
            try:
                self._send(environ, parts, head)
            finally:
                if hasattr(parts, "close"):
                    parts.close()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
            return
        except Exception:  # whatever moto raises must be seen, and the client must get an answer
            _log.exception("%s %s", environ["REQUEST_METHOD"], environ["PATH_INFO"])
            self.close_connection = True
            self.send_error(500)
            return
        if body.left > _DRAIN:
            self.close_connection = True
        elif body.left:
            body.read()

    def _length(self) -> int | None:
        """How long the body is; None where it says so itself, `_UNCLEAR` where that is said twice or wrongly.

        https://www.rfc-editor.org/rfc/rfc9112#section-6.3
        """
        lengths, codings = (
            self.headers.get_all(name, []) for name in ("Content-Length", "Transfer-Encoding")
        )
        if codings:
            return None if not lengths and [c.strip().lower() for c in codings] == ["chunked"] else _UNCLEAR
        if not lengths:
            return 0
        return int(lengths[0]) if len(lengths) == 1 and re.fullmatch("[0-9]{1,15}", lengths[0]) else _UNCLEAR

    def _send(self, environ: Environ, parts: Iterable[bytes], head: list[Any]) -> None:
        pieces = iter(parts)
        first = next(pieces, b"")
        status, headers = head
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        names = set()
        for name, value in headers:
            names.add(name.lower())
            self.send_header(name, value)
        silent = environ["REQUEST_METHOD"] == "HEAD" or code in ("204", "304")
        if ("content-length" not in names and not silent) or environ.get(HANG_UP):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if not silent:
            self.wfile.write(first)
            for piece in pieces:
                self.wfile.write(piece)
        self.wfile.flush()


def serve_on(host: str, port: int, app: WsgiApp) -> BaseWSGIServer:
    """A server that listens already, with a thread for each connection.

    Args:
        host: The address.
        port: The port; 0 for a free one.
        app: The application.
    """
    server = make_server(host, port, app, threaded=True, request_handler=_Handler)
    server.silent = _Silent()
    return server
