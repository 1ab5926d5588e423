"""A Prefect server with its UI, and a sandbox whose machines boot; one of each for all tests here.

Needs Debian's `chromium` and the group `ui` of the dependencies: `make ui-test`. Without one of them the
tests are skipped, and say why.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.sandbox import Sandbox

from .person import CHROMIUM, prefect_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = ""
    if CHROMIUM is None:
        reason = "there is no chromium: apt-get install chromium"
    elif importlib.util.find_spec("playwright") is None:
        reason = "there is no playwright: make ui-test"
    for item in items:
        if reason and here in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def url(home: Path) -> Iterator[str]:
    """The address of the server, which this process uses too."""
    with (
        prefect_server(home / "server") as address,
        temporary_settings({PREFECT_API_URL: f"{address}/api"}),
    ):
        yield address


@pytest.fixture(scope="session")
def environ(url: str) -> dict[str, str]:
    """The environment of a process that talks to the server."""
    return {**os.environ, "PREFECT_API_URL": f"{url}/api", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def sandbox(url: str) -> Iterator[Sandbox]:
    """The sandbox that an account with the sandbox flag runs in."""
    with Sandbox({"grace": 3}) as running, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: running.info)
        yield running
        assert {i["state"] for i in running.instances().values()} <= {"terminated"}


@pytest.fixture(scope="session")
def square_picture() -> bytes:
    """What stands for the logo that the web has."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (225, 225), "#ff9900").save(file, "PNG")
    return file.getvalue()
