"""Of Python. Seen in 3.10 to 3.14."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

A = TypeVar("A")
R = TypeVar("R")


def side_by_side(function: Callable[[A], R], arguments: Iterable[A], at_once: int = 8) -> list[R]:
    """Call a function with each argument in threads, in the caller's context; `Executor.map` has none.

    Who listens to calls of AWS tells Prefect of them, and finds flow run and API by the context.

    Args:
        at_once: How many threads there are at most.

    Raises:
        Exception: That of the first argument that failed.
    """
    with ThreadPoolExecutor(at_once, thread_name_prefix=getattr(function, "__name__", "")) as pool:
        jobs = [pool.submit(copy_context().run, function, one) for one in arguments]
        try:
            return [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()  # those that have not begun, as `Executor.map` does where one fails


def before_threads_end(function: Callable[[], Any]) -> bool:
    """Call a function when the interpreter ends, while threads still work; the last one goes first.

    `atexit` comes after that. Python's own thread pools and Prefect end their threads this way.

    Returns:
        Whether it will be called: not where the interpreter is ending already.
    """
    try:
        threading._register_atexit(function)  # type: ignore[attr-defined]
    except RuntimeError:
        return False
    return True


def is_ending() -> bool:
    """Whether the interpreter is ending: no thread can begin any more."""
    return bool(threading._SHUTTING_DOWN)  # type: ignore[attr-defined]
