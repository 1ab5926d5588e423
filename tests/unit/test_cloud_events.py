"""Events on their way to Prefect Cloud, which takes them by a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect.events.clients import PrefectEventsClient

from prefect_coiled.relay import cloud_events


class Socket:
    """Takes what is sent, and confirms by a pong."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.pings = 0
        self.client: Any = None

    async def send(self, text: str) -> None:
        self.sent.append(text)

    async def ping(self) -> Any:
        self.pings += 1
        pong = asyncio.get_running_loop().create_future()
        pong.set_result(0.0)
        return pong


class Cloud(PrefectEventsClient):
    """Prefect's client with a socket that leads nowhere."""

    socket: Socket

    async def __aenter__(self) -> Cloud:
        self._in_context = True
        self._websocket: Any = self.socket
        self.socket.client = self
        return self

    async def __aexit__(self, *error: Any) -> None: ...


@pytest.fixture
def socket(monkeypatch: pytest.MonkeyPatch) -> Socket:
    made = Socket()
    monkeypatch.setattr(Cloud, "socket", made, raising=False)
    monkeypatch.setattr(
        cloud_events, "get_events_client", lambda **given: Cloud("http://127.0.0.1:1/api", **given)
    )
    return made


BODIES = [f'{{"n":{n}}}'.encode() for n in range(100)]


async def test_a_batch_is_confirmed_at_once(socket: Socket) -> None:
    await cloud_events.stream(iter(BODIES))
    assert socket.sent == [body.decode() for body in BODIES]
    assert socket.pings == 1


async def test_a_batch_is_confirmed_where_prefects_own_clock_asked_in_the_middle_of_it(
    socket: Socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(self: Socket, text: str) -> None:
        self.sent.append(text)
        if len(self.sent) == 50:
            self.client._unconfirmed_events = []

    monkeypatch.setattr(Socket, "send", send)
    await cloud_events.stream(BODIES)
    assert len(socket.sent) == 100
    assert socket.client._unconfirmed_events == []


@pytest.mark.usefixtures("socket")
async def test_what_was_not_confirmed_has_not_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    async def confirm(client: Cloud) -> None:
        """As where the connection broke as the last one was sent again."""

    monkeypatch.setattr(Cloud, "_checkpoint", confirm)
    with pytest.raises(ConnectionError, match="100 of 100 events"):
        await cloud_events.stream(BODIES)
