"""The page that goes through the reference statement by statement says what is so."""

from __future__ import annotations

import ast
import runpy
from typing import Any

import pytest

from .conftest import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "write_statements_page.py"))
ROWS: list[dict[str, Any]] = [row for section in SCRIPT["sections"]() for row in section["rows"]]


def test_the_page_is_made_of_the_file() -> None:
    there = (ROOT / "docs" / "statements.md").read_text(encoding="utf-8")
    assert there == SCRIPT["page"](), "run scripts/write_statements_page.py"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["says"]))
def test_each_statement_has_its_test_or_says_why_not(row: dict[str, Any]) -> None:
    assert row["how"] in ("met", "otherwise", "not")
    assert ("but" in row) == (row["how"] != "met")
    if row["how"] == "not":
        return
    file, _, name = row["test"].partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
