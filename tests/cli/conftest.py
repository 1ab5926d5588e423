"""The command line against a background sandbox of the tests' own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from prefect_coiled.cluster import Cluster
from prefect_coiled.sandbox import SandboxInfo, ensure_started, stop

_OWN = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "TERMINAL_WIDTH": "90",
    "NO_COLOR": "1",
}


@pytest.fixture(scope="package", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[None]:
    own = {
        **_OWN,
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }
    saved = {key: os.environ.get(key) for key in own}
    os.environ.update(own)
    try:
        yield
    finally:
        stop()
        for key, value in saved.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


@pytest.fixture(scope="package")
def sandbox(own_folders: None) -> SandboxInfo:
    """The sandbox that is the default account of this folder's tests."""
    return ensure_started()


@pytest.fixture
def cluster(sandbox: SandboxInfo) -> Iterator[Cluster]:
    """A cluster of one worker that runs."""
    with Cluster(n_workers=1, name="of-the-cli", wait_for_workers=True, quiet=True) as made:
        yield made


def run(*arguments: str, answer: str | None = None) -> Result:
    """Run the command line in this process."""
    from prefect_coiled.cli import app

    return CliRunner().invoke(app, list(arguments), input=answer)
