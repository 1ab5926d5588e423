"""How a cluster came up is told: by the object, by the command when it is gone, and in Prefect."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from typer.testing import CliRunner

from prefect_coiled.cli import app
from prefect_coiled.cluster import Cluster
from prefect_coiled.events.spans import Span
from prefect_coiled.sandbox import Sandbox

Until = Callable[..., Any]
# What every launch has, of the client; and of each machine.
CLIENT = {"name claimed", "security groups", "TLS keys", "firewall rules", "scheduler launched"}
MACHINE = ["machine boots", "keys fetched", "Dask starts"]


def of_machines(spans: tuple[Span, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for span in spans:
        if span.role:
            found.setdefault(span.of, []).append(span.name)
    return found


def artifacts(key: str) -> list[str]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    return [str(one.data) for one in found if one.key == key]


def test_a_cluster_tells_how_it_came_up_and_still_does_when_it_is_gone(
    sandbox: Sandbox, until: Until
) -> None:
    with Cluster(n_workers=2, wait_for_workers=True, quiet=True, name="lined") as cluster:
        record = cluster.record
        assert record is not None
        ids = {record.scheduler.instance_id, *cluster.workers}
        # A machine's lines are shipped some seconds after it wrote them.
        until(lambda: of_machines(cluster.timeline()) == dict.fromkeys(ids, MACHINE), 30)
        spans = cluster.timeline()
    assert {s.name for s in spans if not s.role} >= CLIENT
    assert [s.begin for s in spans] == sorted(s.begin for s in spans)
    assert all(s.seconds >= 0 for s in spans)
    path = [s for s in spans if s.critical]
    assert path[-1].end == max(s.end for s in spans)
    assert "scheduler launched" in {s.name for s in path}
    told = CliRunner().invoke(app, ["timeline", "lined", "--json"])
    assert told.exit_code == 0, told.output
    rows = json.loads(told.stdout)
    assert {row["name"] for row in rows} >= CLIENT
    assert {row["of"] for row in rows if row.get("role")} == ids
    table = CliRunner().invoke(app, ["timeline", "lined"]).stdout
    assert "The rest waited for: " in table
    assert CliRunner().invoke(app, ["timeline", "never-was"]).exit_code == 1


@pytest.mark.long
def test_prefect_shows_how_a_cluster_came_up_and_what_it_waited_for(sandbox: Sandbox, until: Until) -> None:
    @flow
    def work() -> None:
        with Cluster(n_workers=1, wait_for_workers=True, quiet=True):
            pass

    work()
    until(lambda: artifacts("dask-launch-default"), 30)
    text = artifacts("dask-launch-default")[-1]
    assert text.startswith("The rest waited for: ")
    assert "data:image/svg+xml;base64," in text
    assert "| machine boots | scheduler i-" in text
    assert "| yes |" in text
