"""Hundreds of connections that say nothing keep nobody out, and are let go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import connect, listen
from distributed.security import Security
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from prefect_coiled.node.anteroom import Anteroom, guard_dask, guard_http
from prefect_coiled.node.gate import Gate
from prefect_coiled.plan.certificates import ClusterCertificates

HELD = 200


@pytest.fixture
def pems(tmp_path: Path) -> dict[str, str]:
    """Files of a cluster's certificates."""
    made = ClusterCertificates.make("c", datetime.now(timezone.utc))
    texts = {
        "ca": made.ca,
        "server": made.scheduler.cert,
        "server_key": made.scheduler.key,
        "client": made.client.cert,
        "client_key": made.client.key,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: str(tmp_path / name) for name in texts}


@asynccontextmanager
async def held(port: int, say: bytes = b"") -> AsyncIterator[list[asyncio.StreamReader]]:
    """Connections that do not go on after their first bytes."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(HELD)]
    for _, writer in opened:
        writer.write(say)
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def ended(readers: list[asyncio.StreamReader]) -> int:
    """How many of the connections the other side ended; waits for all of them, with a bound."""

    async def end(reader: asyncio.StreamReader) -> bool:
        try:
            return await reader.read() == b""
        except OSError:
            return True

    return sum(await asyncio.wait_for(asyncio.gather(*map(end, readers)), 20))


# The beginning of a TLS record, of which no more comes.
@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n"])
async def test_the_dashboard_answers_whoever_has_the_token(pems: dict[str, str], say: bytes) -> None:
    class Page(RequestHandler):
        def get(self) -> None:
            self.write("page")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pems["server"], pems["server_key"])
    room = Anteroom(room=50, patience_s=2.0)
    server = HTTPServer(Gate(Application([("/", Page)]), "token", 8787, room), ssl_options=context)
    guard_http(server, room)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    port = sockets[0].getsockname()[1]

    def fetch(token: str) -> Any:
        return AsyncHTTPClient(force_instance=True).fetch(
            f"https://127.0.0.1:{port}/",
            validate_cert=False,
            raise_error=False,
            headers={"Authorization": f"Bearer {token}"},
        )

    try:
        async with held(port, say) as silent:
            reply = await asyncio.wait_for(fetch("token"), 10)
            assert (reply.code, reply.body) == (200, b"page")
            assert (await asyncio.wait_for(fetch("wrong"), 10)).code == 401
            assert len(room) <= 50
            assert await ended(silent) == HELD
        await polled(lambda: len(room) == 0)
    finally:
        server.stop()


@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_the_scheduler_answers_whoever_has_the_certificate(pems: dict[str, str], say: bytes) -> None:
    security = Security(
        require_encryption=True,
        tls_ca_file=pems["ca"],
        tls_scheduler_cert=pems["server"],
        tls_scheduler_key=pems["server_key"],
        tls_client_cert=pems["client"],
        tls_client_key=pems["client_key"],
    )
    room = Anteroom(room=50, patience_s=2.0)

    async def echo(comm: Any) -> None:
        await comm.write(await comm.read())

    listener = await listen("tls://127.0.0.1:0", echo, **security.get_listen_args("scheduler"))
    guard_dask(listener, room)
    port = int(listener.contact_address.rpartition(":")[2])
    try:
        async with held(port, say) as silent:
            comm = await connect(
                listener.contact_address, timeout=10, **security.get_connection_args("client")
            )
            await comm.write("hello")
            assert await comm.read() == "hello"
            assert len(room) <= 50
            assert await ended(silent) == HELD
            await comm.close()
        await polled(lambda: len(room) == 0)
    finally:
        listener.stop()


async def polled(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not come true")


async def test_where_they_are_too_many_the_oldest_of_the_address_with_the_most_goes() -> None:
    gone: list[str] = []
    room = Anteroom(room=3)
    for name, address in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c"), ("d1", "d")):
        room.enter(name, address, lambda name=name: gone.append(name))  # type: ignore[misc]
    assert gone == ["a1", "b1"]
    room.leave("a2")
    room.enter("e1", "e", lambda: None)
    assert gone == ["a1", "b1"]
    assert len(room) == 3
    for name in ("c1", "d1", "e1", "never"):
        room.leave(name)
    assert len(room) == 0


def test_what_the_documents_say_of_patience_holds_where_nothing_else_is_said() -> None:
    parameters = signature(Anteroom).parameters
    assert (parameters["room"].default, parameters["patience_s"].default) == (256, 20.0)
