"""A sandbox whose machines are bare: each installs everything from the account's bucket."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib import metadata

import pytest

from prefect_coiled.environment import capture
from prefect_coiled.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox(prefect_server: None) -> Iterator[Sandbox]:
    """A sandbox for the tests of this folder; the machines may do what their role says, and no more."""
    with Sandbox({"image": "bare", "grace": 3, "iam": "on"}) as running:
        yield running
        assert {i["state"] for i in running.instances().values()} <= {"terminated", "shutting-down"}


@pytest.fixture(scope="module", autouse=True)
def default_account(sandbox: Sandbox) -> Iterator[None]:
    """It is the default account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: sandbox.info)
        yield


@functools.cache
def dispensable() -> tuple[str, ...]:
    """What the suite has installed and a node does not need, nor pandas and pyarrow."""
    needed: set[str] = set()
    wanted = ["boto3", "bokeh", "cryptography", "dask", "distributed", "pydantic", "pandas"]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in needed:
            continue
        needed.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        wanted += [re.split(r"[ ;<>=!~\[(]", r)[0] for r in required if "extra ==" not in r]
    installed = {p.name for p in capture().packages}
    return tuple(sorted(installed - needed - {"prefect-dask-ec2"}))


@pytest.fixture
def small() -> list[str]:
    """What to ignore for an environment that is quick to install."""
    return list(dispensable())
