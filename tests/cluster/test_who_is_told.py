"""A whole life of a cluster, create, scale, close, as everybody sees it who is told of it."""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

import pytest
from distributed import Client
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext
from rich.console import Console

from prefect_coiled import Cluster
from prefect_coiled.aws.known import forget
from prefect_coiled.blocks import load_account
from prefect_coiled.notifications import read_notifications
from prefect_coiled.progress import live_board

# What a person reads of it, with "N" for numbers and ids. Steps that are begun side by side are sorted.
STEPS = [
    "account default: sandbox",
    "network: looking",
    "network: there",
    "role: there",
    "log group: there",
    "image: looking",
    "image: ami-N",
    "instances: launching",
    "instances: N launched",
    "log streams: N in default, each made by its machine",
    "scheduler: ready",
    "workers: N ready (of N)",
    "workers: launching N more",
    "cost: $N at list prices, in sandbox",
    "removed: N",
]
NOTIFICATIONS = [
    "create_fw",
    "create_fw_rule",
    "create_vm",
    "create_scheduler",
    "create_vm",
    "create_worker",
    "create_cluster",
    "cluster_ready",
    "create_vm",
    "create_worker",
    "scale",
    "delete_vm",
    "delete_fw",
    "delete_cluster",
]
PHASES = ["account", "preparation", "launch", "scheduler boots", "workers boot", "work", "removal"]


def plain(line: str) -> str:
    """A line with what differs from run to run left out."""
    step, _, text = line.partition(": ")
    if step == "removed":
        return "removed: N"
    text = re.sub(r"the sandbox.*|sandbox.*", "sandbox", text)
    return f"{step}: " + re.sub(r"(?<![a-z])[0-9][0-9a-f.]*", "N", text)


def once(lines: list[str]) -> list[str]:
    """What is said several times in a row, once."""
    return [line for line, _ in groupby(lines)]


@pytest.fixture(scope="module")
def life() -> dict[str, Any]:
    """What each of those saw who were told."""
    seen: dict[str, Any] = {"report": []}
    door = load_account(None).door("us-east-1")
    Cluster(n_workers=0, quiet=True).close()  # the account is set up after it
    forget(door)  # so that it is looked at, as by a first launch
    before = len(read_notifications(door, limit=10_000))

    @flow
    def lives() -> None:
        seen["run"] = FlowRunContext.get().flow_run.id  # type: ignore[union-attr]
        with live_board(Console(file=open("/dev/null", "w"))) as board:
            cluster = Cluster(
                n_workers=1,
                name="told-of",
                wait_for_workers=True,
                report=lambda step, state: seen["report"].append(f"{step}: {state}"),
            )
            with Client(cluster) as client:
                cluster.scale(2)
                client.wait_for_workers(2, timeout=300)
            seen["logs"] = cluster.get_logs(scheduler=False, workers=False)["Cluster"].splitlines()
            cluster.close()
            seen["board"] = board.rows()

    lives()
    seen["notifications"] = read_notifications(door, limit=10_000)[before:]
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[seen["run"]]))
        seen["artifacts"] = {a.key: a for a in client.read_artifacts(flow_run_filter=chosen)}
    return seen


def test_a_users_own_report_hears_each_step_in_order(life: dict[str, Any]) -> None:
    assert once([plain(line) for line in life["report"]]) == STEPS


def test_the_clusters_own_log_lines_are_the_same(life: dict[str, Any]) -> None:
    assert life["logs"] == life["report"][: len(life["logs"])]
    assert life["report"][len(life["logs"])].startswith("cost")


def test_the_board_has_the_last_state_of_each_step_and_the_workers_that_came_later(
    life: dict[str, Any],
) -> None:
    rows = {step: state for step, state, _ in life["board"]}
    assert rows["scheduler"] == "ready"
    assert rows["instances"] == "2 launched"
    assert rows["workers"] == "2 ready (of 2)"
    assert rows["dashboard"].startswith("https://")
    assert rows["removed"]


def test_notifications_keep_what_was_made_and_after_it_was_ready_what_was_removed(
    life: dict[str, Any],
) -> None:
    rows = life["notifications"]
    kinds = [row.event_type for row in rows]
    # The two security groups are made at the same time: whose rules come first is not said.
    once_each = ("create_fw", "create_fw_rule")
    kinds = [kind for n, kind in enumerate(kinds) if kind not in once_each or kind not in kinds[:n]]
    assert once(kinds) == NOTIFICATIONS
    ready = [row.event_type for row in rows].index("cluster_ready")
    gone = [row for row in rows[ready:] if row.event_type == "delete_vm"]
    launched = {
        i
        for row in rows
        if row.event_type in ("create_scheduler", "create_worker")
        for i in row.data["InstanceIds"]
    }
    assert launched == {i for row in gone for i in row.data["InstanceIds"]}
    assert len(launched) == 3


def test_the_flow_run_shows_links_time_line_and_a_summary_of_the_same_life(life: dict[str, Any]) -> None:
    found = life["artifacts"]
    assert set(found) == {f"dask-{what}-default" for what in ("dashboard", "summary", "time-line")}
    summary = str(found["dask-summary-default"].data)
    table = summary.partition("## Time line")[2].partition("## Cost")[0]
    assert re.findall(r"^\| ([a-z ]+?) \| [0-9]", table, re.M) == PHASES
    assert "- instance: i-" in summary
    assert "token=" not in "".join(str(a.data) + str(a.description) for a in found.values())
