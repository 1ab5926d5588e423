"""Events of users' code on their way from a worker."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from prefect_coiled.relay import event_queue as module
from prefect_coiled.relay.event_queue import EventQueue


class Api:
    """Answers as it is told to."""

    def __init__(self, *statuses: int, refuses: str = "") -> None:
        self._statuses, self._refuses = list(statuses), refuses
        self.took: list[str] = []
        self.requests = 0

    async def ask(self, method: str, target: str, body: bytes) -> Any:
        assert (method, target) == ("POST", "/events")
        self.requests += 1
        await asyncio.sleep(0)
        if self._statuses and (status := self._statuses.pop(0)) >= 400:
            return status, {}, b"words"
        events = [event["n"] for event in json.loads(body)]
        if self._refuses in events:
            return 403, {}, b"not this one"
        self.took += events
        return 204, {}, b""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)


async def sent(api: Api, names: list[str]) -> EventQueue:
    queue = EventQueue(api.ask)
    for name in names:
        await queue.put(json.dumps({"n": name}).encode())
    assert await queue.settle(10.0)
    assert len(queue) == 0
    return queue


async def test_events_go_in_their_order_as_few_requests() -> None:
    api = Api()
    names = [str(n) for n in range(500)]
    await sent(api, names)
    assert api.took == names
    assert api.requests <= 5


async def test_what_the_api_takes_later_is_kept_and_goes_later() -> None:
    api = Api(503, 429, 500, 204)
    await sent(api, ["a", "b"])
    assert api.took == ["a", "b"]


async def test_an_event_that_is_refused_keeps_no_other(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(refuses="evil")
    with caplog.at_level(logging.WARNING, "prefect_coiled.relay"):
        await sent(api, ["a", "evil", "b"])
    assert api.took == ["a", "b"]
    assert "not this one" in caplog.text


async def test_events_of_a_flow_run_that_has_ended_are_not_kept(caplog: pytest.LogCaptureFixture) -> None:
    api = Api(410)
    with caplog.at_level(logging.WARNING, "prefect_coiled.relay"):
        await sent(api, ["a", "b"])
    assert (api.took, api.requests) == ([], 1)
    assert "2 events were refused (410)" in caplog.text


async def test_who_sends_more_than_may_wait_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    open_ = asyncio.Event()

    async def ask(method: str, target: str, body: bytes) -> Any:
        await open_.wait()
        return 204, {}, b""

    queue = EventQueue(ask)
    for _ in range(3):
        await asyncio.wait_for(queue.put(b"{}"), 1.0)
    more = asyncio.create_task(queue.put(b"{}"))
    done, _ = await asyncio.wait([more], timeout=0.2)
    assert not done
    assert not await queue.settle(0.05)
    open_.set()
    await asyncio.wait_for(more, 5.0)
    assert await queue.settle(5.0)
