"""Write docs/keywords-elsewhere.md from its table. A test holds the page to the table."""

from __future__ import annotations

from pathlib import Path

from prefect_coiled.options.elsewhere import OTHER, SAME, TABLES

PAGE = Path(__file__).parent.parent / "docs" / "keywords-elsewhere.md"
_HEAD = """# Keywords of other tools

What people write for other clusters, and what becomes of it in `Cluster` and `CoiledTaskRunner`, as
`scripts/write_elsewhere_page.py` writes it from the table in the code. A keyword that stands in a table is
refused before anything is launched, and the error says what the table says. What `Cluster` takes is on the
page of [all keywords](keywords.md).
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for tool, table in TABLES.items():
        same = ", ".join(f"`{name}`" for name in SAME[tool])
        rows = "\n".join(f"| `{name}` | {text} |" for name, text in table.items())
        title = tool[0].upper() + tool[1:]
        parts.append(f"\n## {title}\n\nThe same here: {same}.\n")
        if OTHER[tool]:
            others = "\n".join(f"| `{name}` | {text} |" for name, text in OTHER[tool].items())
            parts.append(f"\n| the same word | what it means here |\n|---|---|\n{others}\n")
        parts.append(f"\n| there | here: refused, with this |\n|---|---|\n{rows}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
