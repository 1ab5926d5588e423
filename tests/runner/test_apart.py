"""Workers that have no way to the Prefect API: what `make relay-test` runs the whole folder on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from distributed import Client
from distributed.deploy.spec import SpecCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.settings import get_current_settings

from prefect_coiled.task_runner import CoiledTaskRunner

from . import apart
from .conftest import eventually, shown
from .relaying import logs_of, run


@pytest.fixture(params=["in namespaces", pytest.param("walled", marks=pytest.mark.long)])
def cluster(request: pytest.FixtureRequest, security: Security, tmp_path: Path) -> Iterator[SpecCluster]:
    namespaces = request.param == "in namespaces"
    with apart.cluster(security, str(get_current_settings().api.url), tmp_path, namespaces) as running:
        yield running


def _asking() -> Any:
    """What workers run; a local function, because they cannot import this file."""

    def reaches(port: int) -> str:
        import socket

        try:
            socket.create_connection(("127.0.0.1", port), 2.0).close()
        except OSError as error:
            return type(error).__name__
        return "reached"

    return reaches


def test_tasks_are_recorded_though_no_worker_has_a_way_to_the_api(
    cluster: SpecCluster, security: Security, client: Any
) -> None:
    with Client(cluster.scheduler_address, security=security) as asker:
        asker.wait_for_workers(2)
        found = asker.run(_asking(), urlsplit(str(get_current_settings().api.url)).port)
    assert len(found) == 2
    assert set(found.values()) == {"ConnectionRefusedError"}

    @task
    def double(n: int) -> int:
        get_run_logger().info("doubled %d", n)
        return 2 * n

    runner = CoiledTaskRunner(
        address=cluster.scheduler_address, client_kwargs={"security": security}, api_relay="always"
    )

    @flow(task_runner=runner)
    def doubles() -> list[int]:
        return double.map(range(10)).result()

    value, id_ = run(doubles)
    assert value == [2 * n for n in range(10)]
    shown(id_, double=["Completed"] * 10)
    eventually(lambda: {f"doubled {n}" for n in range(10)} <= set(logs_of(client, id_)))
