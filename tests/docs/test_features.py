"""Tables that name tests name those that are there."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT


@pytest.mark.parametrize("page", ["features", "what-happens-when", "security"])
def test_every_test_that_the_table_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", ["features", "what-happens-when", "attacks"])
def test_no_row_is_without_a_test(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    rows = [r for r in text.splitlines() if r.startswith("| ") and not r.endswith("| test |")]
    assert rows
    assert [r for r in rows if "`tests/" not in r.split("|")[-2]] == []


@pytest.mark.parametrize("page", ["checked", "attacks", "features"])
def test_each_rule_names_tests_that_are_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text))
    assert len(named) > 20
    assert [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (ROOT / file).is_file()
        or not re.search(rf"\b(def|class) {name}\(", (ROOT / file).read_text(encoding="utf-8"))
    ] == []


def test_each_file_of_tests_that_the_page_names_is_there() -> None:
    text = (ROOT / "docs" / "checked.md").read_text(encoding="utf-8")
    known = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", text)) <= known
