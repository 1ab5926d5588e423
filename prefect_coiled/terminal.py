"""A console for what AWS and machines said: their bytes move no cursor, set no title and hide no line."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions
from rich.segment import Segment

from prefect_coiled.errors import printable

# Columns of a file or a pipe, which fold nothing: what one looks for there stands in one line.
_ENDLESS = 100_000


def unheard(file: TextIO) -> None:
    """Let nothing more be heard in a pipe that nobody reads: what is under way goes on, and ends as it would.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


class Terminal(Console):
    """A console of rich's that prints text only: no markup, and no control character but its own.

    A terminal or a notebook gets lines of its width, anything else whole ones.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, **options)
        if "width" not in options and not (self.is_terminal or self.is_jupyter):
            self.width = _ENDLESS

    def on_broken_pipe(self) -> None:
        """Whoever reads no more has seen what he wanted. Rich would end the program, midway in its work."""
        self.quiet = True
        unheard(self.file)  # type: ignore[arg-type]

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Every text passes here on its way out; rich's own control codes are segments of another kind."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
