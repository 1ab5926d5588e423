"""The Dask process as the agent sees it: started, told, heard, ended. Imports nothing of Dask."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from prefect_coiled.node.lines import tell_lines


class DaskChild:
    """Starts the Dask process, with its output on one pipe, so that the last words of a crash count too.

    Args:
        on_line: Called with each line of its stdout and stderr, in a thread.
        on_status: Called with each status line, in a thread.
        on_exit: Called with its return code, in a thread.
    """

    def __init__(
        self,
        on_line: Callable[[str], None],
        on_status: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        read_status, write_status = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "prefect_coiled.node.dask_process", str(write_status)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_status,),
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"},
        )
        os.close(write_status)
        self._output = threading.Thread(target=tell_lines, args=(self._process, on_line), daemon=True)
        self._status = threading.Thread(target=self._read_status, args=(read_status, on_status), daemon=True)
        self._output.start()
        self._status.start()
        threading.Thread(target=self._wait, args=(on_exit,), daemon=True).start()

    def order(self, order: dict[str, Any]) -> None:
        """Say what to run; once."""
        self._write(json.dumps(order))

    def drain(self) -> None:
        """Ask it to move its results away and end."""
        self._write("drain")

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def join_output(self, timeout_s: float) -> None:
        """Wait for the last lines; what outlived it may hold the pipe open."""
        self._output.join(timeout_s)

    def _write(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which is told by its return code
            stdin.write(line.encode() + b"\n")
            stdin.flush()

    @staticmethod
    def _read_status(fd: int, on_status: Callable[[str], None]) -> None:
        with os.fdopen(fd, encoding="utf-8") as pipe:
            for line in pipe:
                on_status(line.strip())

    def _wait(self, on_exit: Callable[[int], None]) -> None:
        code = self._process.wait()
        self._status.join(2.0)  # its last status counts before its end
        on_exit(code)
