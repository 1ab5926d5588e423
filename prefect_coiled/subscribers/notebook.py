"""Shows in a notebook's cell how a cluster comes up, as `progress` does in a terminal.

Updates one output in place by IPython's own display, so it needs no widget package, works in every front end,
and stays readable in the saved notebook. May be told things from any thread.
"""

from __future__ import annotations

import html
import importlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prefect_coiled.events import Event
from prefect_coiled.progress import Board, is_underway

# Seconds between two updates at least; the last state is always shown.
_APART = 0.2


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class CellBoard:
    """A board whose rows are an output of the cell that it is made in.

    Args:
        display: Shows HTML and returns a handle with `update`; IPython's by default.
    """

    def __init__(
        self,
        name: str,
        display: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._board = Board(clock)
        self._display = display or _display
        self._clock = clock
        self._handle: Any = None
        self._shown = 0.0
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        """Show the state of a step, now or in a moment."""
        # The link with its token would be saved with the notebook.
        if event.kind == "dashboard" or not self._board(event):
            return
        with self._lock:
            wait = self._shown + _APART - self._clock()
            if self._handle is None or wait <= 0:
                self._show()
            elif self._timer is None:
                self._timer = threading.Timer(wait, self._show)
                self._timer.daemon = True
                self._timer.start()

    def _show(self) -> None:
        with self._lock:
            self._timer, self._shown = None, self._clock()
            text = self.html()
            if self._handle is None:
                self._handle = self._display(text)
            else:
                self._handle.update(_html(text))

    def html(self) -> str:
        """The rows as a table."""
        rows = []
        for step, state, seconds in self._board.rows():
            mark = "&#9696;" if is_underway(state) else "&#10003;"
            cells = (mark, f"<b>{html.escape(step)}</b>", html.escape(state), f"{seconds:.1f} s")
            rows.append("<tr>" + "".join(f'<td style="text-align:left">{c}</td>' for c in cells) + "</tr>")
        return f"<div>Cluster {html.escape(self._name)}</div><table>{''.join(rows)}</table>"


def _ipython() -> Any:
    # Not a dependency: whoever is in a notebook has it.
    return importlib.import_module("IPython.display")


def _html(text: str) -> Any:
    return _ipython().HTML(text)


def _display(text: str) -> Any:
    return _ipython().display(_html(text), display_id=True)
