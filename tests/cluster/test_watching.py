"""What happens to a cluster is told: to the account's notifications and, as events, to Prefect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from prefect_coiled import Cluster, get_notifications
from prefect_coiled.blocks import load_account
from prefect_coiled.errors import StoppedError
from prefect_coiled.provision import sweep
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]
SPOT: dict[str, Any] = {"n_workers": 2, "wait_for_workers": True, "spot": True, "nthreads": 1, "quiet": True}


def told(cluster: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a cluster by type."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in get_notifications(json=True, limit=1000) or []:
        if row["data"].get("cluster") == cluster:
            rows.setdefault(row["event_type"], []).append(row)
    return rows


def events_of(cluster: str) -> list[str]:
    """The names of Prefect's events about a cluster, oldest first."""
    wanted = {"resource": {"id": [f"prefect-coiled.cluster.default.{cluster}"]}}
    with get_client(sync_client=True) as client:
        reply = client._client.post("/events/filter", json={"filter": wanted, "limit": 50})
    return [e["event"].removeprefix("prefect-coiled.") for e in reversed(reply.json()["events"])]


def test_a_cluster_is_told_from_its_creation_to_its_end(sandbox: Sandbox, live: Live, until: Until) -> None:
    with Cluster(**SPOT, name="told-of") as cluster:
        leaving, dying = sorted(cluster.workers)
        sandbox.interrupt(leaving, seconds=60)
        until(lambda: "spot_notice" in told("told-of"), 60)
        sandbox.client("ec2").terminate_instances(InstanceIds=[dying])
        until(lambda: "worker_lost" in told("told-of"), 60)
        # Both are replaced by the scheduler's machine.
        until(lambda: len(cluster.observed - {leaving, dying}) == 2, 90)
        cluster.scale(1)
        cluster.scale(0)
    rows = told("told-of")
    assert rows["spot_notice"][0]["data"]["InstanceIds"] == [leaving]
    # What AWS announced and what was scaled down is no loss.
    assert [r["data"]["InstanceIds"] for r in rows["worker_lost"]] == [[dying]]
    assert rows["cluster_ready"][0]["elapsed"] > 0
    assert len(rows["scale"]) == 2
    replaced = {name for row in rows["replace_worker"] for name in row["data"]["InstanceIds"]}
    assert len(replaced) == 2
    told_to_prefect = [
        "create_cluster",
        "cluster_ready",
        "spot_notice",
        "worker_lost",
        "replace_worker",
        "scale",
        "delete_cluster",
    ]
    until(lambda: set(told_to_prefect) <= set(events_of("told-of")), 30)


def test_what_a_sweep_finds_of_a_cluster_is_told_as_its_end(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    left = Cluster(n_workers=0, name="left", quiet=True, shutdown_on_close=False)
    left.close()
    sandbox.client("ec2").terminate_instances(InstanceIds=[i["InstanceId"] for i in live()])
    until(lambda: live() == [], 30)
    # Its claim on the name is too young to be swept by age: nobody is starting it any more.
    aws = load_account().door("us-east-1")
    forget_age(aws)
    sweep("default", "us-east-1", release_nat=False)
    until(lambda: "sweep_cluster" in events_of("left"), 30)
    assert told("left")["sweep_cluster"][0]["msg"].startswith("removed")


def forget_age(aws: Any) -> None:
    from prefect_coiled.aws.parameters import delete_parameters

    delete_parameters(aws, ["/prefect-coiled/default/left/intent"])


@pytest.fixture
def limit() -> Any:
    """Two clusters of the default account at once."""
    name = "prefect-coiled:default"
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        yield lambda: client.read_global_concurrency_limit_by_name(name).active_slots
        client.delete_global_concurrency_limit_by_name(name)


def test_a_concurrency_limit_holds_clusters_back_until_one_is_gone(
    sandbox: Sandbox, live: Live, limit: Callable[[], int]
) -> None:
    import threading

    assert limit() == 0
    stop, said = threading.Event(), []

    def report(step: str, state: str) -> None:
        if step == "slot":
            said.append(state)
            stop.set()  # gives up instead of waiting

    with Cluster(n_workers=0, quiet=True, no_client_timeout="1 minute"):
        assert limit() == 1
        with pytest.raises(StoppedError, match="prefect-coiled:default"):
            Cluster(n_workers=0, report=report, stop=stop)
        assert said == ["waiting: limit prefect-coiled:default allows 1 clusters, and 1 run"]
        assert len(live()) == 1
        assert limit() == 1
    assert limit() == 0
    # One that stays holds no slot, but counts.
    Cluster(n_workers=0, name="stays", quiet=True, shutdown_on_close=False).close()
    assert limit() == 0
    stop.clear()
    with pytest.raises(StoppedError):
        Cluster(n_workers=0, report=report, stop=stop)
    # Attaching takes no slot.
    with Cluster(name="stays", quiet=True, shutdown_on_close=True):
        assert limit() == 0
    assert live() == []


def test_a_launch_that_fails_gives_its_slot_back(sandbox: Sandbox, limit: Callable[[], int]) -> None:
    sandbox.set(capacity=[{"instance_type": "*", "zone": "*", "free": 0}])
    try:
        with pytest.raises(Exception, match="InsufficientInstanceCapacity"):
            Cluster(n_workers=0, quiet=True)
    finally:
        sandbox.set(capacity=[])
    assert limit() == 0
