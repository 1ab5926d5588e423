"""What a scheduler keeps of flow runs whose client went without a word: for a while, and then nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from distributed import Client, Scheduler

from prefect_coiled.task_runner import once, store
from prefect_coiled.task_runner.news import PREFIX, News


async def polled(true: Callable[[], bool]) -> None:
    for _ in range(1500):
        if true():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not in 30 seconds")


async def test_the_news_and_the_context_of_a_client_that_was_killed_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(once, "GONE_S", 0.2)
    async with Scheduler(port=0, dashboard=False) as scheduler:
        await scheduler.register_scheduler_plugin(once.Once(), idempotent=True)
        topics, spaces = scheduler._broker._topics, scheduler.task_metadata
        async with Client(scheduler.address, asynchronous=True) as lives:
            News(lives, "lives")
            await lives.set_metadata([store.PREFIX, "lives", "code"], b"1")
            killed = await Client(scheduler.address, asynchronous=True)
            News(killed, "killed")
            await killed.set_metadata([store.PREFIX, "killed", "context"], b"key")
            await polled(lambda: {f"{PREFIX}lives", f"{PREFIX}killed"} <= topics.keys())
            await killed.close()  # without unsubscribing, which is all that Dask sees of a kill
            await polled(lambda: f"{PREFIX}killed" not in topics)
            assert f"{PREFIX}lives" in topics
            assert spaces[store.PREFIX] == {"lives": {"code": b"1"}}
