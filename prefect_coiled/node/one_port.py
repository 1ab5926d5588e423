"""One port for clients and for the dashboard, where a network lets nothing out but, say, 443.

The first bytes of a TLS connection say which of the two is meant: browsers and HTTP clients offer an HTTP
protocol (ALPN, https://www.rfc-editor.org/rfc/rfc7301), Dask offers none. Nothing is decrypted here: what
comes is passed on as it is, to listeners that want a certificate or a token as they always do.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

from prefect_coiled.node.anteroom import Anteroom
from prefect_coiled.node.silence import bear

# Seconds, and bytes, in which a connection has to say what it wants: a TLS record holds 16 KiB.
_HELLO_S, _HELLO = 10.0, 16 * 1024 + 5
_CHUNK = 1 << 18
_HANDSHAKE, _CLIENT_HELLO, _ALPN = 22, 1, 16


class OnePort:
    """Listens on one port, and passes each connection on to the scheduler or to the dashboard.

    Args:
        silence: Seconds after which who says nothing, not even that he is there, counts as lost.
    """

    def __init__(self, address: str, port: int, scheduler: int, dashboard: int, silence: float) -> None:
        self._address, self._port = address, port
        self._scheduler, self._dashboard, self._silence = scheduler, dashboard, silence
        self._saying = Anteroom(patience_s=_HELLO_S)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()
        self._origins: dict[int, str] = {}

    def origin(self, port: int) -> str:
        """The address from which a connection came that is passed on from a port here; empty for others."""
        return self._origins.get(port, "")

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._came, self._address, self._port, limit=_CHUNK)

    async def close(self) -> None:
        """Stop, and end what is passed on."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            peer = writer.get_extra_info("peername") or ("",)
            bear(writer.get_extra_info("socket"), self._silence)
            self._saying.enter(task, str(peer[0]), writer.transport.abort)
            hello = await _hello(reader)
            self._saying.leave(task)
            port = self._dashboard if wants_http(hello) else self._scheduler
            async with self._onward(port, str(peer[0])) as (there, onward):
                onward.write(hello)
                # Whoever serves ends it, also for those that never would: it has let them go.
                sending = asyncio.create_task(_pass_on(reader, onward))
                try:
                    await _pass_on(there, writer)
                finally:
                    sending.cancel()
        except (OSError, EOFError, ValueError):
            pass  # it went, or is none that is served here
        except asyncio.CancelledError:
            pass  # the scheduler closes
        finally:
            self._saying.leave(task)
            self._open.discard(task)
            writer.close()

    @contextlib.asynccontextmanager
    async def _onward(
        self, port: int, origin: str
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to a listener of this machine, whose origin is known before it is accepted."""
        passing = socket.socket()
        passing.setblocking(False)
        passing.bind((self._address, 0))
        here = passing.getsockname()[1]
        self._origins[here] = origin
        try:
            try:
                await asyncio.get_running_loop().sock_connect(passing, (self._address, port))
                reader, writer = await asyncio.open_connection(sock=passing, limit=_CHUNK)
            except BaseException:
                passing.close()
                raise
            with contextlib.closing(writer):
                yield reader, writer
        finally:
            del self._origins[here]


async def _hello(reader: asyncio.StreamReader) -> bytes:
    """The first TLS record.

    Raises:
        ValueError: It is no TLS.
    """
    head = await reader.readexactly(5)
    kind, _, size = struct.unpack("!BHH", head)
    if kind != _HANDSHAKE or not 0 < size <= _HELLO:
        raise ValueError
    return head + await reader.readexactly(size)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()
    except OSError:
        target.close()


def wants_http(hello: bytes) -> bool:
    """Whether the first record of a TLS connection offers an HTTP protocol.

    https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2 has its form. A client whose list does not fit
    into one record, or is no such list, is taken for Dask's.
    """
    try:
        body = hello[5:]
        if body[0] != _CLIENT_HELLO:
            return False
        at = 4 + 2 + 32  # the message's head, version, random
        at += 1 + body[at]  # session id
        at += 2 + int.from_bytes(body[at : at + 2], "big")  # cipher suites
        at += 1 + body[at]  # compression methods
        end = at + 2 + int.from_bytes(body[at : at + 2], "big")
        at += 2
        while at + 4 <= min(end, len(body)):
            kind, size = struct.unpack_from("!HH", body, at)
            if kind == _ALPN:
                offered = body[at + 6 : at + 4 + size]
                return b"http/1.1" in offered or b"\x02h2" in offered
            at += 4 + size
    except (IndexError, struct.error):
        pass
    return False
