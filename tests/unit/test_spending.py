"""What clusters have cost, from records, and what a scheduler's machine makes of AWS's list."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.node import ledger
from prefect_coiled.node.bill import Bill
from prefect_coiled.node.ledger import Ledger
from prefect_coiled.plan.cluster import billed_of
from prefect_coiled.plan.node_config import Billed
from prefect_coiled.plan.prices import shipped
from prefect_coiled.plan.spending import NO_FLOW, CostRecord, Known, month_of, spent

NOON = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def record(at: datetime, usd: float, **more: Any) -> CostRecord:
    told = {"cluster": "one", "uid": "u1", "flow": "train", "since": NOON, "usd_per_hour": 2.0, **more}
    return CostRecord(at=at, usd=usd, **told)


def found(*records: CostRecord, account: str = "team") -> list[Known]:
    return [Known(account, "us-east-1", one) for one in records]


def test_a_cluster_that_said_that_it_ended_costs_what_it_said() -> None:
    records = found(record(NOON + HOUR, 2.0, good_for=300.0), record(NOON + 2 * HOUR, 4.0))
    (row,) = spent(records, "flow", NOON - HOUR, NOON + 9 * HOUR)
    assert (row.what, row.clusters, row.running, row.usd) == ("train", 1, 0, 4.0)


def test_one_that_ended_without_a_word_is_counted_until_its_next_record_was_due() -> None:
    (row,) = spent(found(record(NOON + HOUR, 2.0, good_for=1800.0)), "flow", NOON, NOON + 9 * HOUR)
    assert row.usd == 3.0
    assert row.running == 0


def test_one_that_runs_costs_more_by_the_minute() -> None:
    records = found(record(NOON + HOUR, 2.0, good_for=1800.0, machines=3))
    (row,) = spent(records, "flow", NOON, NOON + 1.25 * HOUR)
    assert row.usd == 2.5
    assert row.machine_hours == 0.75
    assert row.running == 1


def test_only_what_was_spent_since_then_counts() -> None:
    records = found(record(NOON + HOUR, 2.0, good_for=300.0), record(NOON + 3 * HOUR, 8.0))
    (row,) = spent(records, "cluster", NOON + 2 * HOUR, NOON + 4 * HOUR)
    assert row.usd == 3.0
    assert spent(records, "cluster", NOON + 4 * HOUR, NOON + 5 * HOUR) == []


def test_days_are_those_of_utc_and_add_up() -> None:
    records = found(record(NOON + 24 * HOUR, 48.0))
    rows = spent(records, "day", NOON - 48 * HOUR, NOON + 48 * HOUR)
    assert [(row.what, row.usd) for row in rows] == [("2026-03-10", 24.0), ("2026-03-11", 24.0)]


def test_clusters_are_told_apart_by_uid_and_summed_by_what_is_asked() -> None:
    ended = NOON + HOUR
    records = [
        *found(record(ended, 1.0), record(ended, 2.0, uid="u2"), record(ended, 4.0, uid="u3", flow="")),
        *found(record(ended, 8.0), account="other"),
    ]
    until = NOON + 2 * HOUR

    def sums(by: str) -> dict[str, tuple[int, float]]:
        return {row.what: (row.clusters, row.usd) for row in spent(records, by, NOON, until)}

    assert sums("flow") == {"train": (3, 11.0), NO_FLOW: (1, 4.0)}
    assert sums("account") == {"team": (3, 7.0), "other": (1, 8.0)}
    assert sums("cluster") == {"one": (4, 15.0)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a line of something else",
        '{"cluster": "x"}',
        record(NOON + HOUR, 1.0).encode().replace("1.0", "NaN"),
        record(NOON + HOUR, 1.0).encode().replace('"usd":1.0', '"usd":-1.0'),
        record(NOON + HOUR, 1e8).encode(),
        record(NOON - HOUR, 1.0).encode(),
        record(NOON + 24 * HOUR, 1.0).encode(),
    ],
)
def test_what_no_scheduler_can_have_written_is_left_out(text: str) -> None:
    assert CostRecord.decode(text, NOON + 2 * HOUR) is None
    assert CostRecord.decode(record(NOON + HOUR, 1.0).encode(), NOON + 2 * HOUR) is not None


def test_a_month_begins_in_utc() -> None:
    late = datetime(2026, 3, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    assert month_of(late) == datetime(2026, 2, 1, tzinfo=timezone.utc)


def machine(name: str, role: str, begun: datetime, state: str = "running", **more: Any) -> dict[str, Any]:
    labels = [{"Key": "coiled-role", "Value": role}]
    told = {"InstanceId": name, "InstanceType": "m6i.xlarge", "LaunchTime": begun, "Tags": labels}
    return {**told, "State": {"Name": state}, **more}


def bill(**more: Any) -> Bill:
    return Bill(Billed(uid="u1", scheduler_disk=0, worker_disk=0, **more), "one", "i-1")


PRICE = shipped().machines["m6i.xlarge"]


def test_machines_cost_from_their_launch_to_their_end_by_awss_own_times() -> None:
    made = bill()
    both = [machine("i-1", "scheduler", NOON), machine("i-2", "worker", NOON)]
    made.seen(NOON + HOUR, both)
    one = made.record(NOON + HOUR, 60.0)
    assert one is not None
    assert one.usd == pytest.approx(2 * PRICE)
    assert one.usd_per_hour == pytest.approx(2 * PRICE)
    ended = {"StateTransitionReason": "User initiated (2026-03-10 13:30:00 GMT)"}
    made.seen(NOON + 2 * HOUR, [both[0], machine("i-2", "worker", NOON, "terminated", **ended)])
    one = made.record(NOON + 2 * HOUR, 60.0)
    assert one is not None
    assert one.usd == pytest.approx(3.5 * PRICE)
    assert (one.usd_per_hour, one.machines) == (pytest.approx(PRICE), 1)


def test_whose_prices_were_counted_with_is_written_down_where_they_are_another_regions() -> None:
    made = bill(prices_of="us-east-1")
    made.seen(NOON + HOUR, [machine("i-1", "scheduler", NOON)])
    one = made.record(NOON + HOUR, 60.0)
    assert one is not None
    read = CostRecord.decode(one.encode(), NOON + HOUR)
    assert read is not None
    assert read.prices_of == "us-east-1"
    (row,) = spent([Known("team", "sa-east-1", read)], "flow", NOON, NOON + HOUR)
    assert row.prices_of == ("us-east-1",)
    assert row.told("flow")["prices_of"] == ("us-east-1",)


@pytest.mark.parametrize("region", ["us-east-1", "sa-east-1"])
def test_a_scheduler_is_told_whose_prices_it_gets_where_they_are_another_regions(region: str) -> None:
    spec: Any = SimpleNamespace(
        uid="u1", flow="", creator="", scheduler_disk=30, worker_disk=30, worker_disk_throughput=125,
        egress="nat", network=None, scheduler_types=(), worker_types=(), region=region,
    )  # fmt: skip
    told = billed_of(spec, shipped())
    assert told.prices_of == ("" if region == "us-east-1" else "us-east-1")


@pytest.mark.parametrize("ahead", [timedelta(minutes=-10), timedelta(), timedelta(minutes=10)])
async def test_what_a_cluster_costs_goes_by_awss_time_and_not_by_the_machines_own(
    ahead: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = NOON + timedelta(minutes=5)

    class Own(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return now + ahead

    def listed(**_: Any) -> dict[str, Any]:
        date = format_datetime(now, usegmt=True)
        one = {"Instances": [machine("i-1", "scheduler", NOON), machine("i-2", "worker", NOON)]}
        return {"Reservations": [one], "ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    monkeypatch.setattr(ledger, "datetime", Own)
    written: list[str] = []
    told: list[float] = []
    billed = Billed(uid="u1", scheduler_disk=0, worker_disk=0)
    config: Any = SimpleNamespace(billed=billed, account="team", cluster="one", log_group="g")
    made = Ledger(
        config,
        machine="i-1",
        client=lambda service: SimpleNamespace(describe_instances=listed),
        listed=lambda at, usd, rate: told.append(usd),
    )
    made._shipper = SimpleNamespace(start=lambda: None, line=written.append)  # type: ignore[assignment]
    await made.turn()
    assert told == [pytest.approx(2 * PRICE * 5 / 60, abs=1e-6)]
    assert CostRecord.decode(written[0], now) is not None


async def test_the_last_record_waits_no_longer_for_a_look_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()

    def listed(**_: Any) -> dict[str, Any]:
        asked.set()
        answered.wait(30.0)
        return {"Reservations": [], "ResponseMetadata": {}}

    monkeypatch.setattr(ledger, "_LAST_LOOK_S", 0.0)
    config: Any = SimpleNamespace(
        billed=Billed(uid="u1", scheduler_disk=0, worker_disk=0), account="team", cluster="one", log_group="g"
    )
    made = Ledger(config, machine="i-1", client=lambda service: SimpleNamespace(describe_instances=listed))
    sent: list[float] = []
    made._shipper = SimpleNamespace(close=sent.append)  # type: ignore[assignment]
    made._written = 1
    look = asyncio.ensure_future(made.turn())
    await asyncio.to_thread(asked.wait)
    await made.close()
    assert not look.done(), "AWS has answered"
    assert sent == [ledger._LAST_WORD_S], "what was written before is sent"
    answered.set()
    await look


def test_a_machine_that_one_list_lacks_costs_on() -> None:
    made = bill()
    both = [machine("i-1", "scheduler", NOON), machine("i-2", "worker", NOON)]
    for listed in (both, both[:1], both):
        made.seen(NOON + HOUR, listed)
    made.seen(NOON + 2 * HOUR, both)
    one = made.record(NOON + 2 * HOUR, 60.0)
    assert one is not None
    assert (one.usd, one.machines) == (pytest.approx(4 * PRICE), 2)


def test_a_machine_that_aws_lists_no_more_ran_until_it_was_seen_last() -> None:
    made = bill()
    made.seen(NOON + HOUR, [machine("i-1", "scheduler", NOON), machine("i-2", "worker", NOON)])
    made.seen(NOON + 3 * HOUR, [machine("i-1", "scheduler", NOON)])
    one = made.record(NOON + 3 * HOUR, 0.0)
    assert one is not None
    assert one.usd == pytest.approx(4 * PRICE)
    assert (one.usd_per_hour, one.machines, one.good_for) == (0.0, 0, 0.0)


def test_a_machine_costs_a_minute_at_least_and_its_type_may_have_no_price() -> None:
    made = bill()
    odd = machine("i-2", "worker", NOON, InstanceType="x99.huge")
    made.seen(NOON, [machine("i-1", "scheduler", NOON), odd])
    one = made.record(NOON, 60.0)
    assert one is not None
    assert one.usd == pytest.approx(PRICE / 60, abs=1e-6)
    assert one.unpriced == ("x99.huge",)
    assert bill().record(NOON, 60.0) is None, "AWS does not list the scheduler yet"


def test_disks_addresses_and_the_gateway_cost_too() -> None:
    made = Bill(Billed(uid="u1", scheduler_disk=730, nat=True), "one", "i-1")
    made.seen(NOON + HOUR, [machine("i-1", "scheduler", NOON, PublicIpAddress="203.0.113.9")])
    one = made.record(NOON + HOUR, 60.0)
    assert one is not None
    assert one.usd == pytest.approx(PRICE + 0.08 + 0.005 + 0.045 + 0.005)
