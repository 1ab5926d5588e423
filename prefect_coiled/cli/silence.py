"""A word in a terminal while a command has said nothing yet: Prefect's import alone may take seconds."""

from __future__ import annotations

import sys
import threading

# Seconds without a word.
_LONG = 0.5
_waiting: list[threading.Timer] = []


def begin() -> None:
    """A command begins, and has said nothing yet. In a pipe nobody waits for a word."""
    broken()
    if not sys.stderr.isatty():
        return
    timer = threading.Timer(_LONG, _say)
    timer.daemon = True
    _waiting.append(timer)
    timer.start()


def broken() -> None:
    """The command says something, asks, or is over."""
    while _waiting:
        _waiting.pop().cancel()


def _say() -> None:
    print("One moment ...", file=sys.stderr, flush=True)
