"""Write docs/cli.md from the help texts of the command line. A test holds the page to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from prefect_coiled.cli import app

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = "90"
_HEAD = """# Command line

Made from the help texts by `scripts/write_cli_page.py`.

An error is one line on stderr, and the exit code is 1. What cannot be understood has the exit code 2.
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all commands, each group before its members."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from commands(inner, (*path, name))


def page() -> str:
    """The text of the page."""
    parts = [_HEAD]
    runner = CliRunner(env={"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1"})
    for path in commands(typer.main.get_command(app)):
        shown = runner.invoke(app, [*path, "--help"], prog_name="prefect-coiled", terminal_width=int(WIDTH))
        text = "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())
        parts.append(f"## `{' '.join(('prefect-coiled', *path))}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
