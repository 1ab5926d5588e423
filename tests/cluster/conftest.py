"""A sandbox with machines that boot, as the default account of this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_coiled.cluster import Cluster
from prefect_coiled.sandbox import Sandbox


@pytest.fixture(scope="session")
def sandbox(prefect_server: None) -> Iterator[Sandbox]:
    """A sandbox for the tests of this folder."""
    with Sandbox({"grace": 3}) as running:
        yield running
        assert {i["state"] for i in running.instances().values()} <= {"terminated"}


@pytest.fixture(scope="module", autouse=True)
def default_account(sandbox: Sandbox) -> Iterator[None]:
    """It is the default account: what a user has who configured nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: sandbox.info)
        yield


@pytest.fixture(scope="session")
def told(sandbox: Sandbox) -> str:
    """The sandbox's whereabouts as JSON, for a process whose default account it shall be."""
    info = sandbox.info
    return json.dumps(
        {
            "endpoint": info.endpoint,
            "pid": info.pid,
            "state_dir": str(info.state_dir),
            "addresses": info.addresses,
            "secret_access_key": info.secret_access_key,
        }
    )


@pytest.fixture(scope="session")
def environ(prefect_server: None) -> dict[str, str]:
    """The environment of a process that talks to the suite's Prefect server."""
    return {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}


@pytest.fixture(scope="session")
def live(sandbox: Sandbox) -> Callable[[], list[dict[str, Any]]]:
    """The instances that are not terminated, as EC2 tells them."""

    def ask() -> list[dict[str, Any]]:
        states = ["pending", "running", "shutting-down", "stopping", "stopped"]
        found = sandbox.client("ec2").describe_instances(
            Filters=[{"Name": "instance-state-name", "Values": states}]
        )
        return [i for r in found["Reservations"] for i in r["Instances"]]

    return ask


@pytest.fixture(scope="module")
def cluster(default_account: None) -> Iterator[Cluster]:
    """A cluster of two workers for the tests of one file."""
    environ = {"CANARY": "canary-51d0"}
    with Cluster(n_workers=2, wait_for_workers=True, nthreads=1, quiet=True, environ=environ) as running:
        yield running
