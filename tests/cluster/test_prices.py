"""What a cluster costs, and what its lids are held to, is what AWS's price list says of its region."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from typer.testing import CliRunner

from prefect_coiled import Cluster
from prefect_coiled.cli import app
from prefect_coiled.errors import OptionsError
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]

THERE = "eu-west-1"
KIND = "m5.large"
DENIED = {
    "service": "pricing",
    "action": "GetProducts",
    "effect": "error",
    "code": "AccessDeniedException",
}


@pytest.fixture(autouse=True)
def dear(sandbox: Sandbox) -> Iterator[None]:
    """In Ireland such a machine costs half a dollar an hour."""
    sandbox.set(prices={THERE: {KIND: 0.5}})
    yield
    sandbox.set(prices={})
    sandbox.faults([])


def cluster(region: str = THERE, **more: Any) -> Cluster:
    kinds = {"worker_vm_types": [KIND], "scheduler_vm_types": [KIND]}
    return Cluster(n_workers=1, backend_options={"region": region}, quiet=True, **kinds, **more)


def test_it_costs_what_aws_lists_for_its_region(sandbox: Sandbox, prefect_server: None, until: Until) -> None:
    with cluster() as made:
        hour = an_hour(made)
        prices = {line.what.partition(" ")[0]: line.usd for line in hour.lines}
        assert prices["scheduler:"] == pytest.approx(0.5)
        assert hour.basis.startswith(f"List prices of {THERE} as of {datetime.now(timezone.utc):%Y-%m-%d},")
        assert "differs" not in hour.basis
        listed = run("cost", "--region", THERE)
        (row,) = [one for one in json.loads(listed) if one["name"] == made.name]
        assert row["usd_per_hour"] > 1.0, "two machines"
        # What its scheduler writes down, for who asks when it is gone.
        (flow,) = until(
            lambda: json.loads(run("costs", "--by", "cluster", "--since", "1h", "--region", THERE))
        )
        assert flow["usd"] > 2 * 0.5 / 60, "a minute of each at least"


def an_hour(made: Cluster) -> Any:
    """What it costs in the first hour of its scheduler."""
    begun = made.started().record.scheduler.launched_at
    assert begun is not None
    return made.started().cost(begun + timedelta(hours=1))


@pytest.mark.long
def test_a_spot_machine_costs_the_spot_price_of_the_moment(sandbox: Sandbox, prefect_server: None) -> None:
    with cluster(spot_policy="spot") as made:
        hour = an_hour(made)
        (scheduler, worker) = [line for line in hour.lines if KIND in line.what]
        assert scheduler.usd == pytest.approx(0.5)
        assert 0.1 < (worker.usd or 0.0) < 0.2
        assert worker.note == "spot price of the moment"
        assert "spot machines at the spot price of the dearest zone at the moment" in hour.basis
        (row,) = [one for one in json.loads(run("cost", "--region", THERE)) if one["name"] == made.name]
        assert 0.6 < row["usd_per_hour"] < 0.8


def test_lids_are_held_to_the_prices_of_the_region(sandbox: Sandbox, prefect_server: None) -> None:
    before = sandbox.instances().keys()
    with pytest.raises(OptionsError, match=r"max_hourly_cost .*: 1 worker and a scheduler cost \$1\.0"):
        cluster(max_hourly_cost=0.9)
    assert sandbox.instances().keys() == before


@pytest.mark.long
def test_where_the_price_list_may_not_be_read_a_lid_is_refused_and_a_cluster_says_whose_prices_it_tells(
    sandbox: Sandbox, prefect_server: None
) -> None:
    sandbox.faults([DENIED])
    unread = "eu-west-2"
    with pytest.raises(OptionsError, match=r"prices of eu-west-2 are not known.*AccessDenied.*setup iam"):
        cluster(unread, max_total_cost=5.0)
    with cluster(unread) as made:
        basis = made.cost().basis
    assert basis.startswith("List prices of us-east-1 as of ")
    assert "eu-west-2 differs (AWS's price list was not to be had: AccessDeniedException)" in basis


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.long
def test_machines_that_boot_without_end_count_against_a_lid(
    sandbox: Sandbox, live: Live, until: Until, prefect_server: None
) -> None:
    sandbox.set(prices={THERE: {KIND: 1800.0}})  # half a dollar a second
    with cluster(max_total_cost=400.0, wait_for_workers=True) as made:
        sandbox.set(boot="none")
        try:
            made.scale(40)
            until(
                lambda: (
                    sandbox.instances()[made.started().record.scheduler.instance_id]["state"] == "terminated"
                ),
                100,
            )
        finally:
            sandbox.set(boot="process")
        assert "reason=cost-limit" in made.get_logs(workers=False)["Scheduler"]
    assert live() == []


@pytest.mark.long
def test_in_the_region_of_the_librarys_own_table_a_lid_holds_without_the_price_list(
    sandbox: Sandbox, prefect_server: None
) -> None:
    sandbox.faults([DENIED])
    with Cluster(n_workers=1, max_hourly_cost=1.0, quiet=True) as made:
        assert made.cost().basis.startswith("List prices of us-east-1 as of ")
