"""Machines that end before their workers join are seen, and a row of them ends the launching."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from prefect_coiled.cluster import arrivals
from prefect_coiled.cluster.arrivals import MOST_IN_A_ROW, Arrivals
from prefect_coiled.errors import UnavailableError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "EVERY_S", 0.001)


class World:
    """Machines that are launched, join and end by a script of looks."""

    def __init__(self, *looks: Any) -> None:
        self.awaited: set[str] = set()
        self.joined: set[str] = set()
        self.looks = list(looks)
        self.meant: set[str] = set()
        self.arrivals = Arrivals(
            lambda: set(self.awaited),
            self.look,
            lambda name: name in self.joined,
            lambda name: name in self.meant,
        )

    async def look(self) -> None:
        what = self.looks.pop(0)
        if isinstance(what, Exception):
            raise what
        for name in what.get("join", ()):
            self.joined.add(name)
            self.arrivals.joined()
        self.awaited -= {*what.get("join", ()), *what.get("end", ())}

    async def run(self) -> None:
        self.arrivals.expect()
        task = self.arrivals._task
        assert task is not None
        await asyncio.wait_for(task, 5)


def test_it_looks_until_all_have_joined_or_ended_whatever_aws_answers() -> None:
    world = World({"join": ["a"]}, UnavailableError("looking", "AWS fails"), {"end": ["b"]})
    world.awaited = {"a", "b"}
    asyncio.run(world.run())
    assert not world.awaited
    assert not world.looks


def test_a_row_of_machines_that_end_is_told_and_not_watched_any_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def go() -> None:
        for number in range(MOST_IN_A_ROW):
            world.awaited = {str(number)}
            await world.run()
        world.arrivals.expect()
        assert world.arrivals._task is not None
        assert world.arrivals._task.done()

    world = World(*({"end": [str(number)]} for number in range(MOST_IN_A_ROW)))
    asyncio.run(go())
    assert "5 machines ended before their workers joined" in caplog.text


def test_those_that_were_to_end_are_no_accident(caplog: pytest.LogCaptureFixture) -> None:
    many = list(map(str, range(2 * MOST_IN_A_ROW)))
    world = World({"end": many})
    world.awaited, world.meant = set(many), set(many)
    asyncio.run(world.run())
    assert world.arrivals._in_a_row == 0
    assert not caplog.records


def test_who_asks_for_a_size_has_it_watched_again() -> None:
    async def go() -> None:
        for number in range(MOST_IN_A_ROW):
            world.awaited = {str(number)}
            await world.run()
        world.arrivals.anew()
        world.awaited = {"late"}
        await world.run()

    names = [*map(str, range(MOST_IN_A_ROW)), "late"]
    world = World(*({"end": [name]} for name in names))
    asyncio.run(go())
    assert not world.looks


def test_one_that_joins_ends_a_row() -> None:
    async def go() -> None:
        for number in range(3 * MOST_IN_A_ROW):
            world.awaited = {str(number)}
            await world.run()

    ways = ["end"] * (MOST_IN_A_ROW - 1) + ["join"]
    world = World(*({ways[number % MOST_IN_A_ROW]: [str(number)]} for number in range(3 * MOST_IN_A_ROW)))
    asyncio.run(go())
    assert not world.looks
