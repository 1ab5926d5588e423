"""What programs write on a machine, told line by line."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefect_coiled.node import child
from prefect_coiled.node.child import DaskChild
from prefect_coiled.node.host_setup import run_host_setup
from prefect_coiled.node.lines import LINE_BYTES, lines


def of(written: bytes, at_once: int) -> list[str]:
    source = io.BytesIO(written)
    return list(lines(lambda: source.read(at_once)))


@pytest.mark.parametrize("at_once", [1, 2, 3, LINE_BYTES])
@pytest.mark.parametrize(
    ("written", "told"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo", ["one", "two"]),
        (b"one\n\n\ntwo\n", ["one", "", "", "two"]),
        (b"one\r\n\r\ntwo\r\n", ["one", "", "two"]),
        (b"\r 1%\r 2%\r\r\r 3%\r\r\n\nend", [" 1%", " 2%", " 3%", "", "end"]),
        ("smörgås\r\u2028€\n".encode(), ["smörgås", "\u2028€"]),
        (b"no \xff UTF-8\n\xe2\x82", ["no \ufffd UTF-8", "\ufffd"]),
        (b"", []),
    ],
)
def test_a_line_ends_by_a_newline_or_a_carriage_return(written: bytes, told: list[str], at_once: int) -> None:
    assert of(written, at_once) == told


@pytest.mark.parametrize("at_once", [1000, LINE_BYTES])
@pytest.mark.parametrize("before", range(4))
@pytest.mark.parametrize("character", ["é", "€", "🙂"])
def test_a_line_without_end_is_told_in_pieces_of_whole_characters(
    character: str, before: int, at_once: int
) -> None:
    text = "." * before + character * LINE_BYTES
    told = of(f"{text}\nnext\n".encode(), at_once)
    assert told.pop() == "next"
    assert "".join(told) == text
    assert all(LINE_BYTES - 4 < len(piece.encode()) <= LINE_BYTES for piece in told[:-1])


@pytest.mark.parametrize("size", [LINE_BYTES, 3 * LINE_BYTES])
def test_no_empty_line_follows_one_that_fills_its_pieces(size: int) -> None:
    assert "".join(of(b"x" * size + b"\nend\n", LINE_BYTES)) == "x" * size + "end"
    assert "" not in of(b"x" * size + b"\nend\n", LINE_BYTES)


def test_what_is_no_text_at_all_is_told_in_pieces_too() -> None:
    told = of(b"\x80" * (3 * LINE_BYTES), LINE_BYTES)
    assert "".join(told) == "\ufffd" * (3 * LINE_BYTES)
    assert max(map(len, told)) <= LINE_BYTES


def test_no_more_is_held_than_a_line_and_what_was_read() -> None:
    read = [0]

    def endless() -> bytes:
        read[0] += LINE_BYTES
        return b"x" * LINE_BYTES

    told: Iterator[str] = lines(endless)
    for number in range(1, 20):
        next(told)
        assert read[0] <= (number + 1) * LINE_BYTES


PROGRAM = r"printf '\r 50%%\r100%%\r\n'; head -c 200000 /dev/zero | tr '\0' x"
TOLD = [" 50%", "100%", *["x" * LINE_BYTES] * 3, "x" * (200_000 - 3 * LINE_BYTES)]


def test_a_script_of_the_users_may_show_its_progress(tmp_path: Path) -> None:
    told: list[str] = []
    run_host_setup(PROGRAM, tmp_path, {}, told.append, lambda: False, 600.0)
    assert told == TOLD


def test_a_task_may_show_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def shell(command: list[str], **given: object) -> subprocess.Popen[bytes]:
        assert command[0] == sys.executable
        return started(["bash", "-c", PROGRAM], **given)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(child.subprocess, "Popen", shell)
    told: list[str] = []
    made = DaskChild(told.append, lambda _: None, lambda _: None)
    made.join_output(600.0)
    assert told == TOLD
