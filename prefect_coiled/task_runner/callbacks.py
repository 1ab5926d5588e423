"""Who hears of a future's end, and in which thread.

What Prefect's `as_completed` and `wait` leave here sets an event: it is called by who brings the news. What
users leave may take long, and may wait for other tasks: each has a thread of its own, so that it keeps nobody
else from hearing, be it of another flow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect.logging import get_logger

logger = get_logger("prefect_coiled.task_runner.futures")
# As many threads as there are callbacks at a time, as Prefect has as many as tasks.
_threads = ThreadPoolExecutor(sys.maxsize, thread_name_prefix="prefect-coiled-callbacks")


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
        for function in self.users:
            call_apart(function, future)


def call_apart(function: Callable[[Any], None], future: Any) -> None:
    """Call a function with a future, in a thread of its own."""
    _threads.submit(_call, function, future)


def _call(function: Callable[[Any], None], future: Any) -> None:
    """One that fails keeps no other, and no task, from hearing of an end."""
    try:
        function(future)
    except Exception:  # as `concurrent.futures` does; nobody waits for it
        logger.exception("A callback of task run %s failed", future.task_run_id)
