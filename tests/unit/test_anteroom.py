"""Hundreds of connections that say nothing keep nobody out, and are let go."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timezone
from inspect import signature
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client
from distributed.comm import CommClosedError, connect, listen
from distributed.security import Security
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from prefect_coiled.node import scheduler
from prefect_coiled.node.anteroom import Anteroom, guard_dask, guard_http
from prefect_coiled.node.gate import Gate
from prefect_coiled.node.timers import Timers
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

    return sum(await asyncio.wait_for(asyncio.gather(*map(end, readers)), 60))


@asynccontextmanager
async def dashboard(pems: dict[str, str], room: Anteroom) -> AsyncIterator[int]:
    """A server with one page behind the gate; gives its port."""

    class Page(RequestHandler):
        def get(self) -> None:
            self.write("page")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pems["server"], pems["server_key"])
    server = HTTPServer(Gate(Application([("/", Page)]), "token", 8787, room), ssl_options=context)
    guard_http(server, room)
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.stop()


async def fetch(port: int, token: str) -> Any:
    """The answer to who has a token."""
    client = AsyncHTTPClient(force_instance=True)
    headers = {"Authorization": f"Bearer {token}"}
    got = client.fetch(f"https://127.0.0.1:{port}/", validate_cert=False, raise_error=False, headers=headers)
    return await asyncio.wait_for(got, 60)


# The beginning of a TLS record, of which no more comes.
@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n"])
async def test_the_dashboard_answers_whoever_has_the_token(pems: dict[str, str], say: bytes) -> None:
    room = Anteroom(room=50, patience_s=2.0)
    async with dashboard(pems, room) as port:
        async with held(port, say) as silent:
            reply = await fetch(port, "token")
            assert (reply.code, reply.body) == (200, b"page")
            assert (await fetch(port, "wrong")).code == 401
            assert len(room) <= 50
            assert await ended(silent) == HELD
        await polled(lambda: len(room) == 0)


async def test_who_has_shown_the_token_may_stay(pems: dict[str, str]) -> None:
    context = ssl.create_default_context(cafile=pems["ca"])
    context.check_hostname = False
    asks = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\r\n"
    room = Anteroom(patience_s=1000.0)
    async with dashboard(pems, room) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        await polled(lambda: len(room) == 1)
        writer.write(asks)
        assert (await asyncio.wait_for(reader.readline(), 10)).split()[1] == b"200"
        assert len(room) == 0
        writer.close()


@pytest.mark.long
async def test_the_schedulers_own_ports_let_go_who_says_nothing(
    pems: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[Anteroom] = []

    def room(**of: Any) -> Anteroom:
        rooms.append(Anteroom(room=20, patience_s=1.0, **of))
        return rooms[-1]

    monkeypatch.setattr(scheduler, "Anteroom", room)
    tls = "distributed.scheduler.dashboard.tls"
    with dask.config.set({f"{tls}.cert": pems["server"], f"{tls}.key": pems["server_key"]}):
        made = scheduler.NodeScheduler(
            dashboard_token="token",
            timers=Timers(0, None, None),
            host="127.0.0.1",
            port=0,
            protocol="tls",
            security=security(pems),
            dashboard=True,
            dashboard_address="127.0.0.1:0",
        )
        await made
    try:
        for port in (made.port, made.http_server.port):
            async with held(port) as silent:
                assert await ended(silent) == HELD
        for one in rooms:  # who has something to say may be slow
            one._patience_s = 60.0
        assert (await fetch(made.http_server.port, "token")).code < 400
        assert (await fetch(made.http_server.port, "")).code == 401
    finally:
        await made.close()


async def test_a_scheduler_takes_note_of_a_client_as_it_comes_and_of_no_task_s(pems: dict[str, str]) -> None:
    tls = "distributed.scheduler.dashboard.tls"
    timers = Timers(time.monotonic(), no_client_timeout=100, cluster_timeout=None, grace=1000)
    with dask.config.set({f"{tls}.cert": pems["server"], f"{tls}.key": pems["server_key"]}):
        made = await scheduler.NodeScheduler(
            dashboard_token="token",
            timers=timers,
            host="127.0.0.1",
            port=0,
            protocol="tls",
            security=security(pems),
            dashboard_address="127.0.0.1:0",
        )
    try:
        for name, reason in (("worker-1", None), (None, "no-client")):
            async with Client(made.address, security=security(pems), asynchronous=True, name=name):
                assert made.connected() == (0 if name else 1)
            await polled(lambda: not made.client_comms)
            # It is gone before the scheduler looks; it looks now, and in a while.
            assert timers.check(time.monotonic(), made.connected()) is None
            assert timers.check(time.monotonic() + 101, made.connected()) == reason
    finally:
        await made.close()


def test_a_scheduler_shows_no_pages_without_tls() -> None:
    made = object.__new__(scheduler.NodeScheduler)
    with (
        dask.config.set({"distributed.scheduler.dashboard.tls.cert": None}),
        pytest.raises(RuntimeError, match="without TLS"),
    ):
        made.start_http_server({}, "127.0.0.1:0")


def security(pems: dict[str, str]) -> Security:
    return Security(
        require_encryption=True,
        tls_ca_file=pems["ca"],
        tls_scheduler_cert=pems["server"],
        tls_scheduler_key=pems["server_key"],
        tls_client_cert=pems["client"],
        tls_client_key=pems["client_key"],
    )


@pytest.mark.parametrize("say", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_the_scheduler_answers_whoever_has_the_certificate(pems: dict[str, str], say: bytes) -> None:
    room = Anteroom(room=50, patience_s=2.0)

    async def echo(comm: Any) -> None:
        with suppress(CommClosedError):
            while True:
                await comm.write(await comm.read())

    listener = await listen("tls://127.0.0.1:0", echo, **security(pems).get_listen_args("scheduler"))
    guard_dask(listener, room)
    port = int(listener.contact_address.rpartition(":")[2])
    try:
        async with held(port, say) as silent:
            comm = await connect(
                listener.contact_address, timeout=10, **security(pems).get_connection_args("client")
            )
            await comm.write("hello")
            assert await comm.read() == "hello"
            assert len(room) <= 50
            assert await ended(silent) == HELD
            # Who has shown what he may stays.
            await polled(lambda: len(room) == 0)
            await comm.write("later")
            assert await comm.read() == "later"
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
    for name, address in (("b1", "b"), ("a1", "a"), ("a2", "a"), ("c1", "c"), ("d1", "d")):
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
