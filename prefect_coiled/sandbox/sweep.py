"""Kills what an instance left running outside its process group. Run as a file; imports only psutil.

    python sweep.py KEY VALUE

Every process whose environment says KEY=VALUE gets SIGKILL, until none is found.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import psutil

__all__ = ["marked", "sweep"]


def marked(key: str, value: str) -> list[psutil.Process]:
    """The live processes whose environment says key=value, but not this one."""
    found = []
    for process in psutil.process_iter():
        # A process may end between two looks, and others' environments cannot be read.
        with contextlib.suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get(key) == value
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def sweep(key: str, value: str, seconds: float = 5.0) -> None:
    """Kill them all; a process that forks meanwhile is found in the next round.

    Args:
        key: Name of the variable.
        value: Its value.
        seconds: When to give up.
    """
    end = time.monotonic() + seconds
    while (found := marked(key, value)) and time.monotonic() < end:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.2)


if __name__ == "__main__":
    sweep(sys.argv[1], sys.argv[2])
