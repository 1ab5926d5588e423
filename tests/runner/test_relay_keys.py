"""The key of the Prefect API stays with the flow's process."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.context import get_run_context
from prefect.events import emit_event
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    temporary_settings,
)
from prefect.variables import Variable

from prefect_coiled.task_runner.parcel import FlowRunParcel

from .relaying import run

ROOT = Path(__file__).parents[2]


def _in_memory(pattern: bytes) -> list[str]:
    """Where in a process something is: in its environment, its settings, its memory."""
    found = []
    with open("/proc/self/environ", "rb") as environ:
        found += ["environ"] if re.search(pattern, environ.read()) else []
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            for at in range(start, end, 1 << 24):
                try:
                    memory.seek(at)
                    data = memory.read(min(1 << 24, end - at) + 100)
                except (OSError, ValueError, OverflowError):
                    break
                found += [f"memory at {line.split()[-1]}: {m[0]!r}" for m in re.finditer(pattern, data)]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory by /proc")
def test_no_worker_has_the_key_anywhere_in_its_memory(
    relayed: Any, dask_cluster: LocalCluster, security: Security
) -> None:
    canaries = {n: f"canary-{secrets.token_hex(16)}" for n in ("key", "header")}

    @task
    def works(n: int) -> int:
        Variable.get("relayed_nothing", default=None)
        get_run_logger().info("works %d", n)
        emit_event("shop.works", resource={"prefect.resource.id": "shop.1"})
        return n

    @flow(task_runner=relayed())
    def working() -> list[int]:
        return works.map(range(20)).result()

    settings = {
        PREFECT_API_KEY: canaries["key"],
        PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Way": canaries["header"]},
    }
    with temporary_settings(settings):
        assert run(working)[0] == list(range(20))
    with distributed.Client(dask_cluster.scheduler_address, security=security) as asker:
        # Not the canary itself, which would be there for having been asked about.
        found = asker.run(_in_memory, rb"canary-[0-9a-f]{32}")
    assert len(found) == 2
    assert not any(found.values()), found


def test_the_search_for_a_key_finds_one() -> None:
    held = f"canary-{secrets.token_hex(16)}"
    assert any(held in place for place in _in_memory(rb"canary-[0-9a-f]{32}"))


def test_what_tasks_get_has_no_secret_of_the_settings() -> None:
    canary = f"canary-{secrets.token_hex(16)}"
    settings = {
        PREFECT_API_KEY: canary,
        PREFECT_API_AUTH_STRING: f"user:{canary}",
        PREFECT_API_URL: f"http://user:{canary}@127.0.0.1:4200/api",
        PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Way": canary},
    }
    with temporary_settings(settings):
        direct, relayed = FlowRunParcel(), FlowRunParcel()
        relayed.relay = "abc"
        assert canary.encode() in direct.data()
        assert canary.encode() not in relayed.data()


def test_what_tasks_get_has_no_variables_of_a_deployments_jobs(relayed: Any) -> None:
    canary = f"canary-{secrets.token_hex(16)}"

    @flow
    def deployed() -> tuple[bytes, bytes]:
        context: Any = get_run_context()
        context.flow_run.job_variables = {"env": {"PREFECT_API_KEY": canary}}
        direct, relay = FlowRunParcel(), FlowRunParcel()
        relay.relay = "abc"
        return direct.data(), relay.data()

    direct, relay = deployed()
    assert canary.encode() in direct
    assert canary.encode() not in relay
