"""What a program writes, as lines: bounded, and shown as it goes on, however it ends them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator

# Bytes of a line at most: what never ends its line is told in pieces, and not held in memory.
LINE_BYTES = 64 * 1024
_END = re.compile(rb"[\r\n]")


def tell_lines(process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> None:
    """Tell each line of a process's output, until nobody holds that open any more."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    for line in lines(lambda: os.read(fd, LINE_BYTES)):
        on_line(line)


def lines(read: Callable[[], bytes]) -> Iterator[str]:
    r"""The lines of what is read, until nothing comes any more.

    A `\r` ends one too, as a progress bar's does, which is written over and over. What is empty between
    two of them is left out, and `\r\n` is one end.

    Args:
        read: Gives what is there, as soon as there is something.
    """
    held = bytearray()
    told = False  # whether anything of what the next newline ends was given out
    while chunk := read():
        begin = 0
        for end in _END.finditer(chunk):
            held += chunk[begin : end.start()]
            begin = end.end()
            newline = end.group() == b"\n"
            for text in _cut(held):
                told = True
                yield text
            if held or (newline and not told):
                told = True
                yield _text(held)
            held.clear()
            told = told and not newline
        held += chunk[begin:]
        for text in _cut(held):
            told = True
            yield text
    if held:
        yield _text(held)


def _cut(held: bytearray) -> Iterator[str]:
    """Take from it what is more than one line may have, in whole characters."""
    while len(held) > LINE_BYTES:
        end = LINE_BYTES
        # A character of UTF-8 has four bytes at most, and all but its first look like this.
        while end > LINE_BYTES - 3 and held[end] & 0xC0 == 0x80:
            end -= 1
        yield _text(held[:end])
        del held[:end]


def _text(raw: bytearray) -> str:
    return raw.decode("utf-8", "replace")
