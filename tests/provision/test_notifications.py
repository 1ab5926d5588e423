"""What happens to an account's resources is kept in its log group, and told to Prefect."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError, OptionsError
from prefect_coiled.events import Event
from prefect_coiled.events.rows import choose, level_number
from prefect_coiled.notifications import machines_of, read_notifications
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, delete_cluster, set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.subscribers import notifications
from prefect_coiled.tasks.steps import Session, use_session


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> None:
    sandbox.reset()
    sandbox.set(boot="none")


def test_a_set_up_and_a_cluster_are_told_and_outlive_the_session(
    aws: Aws, spec: Callable[..., ClusterSpec]
) -> None:
    with use_session(Session(aws)):
        set_up_account("team", "us-east-1")
        record = create_cluster(spec(name="told"))
        delete_cluster("team", "us-east-1", "told")
    rows = read_notifications(aws)
    kinds = {r.event_type for r in rows}
    assert kinds >= {
        "create_network",
        "create_subnet",
        "create_router",
        "attach_gateway_to_router",
        "create_fw",
        "create_fw_rule",
        "create_iam_role",
        "create_instance_profile",
        "create_log_group",
        "create_vm",
        "create_scheduler",
        "create_worker",
        "delete_vm",
        "delete_cluster",
    }
    assert len([r for r in rows if r.event_type == "create_subnet"]) == 12
    assert [r.time for r in rows] == sorted(r.time for r in rows)
    assert len({r.id for r in rows}) == len(rows)
    (network,) = [r for r in rows if r.event_type == "create_network"]
    assert network.data["VpcId"].startswith("vpc-")
    assert network.elapsed > 0
    # The machines of a cluster that is gone are found by what was told of them.
    ids = {record.scheduler.instance_id: "scheduler", **{w.instance_id: "worker" for w in record.workers}}
    assert machines_of(aws, "told") == ids


@pytest.mark.long
def test_a_failure_is_an_error_with_its_text(aws: Aws, sandbox: Sandbox) -> None:
    with use_session(Session(aws)):
        set_up_account("team", "us-east-1", egress="none")
    rule = {"effect": "error", "action": "CreateNatGateway", "code": "UnauthorizedOperation", "status": 403}
    sandbox.faults([rule])
    with use_session(Session(aws)), pytest.raises(AwsError):
        set_up_account("team", "us-east-1")
    sandbox.faults([])
    (row,) = read_notifications(aws, level=logging.ERROR)
    assert row.event_type == "create_nat_gateway"
    assert "UnauthorizedOperation" in row.data["error"]


def test_logs_that_cannot_be_written_change_nothing(aws: Aws, sandbox: Sandbox) -> None:
    sandbox.faults(
        [
            {
                "effect": "error",
                "service": "logs",
                "action": "PutLogEvents",
                "code": "AccessDeniedException",
                "status": 400,
            }
        ]
    )
    with use_session(Session(aws)):
        assert set_up_account("team", "us-east-1").network is not None


def test_what_could_not_be_kept_is_counted_also_for_want_of_room(
    aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifications, "_MOST", 3)
    monkeypatch.setattr(notifications, "_emit", lambda event: None)
    caplog.set_level(logging.INFO, logger="prefect_coiled")
    kept = notifications.Notifications(aws)  # there is no log group
    for n in range(5):
        kept(Event("scale", f"number {n}", account="team", region="us-east-1"))
    kept.close()
    assert "5 notifications of account team were not kept" in caplog.text
    caplog.clear()
    with use_session(Session(aws)):
        set_up_account("team", "us-east-1", egress="none")
    kept.threads = False  # as while the interpreter ends
    for n in range(5):
        kept(Event("scale", f"number {n}", account="team", region="us-east-1"))
    kept.close()
    assert len(read_notifications(aws, event_type="scale")) == 3
    assert "2 notifications of account team were not kept" in caplog.text


@pytest.mark.long
def test_what_has_no_log_group_for_long_is_dropped_and_nobody_goes_on_asking(
    aws: Aws,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    until: Callable[..., Any],
) -> None:
    monkeypatch.setattr(notifications, "_EVERY", 0.05)
    monkeypatch.setattr(notifications, "_AWAY", 0.5)
    monkeypatch.setattr(notifications, "_emit", lambda event: None)
    caplog.set_level(logging.INFO, logger="prefect_coiled")
    kept = notifications.Notifications(aws)
    kept(Event("scale", "one more", account="team", region="us-east-1"))
    until(lambda: "1 notifications of account team were not kept" in caplog.text)
    until(lambda: kept._thread is None)
    sandbox.clear_calls()
    with use_session(Session(aws)):
        set_up_account("team", "us-east-1", egress="none")
    kept(Event("scale", "and another", account="team", region="us-east-1"))
    until(lambda: len(read_notifications(aws, event_type="scale")) == 1)


def test_writing_takes_few_calls_however_much_is_told(aws: Aws, sandbox: Sandbox) -> None:
    with use_session(Session(aws)):
        set_up_account("team", "us-east-1", egress="none")
        sandbox.clear_calls()
        for n in range(500):
            aws.tell("scale", f"number {n}", cluster="c")
    assert 1 <= sandbox.calls().count(("logs", "PutLogEvents")) <= 5
    assert len(read_notifications(aws, limit=1000, event_type="scale")) == 500


def test_whoever_tells_does_not_wait_for_prefect(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    told, go = threading.Event(), threading.Event()
    monkeypatch.setattr(notifications, "_emit", lambda event: go.wait(20) and told.set())
    with use_session(Session(aws)):
        aws.tell("sweep", "one")  # in this thread, which alone lets Prefect go on
        assert not told.is_set()
        go.set()
    assert told.is_set()


@pytest.mark.long
def test_rows_are_chosen_by_level_type_and_number(aws: Aws) -> None:
    with use_session(Session(aws)):
        set_up_account("team", "us-east-1", egress="none")
        aws.tell("sweep", "one")
        aws.tell("scale", "two", level=logging.WARNING)
        aws.tell("scale", "three", level=logging.ERROR, error=ValueError("because"))
    assert [r.msg for r in read_notifications(aws, level=logging.WARNING)] == ["two", "three"]
    assert [r.msg for r in read_notifications(aws, event_type="scale", limit=1)] == ["three"]
    (row,) = [r.row() for r in read_notifications(aws, level=logging.ERROR)]
    assert (row["level"], row["event_type"], row["data"]["error"]) == ("ERROR", "scale", "because")
    assert set(row) == {"time", "id", "level", "event_type", "elapsed", "msg", "data"}


@pytest.mark.parametrize(
    ("wanted", "text"),
    [({"event_type": "create_vn"}, "must be one of"), ({"limit": 0}, "is a number of rows")],
)
def test_what_cannot_be_chosen_is_refused(wanted: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionsError, match=text):
        choose([], **{"limit": 100, **wanted})
    with pytest.raises(OptionsError, match="must be one of DEBUG"):
        level_number("loud")


@pytest.mark.steps_are_seen
async def test_prefect_hears_of_it_so_that_automations_can_act(
    aws: Aws, sandbox: Sandbox, until: Any
) -> None:
    import asyncio

    from prefect.client.orchestration import get_client
    from prefect.events.worker import EventsWorker

    rule = {"effect": "error", "action": "CreateNatGateway", "code": "UnauthorizedOperation", "status": 403}
    sandbox.faults([rule])

    def provision() -> None:
        with use_session(Session(aws)), pytest.raises(AwsError):
            set_up_account("team", "us-east-1")

    await asyncio.to_thread(provision)
    sandbox.faults([])
    EventsWorker.instance().wait_until_empty()
    resource = "prefect-coiled.account.team"
    wanted = {"filter": {"event": {"prefix": ["prefect-coiled."]}}, "limit": 50}
    async with get_client() as client:
        found: dict[str, Any] = {}
        for _ in range(100):
            events = (await client._client.post("/events/filter", json=wanted)).json()["events"]
            found = {e["event"]: e for e in events if e["resource"]["prefect.resource.id"] == resource}
            if {"prefect-coiled.create_network", "prefect-coiled.create_nat_gateway"} <= set(found):
                break
            await asyncio.sleep(0.1)
    failed = found["prefect-coiled.create_nat_gateway"]
    assert failed["payload"]["level"] == "ERROR"
    assert "UnauthorizedOperation" in failed["payload"]["data"]["error"]
    assert any(r["prefect.resource.role"] == "flow-run" for r in failed["related"])
