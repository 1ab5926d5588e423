"""What machines said before they, or the Dask process on them, went down: from their logs in CloudWatch."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

__all__ = ["why_it_ended"]

# What the agent, Dask's nanny and the kernel say of an end.
_END = re.compile(
    r"exited with status|killed by signal|exceeded \d+% memory|Restarting worker|spot notice|reason=|"
    r"Out of memory|Segmentation fault|Fatal Python error|No space left"
)
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Killed)\b.*")
# Seconds for the last lines to arrive (machines send them every second), and between two looks.
_PATIENCE, _PAUSE = 4.0, 0.5
_MOST = 4


def why_it_ended(
    read: Callable[[], str], patience: float = _PATIENCE, stop: threading.Event | None = None
) -> str:
    """The lines of a machine's log that tell of an end, or its last ones, joined by " | ".

    Args:
        read: Gives the end of the log.
        patience: Seconds to wait for a line that tells of an end.
        stop: Ends the wait.
    """
    stop = stop or threading.Event()
    for _ in range(max(1, int(patience / _PAUSE))):
        lines = [line.strip() for line in read().splitlines() if line.strip()]
        if found := [line for line in lines if _END.search(line) or _ERROR.match(line)]:
            return " | ".join(dict.fromkeys(found[-_MOST:]))
        if stop.wait(_PAUSE):
            break
    return " | ".join(dict.fromkeys(lines[-_MOST:]))
