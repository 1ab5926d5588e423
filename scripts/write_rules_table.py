"""Write the table of AWS's rules in docs/sandbox.md from the rules. A test holds the page to them."""

from __future__ import annotations

from pathlib import Path

from prefect_coiled.sandbox.rules.table import Row, rows

PAGE = Path(__file__).parent.parent / "docs" / "sandbox.md"
BEGIN, END = "<!-- made by scripts/write_rules_table.py -->\n", "<!-- end of what is made -->\n"
_TITLES = (
    ("always", "Always"),
    ("account", 'By `account="fresh"`, or one by one'),
    ("rates", 'By `rates="on"`, and in the profile `realistic`'),
    ("time", "By a time of the settings, and in the profile `realistic`"),
)


def _cells(row: Row) -> str:
    calls = " ".join(row.calls) if len(row.calls) <= 3 else f"{' '.join(row.calls[:3])} ..."
    source = row.source.removeprefix("https://docs.aws.amazon.com/").rsplit("/", 1)[-1].removesuffix(".html")
    cells = (
        row.service,
        f"`{calls}`",
        row.says.replace("|", "\\|"),
        f"`{row.code}`",
        f"[{source}]({row.source})",
    )
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The text between the marks."""
    parts = []
    for when, title in _TITLES:
        lines = [_cells(row) for row in rows() if row.when == when]
        head = ["| service | calls | rule | code | page |", "|---|---|---|---|---|"]
        parts.append("\n".join([f"**{title}**", "", *head, *lines, ""]))
    return "\n".join(parts)


def page() -> str:
    """The whole page, with the table as it should be."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
