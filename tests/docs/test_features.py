"""Tables that name tests name those that are there."""

from __future__ import annotations

import re

import pytest

from .conftest import ROOT


@pytest.mark.parametrize("page", ["features", "what-happens-when"])
def test_every_test_that_the_table_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("page", ["features", "what-happens-when"])
def test_no_row_is_without_a_test(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    rows = [r for r in text.splitlines() if r.startswith("| ") and not r.endswith("| test |")]
    assert rows
    assert [r for r in rows if "`tests/" not in r.split("|")[-2]] == []
