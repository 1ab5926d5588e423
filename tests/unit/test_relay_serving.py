"""How much the flow's process takes of what tasks ask, when the API is slow."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest

from prefect_coiled.relay import serving
from prefect_coiled.relay.exchange import Exchange
from prefect_coiled.relay.ownership import Own
from prefect_coiled.relay.serving import Relay


class Api:
    """Answers once it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []

    async def answer(self, asked: Any) -> Any:
        self.asked.append(asked[1])
        await self.go.wait()
        return 200, {}, asked[1].encode()


class Between:
    """A relay that takes from an exchange, as by the scheduler."""

    def __init__(self) -> None:
        self.exchange, self.api, self.relay = Exchange(), Api(), Relay(Own())
        self.relay._answering = cast(Any, self.api)
        self.scheduler = SimpleNamespace(relay_take=self.exchange.take, relay_give=self.exchange.give)
        self.running: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        await self.relay._take(self.scheduler, 0.0)
        for part in (self.relay._taking, self.relay._giving):
            self.running.append(asyncio.create_task(part(self.scheduler)))

    def ask(self, target: str, seconds: float = 20.0) -> asyncio.Task[Any]:
        asked = ("GET", target, b"")
        call = self.exchange.ask(relay=self.relay.id, id=uuid4().hex, asked=asked, seconds=seconds)
        return asyncio.create_task(call)

    async def close(self) -> None:
        for one in [*self.running, *self.relay._under_way]:
            one.cancel()
        await asyncio.gather(*self.running, *self.relay._under_way, return_exceptions=True)
        self.relay._loop.close()


async def until(true: Any) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("It did not come to that.")


async def test_no_more_is_taken_than_can_be_asked_soon_and_all_is_answered() -> None:
    between = Between()
    await between.open()
    asked = [between.ask(f"/{n}") for n in range(200)]
    await until(lambda: len(between.api.asked) == serving._AT_ONCE)
    await asyncio.sleep(0.2)
    assert len(between.relay._have) == serving._MOST
    between.api.go.set()
    assert [(await one)[2] for one in asked] == [f"/{n}".encode() for n in range(200)]
    assert len(between.api.asked) == 200
    await between.close()


async def test_what_nobody_waits_for_any_more_is_not_asked_and_what_somebody_does_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    between = Between()
    await between.open()
    first = [between.ask(f"/first/{n}") for n in range(serving._AT_ONCE)]
    await until(lambda: len(between.api.asked) == serving._AT_ONCE)
    monkeypatch.setattr(serving, "_STALE", 0.1)
    given_up, waits = between.ask("/given-up", seconds=0.2), between.ask("/waits")
    await until(lambda: len(between.relay._have) == serving._AT_ONCE + 2)
    assert (await given_up)[0] == 503
    between.api.go.set()
    assert {(await one)[0] for one in first} == {200}
    assert await waits == (200, {}, b"/waits")
    assert "/given-up" not in between.api.asked
    await between.close()


async def test_who_is_busy_is_heard_of_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_TAKE", 0.05)
    between = Between()
    await between.open()
    asked = [between.ask(f"/{n}") for n in range(100)]
    await until(lambda: len(between.relay._have) == serving._MOST)
    box = between.exchange._boxes[between.relay.id]
    seen = box.seen
    await until(lambda: box.seen > seen)
    assert len(between.relay._have) == serving._MOST
    between.api.go.set()
    assert {(await one)[0] for one in asked} == {200}
    await between.close()
