"""What a cluster's workers do while it is watched is told, to the end."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled.cluster.watching import Watching


@pytest.fixture
def told() -> list[tuple[str, tuple[str, ...]]]:
    return []


@pytest.fixture
def watching(told: list[tuple[str, tuple[str, ...]]]) -> Watching:
    def tell(kind: str, text: str, *, ids: tuple[str, ...], **fields: Any) -> None:
        told.append((kind, ids))

    return Watching(tell)


async def test_what_was_seen_in_the_last_second_is_told_at_the_end(
    watching: Watching, told: list[Any]
) -> None:
    watching.announced(["taken"])
    watching.gone("lost")
    watching.gone("taken")
    watching.stop()
    assert told == [("spot_notice", ("taken",)), ("worker_lost", ("lost",))]


async def test_what_is_meant_to_go_is_not_told(watching: Watching, told: list[Any]) -> None:
    watching.expect(["a"])
    watching.gone("a")
    watching.stop()
    assert told == []
