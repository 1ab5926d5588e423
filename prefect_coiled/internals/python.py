"""Of Python. Seen in 3.10 to 3.14."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["before_threads_end"]


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
