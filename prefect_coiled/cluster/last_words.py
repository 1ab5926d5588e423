"""What machines said before they, or the Dask process on them, went down: from their logs in CloudWatch."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

# What the agent, Dask's nanny and the kernel say of an end.
_END = re.compile(
    r"exited with status|killed by signal|exceeded \d+% memory|Restarting worker|spot notice|reason=|"
    r"Out of memory|Segmentation fault|Fatal Python error|No space left"
)
# The line with which Python ends a traceback.
_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Killed)\b.*")
# A line of the boot script itself, of which the last one says why the machine goes down.
_STEP = re.compile(r"^[\d-]+T[\d:]+Z prefect-coiled: ")
# Seconds for the last lines to arrive (machines send them every second), and between two looks.
_PATIENCE, _PAUSE = 4.0, 0.5
_MOST, _WORDS = 4, 8


def why_it_ended(
    read: Callable[[], str], patience: float = _PATIENCE, stop: threading.Event | None = None
) -> str:
    """The lines of a machine's log that tell of an end, or its last ones, joined by " | ".

    Args:
        patience: Seconds to wait for a line that tells of an end.
    """
    stop = stop or threading.Event()
    for _ in range(max(1, int(patience / _PAUSE))):
        lines = [line.strip() for line in read().splitlines() if line.strip()]
        if found := [line for line in lines if _END.search(line) or _ERROR.match(line)]:
            return " | ".join(dict.fromkeys(found[-_MOST:]))
        if stop.wait(_PAUSE):
            break
    return " | ".join(dict.fromkeys(lines[-_MOST:]))


def last_words(log: str) -> list[str]:
    """What tells most of a machine's log: the errors in it, first cause first, and its last lines."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    if errors:
        return list(dict.fromkeys([*errors[:3], lines[-1]]))
    # What the tools of the boot script said since its last step; each step is a line of the script's own.
    steps = [n for n, line in enumerate(lines) if _STEP.match(line)]
    start = steps[-2] if len(steps) > 1 else 0
    said = lines[start:]
    return said if len(said) <= _WORDS else [*said[: _WORDS // 2], "...", *said[-_WORDS // 2 :]]
