"""Write the table of calls in docs/checked.md from the rules and the models; a test holds it to them."""

from __future__ import annotations

from pathlib import Path

import botocore.loaders

from prefect_coiled.plan.actions import ACTIONS
from prefect_coiled.sandbox.rules.table import Row, rows

PAGE = Path(__file__).parent.parent / "docs" / "checked.md"
BEGIN, END = "<!-- made by scripts/write_calls_table.py -->\n", "<!-- end of the calls -->\n"
_MODELS = {"servicequotas": "service-quotas"}
# Which bounds of a member's shape a model holds.
_BOUNDS = ("enum", "pattern", "min", "max")


def _bounds(service: str, operation: str) -> int:
    """How many members of the request the model bounds or requires."""
    model = botocore.loaders.Loader().load_service_model(_MODELS.get(service, service), "service-2")
    shapes = model["shapes"]
    asked = shapes.get(model["operations"][operation].get("input", {}).get("shape", ""), {})
    members = asked.get("members", {})
    bounded = {name for name, member in members.items() if set(_BOUNDS) & set(shapes[member["shape"]])}
    return len(bounded | set(asked.get("required", ())))


def _names(listed: list[Row]) -> str:
    return ", ".join(row.name.removeprefix(f"{row.service}-") for row in listed)


def table() -> str:
    """What holds for every call of a service, and the table."""
    known = list(rows())
    everywhere = [row for row in known if "*" in row.calls]
    lines = [
        f"- Every call of `{service}`: {_names([row for row in everywhere if row.service == service])}."
        for service in dict.fromkeys(row.service for row in everywhere)
    ]
    lines += [
        "",
        "| call | members that its model bounds | rules of its own that no model holds |",
        "|---|---|---|",
    ]
    for call in ACTIONS:
        service, operation = call.split(":")
        own = [row for row in known if row not in everywhere and row.about(service, operation)]
        lines.append(f"| `{call}` | {_bounds(service, operation) or ''} | {_names(own)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page, with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
