"""A machine's log is read page by page: over empty ones, and backwards for its end."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled.aws import logs


class Pages:
    """A door whose log has pages; each token stands for one, and at the end the same token comes back."""

    account = "team"

    def __init__(self, *pages: list[str]) -> None:
        self.pages = pages
        self.asked = 0

    def call(self, action: str, what: str, **wanted: Any) -> dict[str, Any]:
        self.asked += 1
        forward = wanted["startFromHead"]
        at = int(wanted.get("nextToken", 0 if forward else len(self.pages) - 1))
        after = at + 1 if forward else at - 1
        lines = self.pages[at] if 0 <= at < len(self.pages) else []
        token = str(after if 0 <= at < len(self.pages) else at)
        return {
            "events": [{"message": line} for line in lines],
            "nextForwardToken": token,
            "nextBackwardToken": token,
        }


def read(door: Pages, **wanted: Any) -> list[str]:
    return list(logs.read_log(door, "i-1", **wanted))  # type: ignore[arg-type]


def test_a_log_goes_on_behind_an_empty_page() -> None:
    assert read(Pages(["a"], [], [], ["b"], [])) == ["a", "b"]


def test_the_end_of_a_log_may_be_longer_than_a_page() -> None:
    assert read(Pages(["a", "b"], ["c"], [], ["d", "e"]), tail=4) == ["b", "c", "d", "e"]


@pytest.mark.parametrize(("tail", "expected"), [(2, ["d", "e"]), (1, ["e"]), (99, ["a", "b", "c", "d", "e"])])
def test_a_tail_is_as_long_as_it_was_asked_for(tail: int, expected: list[str]) -> None:
    assert read(Pages(["a", "b"], ["c", "d", "e"]), tail=tail) == expected


def test_no_more_pages_are_asked_for_than_the_tail_needs() -> None:
    door = Pages(["a"], ["b"], ["c", "d"])
    assert read(door, tail=2) == ["c", "d"]
    assert door.asked == 1
