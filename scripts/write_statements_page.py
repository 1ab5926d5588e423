"""Write docs/statements.md from tests/docs/statements.yaml. A test holds the page to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests" / "docs" / "statements.yaml"
PAGE = ROOT / "docs" / "statements.md"
_HEAD = """# Statement by statement

What the hosted service's page on AWS promised in 2022, in words of our own, what becomes of it here, and the
test that shows it. Each sentence of that page that promises something is in a row, or in several.
"""


def sections() -> list[dict[str, Any]]:
    """What the file says."""
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def _row(row: dict[str, Any]) -> str:
    how = {"met": "met", "otherwise": f"otherwise: {row.get('but')}", "not": f"not here: {row.get('but')}"}
    test = f"`{row['test']}`" if "test" in row else ""
    return f"| {row['says']} | {how[row['how']]} | {test} |"


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for section in sections():
        rows = "\n".join(_row(row) for row in section["rows"])
        parts.append(f"## {section['section']}\n\n| statement | here | test |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
