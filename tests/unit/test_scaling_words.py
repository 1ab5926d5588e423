"""What a `Cluster` object tells the scheduler as it scales: also where a word is lost on the way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.cluster import scaling
from prefect_coiled.cluster.scaling import ScalingCluster


class Scaled(ScalingCluster):
    """One that lacks eight workers, and whose words may be lost."""

    def __init__(self, *lost: int, leaves: bool = False) -> None:
        self._scaling, self._leaving, self._holder, self._asks = None, False, "me", True
        self._arrivals: Any = SimpleNamespace(anew=lambda: None)
        self.said: list[dict[str, Any]] = []
        self.launched_now: list[int] = []
        self._lost, self._leaves = lost, leaves

    def __del__(self) -> None:
        """There is nothing to close."""

    def _adapting(self) -> None:
        return None

    async def tell_keeper(self, patience: float = 0.0, *, quiet: bool = False, **told: Any) -> dict[str, Any]:
        self.said.append(told)
        if self._leaves:
            self._leaving = True
        return {} if len(self.said) - 1 in self._lost else {"wanted": 2}

    async def _lacking(self, n: int, unlisted: Any) -> tuple[int, list[str]]:
        return 8, []

    async def _grow(self, more: int) -> list[str]:
        self.launched_now.append(more)
        return ["i-1"]


async def test_the_size_is_said_again_once_it_is_launched_for_the_first_word_may_be_lost() -> None:
    cluster = Scaled(0)
    await cluster._scale_to(10)
    assert cluster.said == [
        {"hold": "me", "wanted": 10},
        {"release": "me", "wanted": 10, "launched": ["i-1"]},
    ]


async def test_who_was_closed_while_another_launched_launches_nothing() -> None:
    cluster = Scaled(leaves=True)
    await cluster._scale_to(10)
    assert cluster.launched_now == []
    assert cluster.said[-1] == {"release": "me"}


async def test_who_launches_for_long_says_so_again_and_not_once_it_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling, "HOLD_AGAIN_S", 0.01)
    heard = asyncio.Event()

    class Slow(Scaled):
        async def tell_keeper(
            self, patience: float = 0.0, *, quiet: bool = False, **told: Any
        ) -> dict[str, Any]:
            if told == {"hold": "me"}:
                heard.set()
            return await super().tell_keeper(patience, quiet=quiet, **told)

        async def _grow(self, more: int) -> list[str]:
            await asyncio.wait_for(heard.wait(), 30)
            return ["i-1"]

    cluster = Slow()
    await cluster._scale_to(10)
    assert cluster.said[1] == {"hold": "me"}
    assert cluster.said[-1] == {"release": "me", "wanted": 10, "launched": ["i-1"]}
    assert len(asyncio.all_tasks()) == 1, "nobody says anything any more"
