"""Runs the user's own script on a machine, before Dask does; its lines are the machine's lines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from prefect_coiled.errors import NodeError
from prefect_coiled.node.lines import tell_lines

_WHAT = "running host_setup_script"
_LOOK_S = 0.2


def run_host_setup(
    script: str,
    folder: Path,
    environ: Mapping[str, str],
    on_line: Callable[[str], None],
    is_over: Callable[[], bool],
    seconds: float,
) -> None:
    """Run a script by bash, as the user that the machine's agent is, and wait for its end.

    Args:
        folder: Where it is kept while it runs, readable by this user alone: it may hold secrets.
        environ: Variables beside those of this process.
        on_line: Called with each line that it writes, in a thread.
        is_over: Whether the machine is to end, and the script with it.
        seconds: How long it may take.

    Raises:
        NodeError: It ended with another status than 0, or took too long.
    """
    path = folder / "host_setup_script"
    path.touch(mode=0o600)
    path.write_text(script, encoding="utf-8")
    try:
        process = subprocess.Popen(
            ["bash", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environ},
        )
        reader = threading.Thread(target=tell_lines, args=(process, on_line), daemon=True)
        reader.start()
        try:
            status = _wait(process, is_over, seconds)
        finally:
            # What it left running in the background is a service that it wanted; what hangs is not.
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        reader.join(2.0)
    finally:
        path.unlink()
    if status:
        raise NodeError(_WHAT, f"it ended with status {status}", "Its lines are above.")


def _wait(process: subprocess.Popen[bytes], is_over: Callable[[], bool], seconds: float) -> int | None:
    """Its status; None where the machine ends first."""
    left = seconds
    while left > 0:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOK_S)
        left -= _LOOK_S
        if is_over():
            return None
    raise NodeError(_WHAT, f"it has not ended after {seconds:.0f} s")
