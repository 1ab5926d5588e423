from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from prefect_coiled.cluster import launched
from prefect_coiled.costs import CostEstimate, MachineUse, estimate, hourly
from prefect_coiled.plan.prices import shipped
from prefect_coiled.records import InstanceRecord


def test_the_hourly_price_is_the_list_price_or_none():
    assert hourly("m6i.xlarge") == 0.192
    assert hourly("g4dn.xlarge") == 0.526
    assert hourly("x8aedz.3xlarge") is None


def test_an_estimate_sums_machines_disks_addresses_and_gateways():
    result = estimate(
        [
            MachineUse(vm_type="m6i.xlarge", label="scheduler", hours=2, public_ip=True, disk_gb=73),
            MachineUse(vm_type="m6i.large", label="workers", hours=2, count=10),
            MachineUse(vm_type="m6i.large", count=0),
        ],
        nat_gateway_hours=2,
    )
    assert [line.what for line in result.lines] == [
        "scheduler: 1 x m6i.xlarge, 2.00 h",
        "workers: 10 x m6i.large, 2.00 h",
        "disks (gp3)",
        "public IPv4 addresses",
        "NAT gateways and their addresses",
    ]
    assert [line.usd for line in result.lines] == pytest.approx([0.384, 1.92, 0.016, 0.01, 0.1])
    assert result.total_usd == result.known_usd == pytest.approx(2.43)
    assert "Total: $2.43" in str(result)


def test_an_unknown_price_is_never_made_up():
    result = estimate([MachineUse(vm_type="x8aedz.3xlarge"), MachineUse(vm_type="m6i.xlarge")])
    assert result.lines[0].usd is None
    assert result.lines[0].note == "price not known"
    assert result.total_usd is None
    assert result.known_usd == pytest.approx(0.192)
    assert "Total: price not known; without what is not known $0.1920" in str(result)


def test_spot_is_counted_at_most_at_the_on_demand_price():
    result = estimate([MachineUse(vm_type="m6i.xlarge", spot=True)])
    assert result.total_usd == pytest.approx(0.192)
    assert "at most" in result.lines[0].note
    assert "spot machines cost less" in result.basis


def test_a_machine_is_billed_for_a_minute_at_least_if_it_ran():
    assert estimate([MachineUse(vm_type="m6i.xlarge", hours=0.001)]).total_usd == pytest.approx(0.192 / 60)
    assert estimate([MachineUse(vm_type="m6i.xlarge", hours=0)]).total_usd == 0
    assert estimate([]).total_usd == 0


def test_the_basis_says_what_kind_of_number_it_is():
    basis = estimate([MachineUse(vm_type="m6i.xlarge")], region="eu-west-1").basis
    assert basis.startswith("List prices of us-east-1 as of 2026-07-20")
    assert "eu-west-1 differs" in basis
    assert "differs" not in estimate([], region="us-east-1").basis


def test_an_estimate_goes_through_json():
    result = estimate([MachineUse(vm_type="m6i.xlarge")])
    assert CostEstimate.model_validate_json(result.model_dump_json()) == result


NOON = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


class Clock(datetime):
    at = NOON

    @classmethod
    def now(cls, tz=None):
        return cls.at


@pytest.fixture
def shared(monkeypatch):
    """A cluster of ten workers since noon, of which AWS lists what `listed` says."""
    monkeypatch.setattr(launched, "datetime", Clock)
    monkeypatch.setattr(launched, "seen_prices", lambda aws: shipped())
    monkeypatch.setattr(Clock, "at", NOON)

    def machine(name, role="worker", state="running"):
        told = {"cluster": "c", "instance_type": "m6i.xlarge", "zone": "us-east-1a", "launched_at": NOON}
        return InstanceRecord(instance_id=name, role=role, state=state, **told)

    made = object.__new__(launched.Launched)
    made.machine = machine
    made.listed = [machine(f"i-{n}") for n in range(10)]
    made.machines = lambda states: made.listed
    made.aws = None
    made.record = SimpleNamespace(
        scheduler=machine("i-s", "scheduler"), created_at=NOON, region="us-east-1", workers=()
    )
    made.spec = SimpleNamespace(
        works=False,
        scheduler_disk=0,
        worker_disk=0,
        worker_disk_throughput=125,
        egress="none",
        network=None,
        has_public_address=lambda role: False,
    )
    made._ran = {one.instance_id: (one, None) for one in made.listed}
    made._left = {}
    return made


def of_workers(made, at):
    (line,) = [line for line in made.cost(at).lines if line.what.startswith("workers")]
    return line.usd


def test_workers_that_have_left_cost_until_then_and_not_until_the_clusters_end(shared, monkeypatch):
    monkeypatch.setattr(Clock, "at", NOON + HOUR)
    for n in range(1, 10):
        shared.left(f"i-{n}")
    assert of_workers(shared, NOON + 10 * HOUR) == pytest.approx((10 + 9 * 1) * 0.192)
    # AWS lists none of them when it is asked hours later, for an hour is long over.
    monkeypatch.setattr(Clock, "at", NOON + 10 * HOUR)
    shared.listed = shared.listed[:1]
    shared.listed_workers()
    assert of_workers(shared, NOON + 10 * HOUR) == pytest.approx((10 + 9 * 1) * 0.192)


def test_one_that_runs_without_its_worker_costs_and_one_that_came_back_too(shared, monkeypatch):
    monkeypatch.setattr(Clock, "at", NOON + HOUR)
    shared.left("i-1")
    shared.left("i-2")
    shared.came(["i-2"])
    monkeypatch.setattr(Clock, "at", NOON + 2 * HOUR)
    shared.listed_workers()
    assert of_workers(shared, NOON + 4 * HOUR) == pytest.approx((9 * 4 + 2) * 0.192)
    shared.listed[1] = shared.machine("i-1", state="terminated")
    monkeypatch.setattr(Clock, "at", NOON + 3 * HOUR)
    shared.listed_workers()
    assert of_workers(shared, NOON + 4 * HOUR) == pytest.approx((9 * 4 + 2) * 0.192)
