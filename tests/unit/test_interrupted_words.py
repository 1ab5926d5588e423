"""What a command that Ctrl-C ends says last, where what it does is one call."""

from __future__ import annotations

import pytest

from prefect_coiled.cli import interrupted


@pytest.mark.parametrize(
    "path", ["firewall", "role attach-policy", "role detach-policy", "environment upload", "sandbox stop"]
)
def test_it_says_how_to_see_what_became_of_that_and_not_that_nothing_was_changed(path: str) -> None:
    interrupted.begin()
    assert interrupted._what_is_left(path) == interrupted.NEXT[path]
    assert interrupted._what_is_left("ls") == "Nothing was changed."
