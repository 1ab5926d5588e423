"""What clusters have cost: written down on the scheduler's machine, read when they are gone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow, task
from typer.testing import CliRunner

from prefect_coiled import Cluster, CoiledTaskRunner, Ec2DaskAccount
from prefect_coiled.aws.cost_records import find_records
from prefect_coiled.blocks import load_account
from prefect_coiled.cli import app
from prefect_coiled.cluster import launch
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.actions import changes
from prefect_coiled.plan.spending import CostRecord
from prefect_coiled.sandbox import Sandbox

Until = Callable[..., Any]


@task
def double(number: int) -> int:
    return 2 * number


def records(cluster: str, account: str | None = None) -> list[CostRecord]:
    now = datetime.now(timezone.utc)
    found = find_records(load_account(account).door(), now - timedelta(hours=1), now)
    return sorted((one.record for one in found if one.record.cluster == cluster), key=lambda one: one.at)


def told(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["costs", "--json", *arguments])
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.output)
    return rows


def test_a_flows_cost_is_known_when_its_cluster_is_gone(until: Until) -> None:
    name = "paid-by-training"

    @flow(name="costs of training", task_runner=CoiledTaskRunner(n_workers=1, name=name))
    def train() -> int:
        return double.submit(2).result()

    assert train() == 4
    last = until(lambda: [one for one in records(name) if one.good_for == 0])[0]
    assert (last.flow, last.cluster) == ("costs of training", name)
    assert last.usd > 0
    assert last.machine_hours > 0.03, "two machines, each for a minute at least"
    (row,) = [row for row in told() if row["flow"] == "costs of training"]
    assert row["usd"] == pytest.approx(last.usd)
    assert (row["clusters"], row["running"]) == (1, 0)
    assert any(row["cluster"] == name for row in told("--by", "cluster", "--since", "1h"))
    assert {row["account"] for row in told("--by", "account")} == {"default"}
    assert told("--by", "day")[-1]["day"] == datetime.now(timezone.utc).date().isoformat()


def test_the_machines_say_by_a_tag_which_flow_they_are_for(sandbox: Sandbox, live: Any) -> None:
    @flow(name="who pays?", task_runner=CoiledTaskRunner(n_workers=0, wait_for_workers=False))
    def pay() -> list[dict[str, str]]:
        from prefect.context import FlowRunContext

        runner: Any = FlowRunContext.get().task_runner  # type: ignore[union-attr]
        _ = runner.client
        return [{tag["Key"]: tag["Value"] for tag in item["Tags"]} for item in live()]

    assert {tags["coiled-flow"] for tags in pay()} == {"who pays?"}


def test_the_clock_runs_on_without_a_client_and_a_killed_scheduler_is_counted(
    sandbox: Sandbox, until: Until
) -> None:
    with Cluster(n_workers=1, wait_for_workers=True, quiet=True) as cluster:
        assert cluster.record is not None
        first = until(lambda: records(cluster.name))[0]
        assert first.good_for > 0, "another one follows"
        assert first.usd_per_hour > 0
        sandbox.unplug(cluster.record.scheduler.instance_id)  # it says no last word
        cluster.shutdown_on_close = True
    assert all(one.good_for > 0 for one in records(cluster.name))
    (row,) = [row for row in told("--by", "cluster") if row["cluster"] == cluster.name]
    assert row["usd"] >= records(cluster.name)[-1].usd > 0


def test_the_machines_role_may_write_it_down(judged: Sandbox, until: Until) -> None:
    with Cluster(n_workers=0, wait_for_workers=False, quiet=True) as cluster:
        until(lambda: records(cluster.name))
        refused = [one for one in judged.decisions() if not one["allowed"]]
    assert not [one for one in refused if one["action"].startswith("logs:")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "flwo"], "flow"),
        (["--since", "soon"], "must be a time"),
        (["--since", "2999-01-01"], "not in the past"),
    ],
)
def test_what_is_asked_wrongly_is_said(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["costs", *arguments])
    assert result.exit_code == 1
    assert words in result.output


@pytest.fixture
def budget(sandbox: Sandbox) -> Iterator[Callable[[float], str]]:
    """Gives the sandbox's account a monthly budget; returns its slug."""

    def give(usd: float) -> str:
        block = Ec2DaskAccount(region="us-east-1", sandbox=True, monthly_budget=usd, egress="public-ip")
        block.save("thrifty", overwrite=True)
        return "thrifty"

    yield give
    Ec2DaskAccount.delete("thrifty")


def test_a_launch_beyond_the_budget_is_refused_with_the_numbers(
    budget: Callable[[float], str], sandbox: Sandbox, live: Any, until: Until
) -> None:
    slug = budget(0.75)
    small: dict[str, Any] = {"account": slug, "quiet": True, "n_workers": 1, "wait_for_workers": False}
    with Cluster(**small) as cluster:
        machines = len(live())
        sandbox.clear_calls()
        with pytest.raises(OptionsError, match=r"monthly budget of \$0\.7500.*this at most \$0\.4"):
            Cluster(**small)
        assert len(live()) == machines
        changed = [one for one in sandbox.calls() if changes(":".join(one))]
        assert [one for one in changed if one[0] == "ec2"] == []
        until(lambda: records(cluster.name, slug))
        with pytest.raises(OptionsError, match=r"What runs costs \$0\.4"):
            Cluster(**small)
        checked = CliRunner().invoke(app, ["check", "--account", slug, "--json"])
        told = json.loads(checked.output)["budget"]
        assert told["budget"] == 0.75
        assert told["spent"] > 0
        assert told["usd_per_hour"] > 0.3
        with pytest.raises(OptionsError, match=r"5 more workers.*monthly budget of \$0\.7500"):
            cluster.scale(6)
        assert len(live()) == machines
    budget(2.0)
    with Cluster(**small):
        pass
    explained = CliRunner().invoke(app, ["account", "explain", slug])
    assert "monthly_budget" in explained.output
    with pytest.raises(OptionsError, match=r"price of x1e\.32xlarge"):
        Cluster(**small, worker_vm_types=["x1e.32xlarge"])


def test_the_budget_is_looked_at_again_by_who_has_waited_for_a_slot(
    budget: Callable[[float], str], monkeypatch: pytest.MonkeyPatch, live: Any
) -> None:
    slug, given_back, looked = budget(50.0), list[str](), list[float]()

    def hold(aws: Any, usd: float, what: str, usd_per_hour: float) -> None:
        looked.append(usd)
        if len(looked) > 1:
            raise OptionsError(what, "is over the budget by now.")

    slot = SimpleNamespace(waited=3600.0, release=lambda: given_back.append("slot"))
    monkeypatch.setattr(launch, "take_slot", lambda *args, **keywords: slot)
    monkeypatch.setattr(launch, "hold_to_budget", hold)
    before = live()
    with pytest.raises(OptionsError, match="over the budget by now"):
        Cluster(account=slug, n_workers=1, quiet=True)
    assert (given_back, looked, live()) == (["slot"], [50.0, 50.0], before)
