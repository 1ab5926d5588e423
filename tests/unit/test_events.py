"""One stream of events: who hears what, in which order, and whose an error is."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefect_coiled.events import EVERYWHERE, Event, Stream, hearing, here, step, tell
from prefect_coiled.events.rows import EVENT_TYPES
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.progress import Board


def test_everybody_hears_everything_in_the_order_of_telling_inner_ones_first() -> None:
    told: list[tuple[str, str]] = []
    EVERYWHERE.subscribe(everywhere := lambda event: told.append(("everywhere", event.step)))
    try:
        with hearing(lambda event: told.append(("outer", event.step))):
            step("a", "begun")
            with hearing(lambda event: told.append(("inner", event.step))):
                step("b", "begun")
            step("c", "begun")
    finally:
        EVERYWHERE.unsubscribe(everywhere)
    step("d", "nobody hears it")
    assert told == [
        *[("outer", "a"), ("everywhere", "a")],
        *[("inner", "b"), ("outer", "b"), ("everywhere", "b")],
        *[("outer", "c"), ("everywhere", "c")],
    ]


def test_a_subscribers_error_is_not_the_publishers_and_keeps_nothing_from_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []

    def fails(event: Event) -> None:
        raise OSError("the pipe is closed")

    with hearing(fails, lambda event: told.append(event.text)), caplog.at_level(logging.WARNING):
        step("a", "begun")
        step("a", "done")
    assert told == ["begun", "done"]
    assert "the pipe is closed" in caplog.text


def test_what_ends_the_program_is_no_error_of_a_subscriber() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    with hearing(interrupted), pytest.raises(KeyboardInterrupt):
        step("a", "begun")


def test_two_at_once_hear_their_own_and_threads_of_a_pool_tell_where_they_were_started() -> None:
    def one(name: str) -> list[str]:
        told: list[str] = []
        with hearing(lambda event: told.append(event.text)):
            side_by_side(lambda n: tell(Event("step", f"{name} {n}")), range(50), 4)
        return sorted(told)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, "ab"))
    assert found == [sorted(f"{name} {n}" for n in range(50)) for name in "ab"]


def test_whoever_shows_the_steps_is_known_also_from_within() -> None:
    assert not here().is_shown
    with hearing(lambda event: None, shows=True):
        assert Stream(here()).is_shown
    assert not here().is_shown


def test_a_board_takes_what_is_progress_and_nothing_else() -> None:
    board = Board(lambda: 0.0)
    for kind in ("step", "workers", "dashboard", "call", "reply", "examination", *EVENT_TYPES):
        board(Event(kind, kind, step=kind))
    assert {name for name, _, _ in board.rows()} == {"step", "workers", "dashboard"}
