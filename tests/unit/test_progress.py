"""The board that shows how a cluster comes up."""

from __future__ import annotations

from contextvars import copy_context
from io import StringIO

import pytest
from rich.console import Console

from prefect_coiled import events, progress

LINK = "https://198.51.100.1:8787/status"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_token_of_the_dashboard_goes_to_terminals_alone(terminal: bool) -> None:
    written = StringIO()
    with progress.live_board(Console(file=written, force_terminal=terminal, width=200)):
        events.tell(events.Event("dashboard", f"{LINK}?token=secret", step="dashboard"))
    assert LINK in written.getvalue()
    assert ("token=secret" in written.getvalue()) == terminal
    assert not events.here().is_shown


def test_two_clusters_of_one_process_have_rows_of_their_own_under_their_names() -> None:
    with progress.live_board(Console(file=StringIO(), width=200)) as board:
        streams = [events.Stream(events.here(), of="") for _ in "ab"]
        contexts = [copy_context() for _ in streams]
        for n, (stream, context) in enumerate(zip(streams, contexts, strict=True)):
            context.run(stream.enter)
            context.run(events.step, "instances", f"{n + 1} launched")
        assert [state for _, state, _ in board.rows()] == ["1 launched", "2 launched"]
        # A name comes back: the second cluster has that of one that was there before.
        for stream, name in zip(streams, ("mine", "mine"), strict=True):
            stream.of = name
        contexts[1].run(events.step, "instances", "3 launched")
        events.step("account default", "the sandbox")
    assert [row[:2] for row in board.rows()] == [
        ("mine: instances", "1 launched"),
        ("mine: instances", "3 launched"),
        ("account default", "the sandbox"),
    ]


def test_rows_are_in_the_order_of_their_seconds() -> None:
    seconds = iter([0.0, 1.0, 2.0, 3.0])
    board = progress.Board(clock=lambda: next(seconds))
    for name in ("workers", "packages", "workers"):
        board(events.Event("step", f"{name} ready", step=name))
    assert [(name, at) for name, _, at in board.rows()] == [("packages", 2.0), ("workers", 3.0)]


def test_one_cluster_alone_is_not_named_at_its_steps() -> None:
    with progress.live_board(Console(file=StringIO(), width=200)) as board:
        context = copy_context()
        context.run(events.Stream(events.here(), of="mine").enter)
        context.run(events.step, "instances", "launching")
    assert [row[:2] for row in board.rows()] == [("instances", "launching")]
