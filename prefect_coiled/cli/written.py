"""Standard output that cannot be written, as on a full disk: the work goes on, and it is said at the end."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any


class _Kept(io.FileIO):
    """A file that goes on where it cannot be written, and keeps the first reason.

    A pipe that nobody reads is another matter: see `prefect_coiled.terminal.unheard`.
    """

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failure = self.failure or error
            return len(data)


def begin() -> _Kept | None:
    """Let standard output go on where it cannot be written; None where it is a terminal, or closed.

    What a shell has closed is as an empty file, and as one that nobody reads.
    """
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    if closed or sys.stdout.isatty():
        return None
    sys.stdout.flush()
    file = _Kept(sys.stdout.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(file), encoding=sys.stdout.encoding, errors=sys.stdout.errors
    )
    return file


def is_whole(file: _Kept | None) -> bool:
    """Whether all of it was written; otherwise says why it was not, in a line."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    if file is None or file.failure is None:
        return True
    with contextlib.suppress(OSError):
        why = file.failure.strerror or os.strerror(file.failure.errno or 0)
        print(f"Error: standard output could not be written: {why}.", file=sys.stderr)
    return False
