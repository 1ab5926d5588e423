"""One port tells browsers from Dask by the first bytes of a connection, and waits for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from prefect_coiled.node import one_port
from prefect_coiled.node.anteroom import Anteroom, guard_http
from prefect_coiled.node.one_port import OnePort, wants_http


def hello(*protocols: str) -> bytes:
    """The first bytes of a client of this Python's."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="scheduler.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


@pytest.mark.parametrize(
    ("protocols", "http"),
    [(("h2", "http/1.1"), True), (("http/1.1",), True), (("h2",), True), ((), False), (("other",), False)],
)
def test_who_offers_http_is_sent_to_the_dashboard(protocols: tuple[str, ...], http: bool) -> None:
    assert wants_http(hello(*protocols)) is http


@pytest.mark.parametrize("size", [0, 5, 6, 10, 43, 44, 60, 100])
def test_a_record_that_is_cut_off_is_read_to_its_end(size: int) -> None:
    assert wants_http(hello("h2")[:size]) is False


async def echo(name: bytes) -> tuple[asyncio.Server, int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name + await reader.read())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def served(check: Callable[[int], Awaitable[None]], scheduler: asyncio.Server | None = None) -> None:
    scheduler = scheduler or (await echo(b"scheduler:"))[0]
    first = scheduler.sockets[0].getsockname()[1]
    dashboard, second = await echo(b"dashboard:")
    free = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = free.sockets[0].getsockname()[1]
    free.close()
    await free.wait_closed()
    listener = OnePort("127.0.0.1", port, first, second, 30.0)
    await listener.start()
    try:
        await check(port)
    finally:
        await listener.close()
        scheduler.close()
        dashboard.close()


async def said(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def test_what_was_read_is_passed_on_and_so_is_what_follows() -> None:
    dask, browser, large = hello(), hello("h2"), b"x" * 3_000_000

    async def check(port: int) -> None:
        assert await said(port, dask + large) == b"scheduler:" + dask + large
        assert await said(port, browser + b"rest") == b"dashboard:" + browser + b"rest"

    await served(check)


async def test_what_is_no_tls_is_let_go() -> None:
    async def check(port: int) -> None:
        for data in (b"", b"\x16", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff"):
            assert await said(port, data) == b""

    await served(check)


async def test_those_who_say_nothing_are_let_go_and_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_port, "_HELLO_S", 2.0)

    whole = hello()

    async def check(port: int) -> None:
        talks, says = await asyncio.open_connection("127.0.0.1", port)
        says.write(whole)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(400)]
        for n, (_, writer) in enumerate(silent):
            writer.write(whole[: n % 20])  # nothing, or less than a record
        assert (await asyncio.wait_for(said(port, whole), 1.5)).startswith(b"scheduler:")
        for reader, _ in silent:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
        for _, writer in silent:
            writer.close()
        # Who has said what he wants may take his time.
        says.write(b"more")
        says.write_eof()
        assert await asyncio.wait_for(talks.read(), 10) == b"scheduler:" + whole + b"more"
        says.close()

    await served(check)


async def test_a_record_that_is_longer_than_one_of_tls_is_not_waited_for() -> None:
    async def check(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01\xff\xff")
        assert await asyncio.wait_for(reader.read(), one_port._HELLO_S / 2) == b""
        writer.close()

    await served(check)
    assert signature(Anteroom).parameters["patience_s"].default >= one_port._HELLO_S, "what the documents say"


async def test_whom_the_scheduler_lets_go_is_let_go_here_too() -> None:
    """One who said hello, and then nothing: the scheduler ends it, and he does not."""

    async def ends(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.close()

    async def check(port: int) -> None:
        before = len(asyncio.all_tasks())
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in opened:
            writer.write(hello())
        for reader, _ in opened:
            assert await asyncio.wait_for(reader.read(), 10) == b""
        for _ in range(500):  # nothing waits any more for what they might say
            if len(asyncio.all_tasks()) <= before:
                break
            await asyncio.sleep(0.02)
        assert len(asyncio.all_tasks()) <= before
        for _, writer in opened:
            writer.close()

    await served(check, await asyncio.start_server(ends, "127.0.0.1", 0))


async def test_who_is_passed_on_counts_by_the_address_that_he_comes_from() -> None:
    """Else many from one address would keep out all that come by the one port."""
    entered: list[str] = []

    class Room(Anteroom):
        def enter(self, visitor: Any, address: str, send_away: Any, port: int = 0) -> None:
            super().enter(visitor, address, send_away, port)
            entered.append(self._waiting[visitor][0])

    servers = [HTTPServer(lambda request: None) for _ in range(2)]
    ports = []
    for server in servers:
        sockets = bind_sockets(0, "127.0.0.1")
        ports.append(sockets[0].getsockname()[1])
        server.add_sockets(sockets)
    free = bind_sockets(0, "127.0.0.1")[0]
    port = free.getsockname()[1]
    free.close()
    listener = OnePort("127.0.0.1", port, *ports, 30.0)
    for server in servers:
        guard_http(server, Room(origin=listener.origin))
    await listener.start()
    try:
        opened = []
        for address, said in (("127.0.0.2", hello()), ("127.0.0.3", hello("h2")), ("127.0.0.2", hello("h2"))):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(said)
            opened.append(writer)
            while len(entered) < len(opened):
                await asyncio.sleep(0.01)
        assert entered == ["127.0.0.2", "127.0.0.3", "127.0.0.2"]
        for writer in opened:
            writer.close()
        while listener._origins:
            await asyncio.sleep(0.01)
    finally:
        await listener.close()
        for server in servers:
            server.stop()
