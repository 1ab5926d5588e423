"""Who hears of a future's end, and in which thread.

What Prefect's `as_completed` and `wait` leave here sets an event: it is called by who brings the news. What
users leave may take long, and may wait for other tasks: those of a future have a thread of their own, so that
they keep nobody else from hearing, be it of another flow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from prefect.logging import get_logger

logger = get_logger("prefect_coiled.task_runner.futures")


class Callbacks:
    """What is to be called when one future has ended."""

    __slots__ = ("prefects", "users")

    def __init__(self) -> None:
        self.prefects: list[Callable[[Any], None]] = []
        self.users: list[Callable[[Any], None]] = []

    def call(self, future: Any) -> None:
        """Call all of it, once the future has ended."""
        for function in self.prefects:
            _call(function, future)
        if self.users:
            call_apart(future, *self.users)


def call_apart(future: Any, *functions: Callable[[Any], None]) -> None:
    """Call functions with a future, one after the other, in a thread of their own."""

    def call() -> None:
        for function in functions:
            _call(function, future)

    try:
        threading.Thread(target=call, name="prefect-coiled-callbacks").start()
    except RuntimeError:  # there are too many threads, or Python ends
        call()


def _call(function: Callable[[Any], None], future: Any) -> None:
    """One that fails keeps no other, and no task, from hearing of an end."""
    try:
        function(future)
    except Exception:  # as `concurrent.futures` does; nobody waits for it
        logger.exception("A callback of task run %s failed", future.task_run_id)
