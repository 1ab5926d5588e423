"""One sandbox for all rules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefect_coiled.sandbox import Sandbox

from .here import Here


@pytest.fixture(scope="package")
def here(trust: str) -> Iterator[Here]:
    with Sandbox({"boot": "none"}) as sandbox:
        yield Here(sandbox, trust)
