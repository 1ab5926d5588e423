"""The table of features names tests that are there."""

from __future__ import annotations

import re

from .conftest import ROOT

PAGE = ROOT / "docs" / "features.md"


def test_every_test_that_the_table_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE.read_text(encoding="utf-8")))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
