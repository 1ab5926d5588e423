"""Keywords of other tools that people try here, and what becomes of them; the table is `elsewhere.json`.

A word that is a keyword of `Cluster` too stands in no table: `SAME` lists those that mean the same, `OTHER`
says what the rest mean here. For all others the error says what to write instead. Knows nothing of this
library's own keywords but their names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

_TOOLS: dict[str, dict[str, Any]] = json.loads(
    resources.files("prefect_coiled.options").joinpath("elsewhere.json").read_text(encoding="utf-8")
)

TABLES: Mapping[str, Mapping[str, str]] = {tool: told["instead"] for tool, told in _TOOLS.items()}
"""By tool: the keyword, and what to write here."""

SAME: Mapping[str, list[str]] = {tool: told["same"] for tool, told in _TOOLS.items()}
"""By tool: the keywords that `Cluster` has too, and that mean the same."""

OTHER: Mapping[str, Mapping[str, str]] = {tool: told["other"] for tool, told in _TOOLS.items()}
"""By tool: the keywords that `Cluster` has too, and what they mean here."""


def instead(name: str) -> str:
    """What to write instead of another tool's keyword; empty for a word that none of them has."""
    for tool, table in TABLES.items():
        if name in table:
            return f"It is a keyword of {tool}. {table[name].replace('`', '')}"
    return ""
