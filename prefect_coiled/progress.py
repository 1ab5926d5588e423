"""Shows how clusters come up, live in a terminal: network, role, image, instances, log streams, workers.

What clusters tell goes to the board that is open in this process, if there is one; without a board they print
plain lines, as Dask's own clusters do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from prefect_coiled.events import EVERYWHERE, Event, Stream

_UNDERWAY = ("looking", "creating", "launching", "connecting", "attaching")

_SHOWN = ("step", "workers", "dashboard")


class Board:
    """The state of each step of each cluster, and the second at which it was reached."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        # By the stream of a cluster: names come late, and come back.
        self._steps: dict[Stream | None, dict[str, tuple[str, float]]] = {}
        self._lock = threading.Lock()
        self._spinner = Spinner("dots")

    def __call__(self, event: Event) -> bool:
        """Take the state of a step; says whether it is one."""
        if event.kind not in _SHOWN:
            return False
        with self._lock:
            steps = self._steps.setdefault(event.source, {})
            steps[event.step] = (event.text, self._clock() - self._begun)
        return True

    def rows(self) -> list[tuple[str, str, float]]:
        """The steps that were begun: name, state, seconds since the board was opened.

        They are in the order of these seconds. Where there are several clusters, each has steps of its own,
        below each other, under its name.
        """
        with self._lock:
            clusters = {source: dict(steps) for source, steps in self._steps.items()}
        rows = []
        for source, steps in clusters.items():
            before = f"{source.of}: " if source is not None and source.of and len(clusters) > 1 else ""
            rows += [(before + s, *steps[s]) for s in sorted(steps, key=lambda s: steps[s][1])]
        return rows

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for column in ("mark", "step", "state", "seconds"):
            table.add_column(column, overflow="fold")
        for step, state, seconds in self.rows():
            mark: RenderableType = self._spinner if is_underway(state) else Text("✓", style="green")
            table.add_row(mark, Text(step, style="bold"), state, Text(f"{seconds:5.1f} s", style="dim"))
        return Group(table)


def is_underway(state: str) -> bool:
    """Whether the state of a step is one that goes on to another."""
    done, ready, rest = state.partition(" ready (of ")  # "3 ready (of 10)"
    return state.startswith(_UNDERWAY) or (bool(ready) and done != rest.rstrip(")"))


@contextmanager
def live_board(console: Console | None = None) -> Iterator[Board]:
    """Show the progress of every cluster that this process starts inside the block."""
    board = Board()
    live = Live(board, console=console, refresh_per_second=8)

    def show(event: Event) -> None:
        if event.kind == "dashboard" and not live.console.is_terminal:
            # A file is kept and shown around; the token opens the dashboard.
            event = replace(event, text=event.text.partition("?")[0])
        board(event)

    try:
        with live:
            EVERYWHERE.subscribe(show, shows=True)
            try:
                yield board
            finally:
                EVERYWHERE.unsubscribe(show)
    finally:
        # A file or a pipe gets the board once, at the end, and Rich ends no line there.
        if board.rows() and not (live.console.is_terminal or live.console.is_jupyter):
            live.console.line()
