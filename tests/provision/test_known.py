"""What is known of an account spares a launch its looks, and is believed only as long as it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from prefect_coiled.aws import known
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.leases import lease
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.parameters import known_of, read_parameter, set_up_lease
from prefect_coiled.errors import NameTakenError, PrefectCoiledError
from prefect_coiled.events import Event, hearing
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.known import NOTHING
from prefect_coiled.provision import (
    add_workers,
    create_cluster,
    delete_cluster,
    destroy_account,
    set_up_account,
    sweep,
)
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session
from tests.provision.laid import Lay, hurry, live, refusing

pytestmark = pytest.mark.usefixtures("nothing_there")

Spec = Callable[..., ClusterSpec]
# What is asked for where nothing is known, of all that clusters share.
LOOKS = {"ec2:DescribeVpcs", "ec2:DescribeSubnets", "ec2:DescribeNatGateways", "iam:GetRole"}
# Most calls of a launch whose account is known, but for looks at whether the scheduler runs.
MOST = 16


@pytest.fixture
def looked(session: Session, spec: Spec, nothing_there: None) -> None:
    """An account that a launch has looked at."""
    set_up_account("team", "us-east-1")
    first = spec(n_workers=0)
    create_cluster(first)
    delete_cluster("team", "us-east-1", first.name)


def another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process remembers is forgotten, as in another one."""
    known._REMEMBERED.clear()


def looks(calls: Counter[str]) -> set[str]:
    return {action for action in calls if action in LOOKS}


def nats(sandbox: Sandbox) -> list[str]:
    found = sandbox.client("ec2").describe_nat_gateways()["NatGateways"]
    return [nat["NatGatewayId"] for nat in found if nat["State"] == "available"]


@pytest.mark.parametrize("n", [1, 20, 100])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another program"])
def test_a_launch_in_an_account_that_is_known_looks_at_nothing(
    looked: None,
    spec: Spec,
    calls: Counter[str],
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    elsewhere: bool,
) -> None:
    if elsewhere:
        another_program(monkeypatch)
    calls.clear()
    create_cluster(spec(n_workers=n))
    calls.pop("ec2:DescribeInstances")
    assert looks(calls) == set()
    assert sum(calls.values()) <= MOST + elsewhere, calls
    assert len(live(sandbox)) == n + 1


def test_adding_workers_looks_at_nothing_either(looked: None, spec: Spec, calls: Counter[str]) -> None:
    plan = spec(n_workers=1)
    record = create_cluster(plan)
    calls.clear()
    assert len(add_workers(plan, record, 2, "b1")) == 2
    assert looks(calls) == set()


def test_after_a_sweep_all_is_looked_at_and_the_nat_gateway_is_made_again(
    looked: None, spec: Spec, aws: Aws, sandbox: Sandbox, calls: Counter[str]
) -> None:
    assert len(nats(sandbox)) == 1
    sweep("team", "us-east-1")
    assert nats(sandbox) == []
    assert read_parameter(aws, known_of("team")) == NOTHING
    calls.clear()
    create_cluster(spec())
    assert looks(calls) == LOOKS
    assert len(nats(sandbox)) == 1


@pytest.mark.parametrize("when", ["ssm:PutParameter", "ec2:CreateSecurityGroup"])
def test_a_sweep_beside_a_launch_that_knows_leaves_it_a_nat_gateway(
    looked: None, spec: Spec, account: Account, sandbox: Sandbox, when: str
) -> None:
    swept = []

    def sweeps(event: Event) -> None:
        # Before the launch has its name all goes; from then on what it uses stays.
        if (event.kind, event.action) == ("call", when) and not swept:
            swept.append("")
            with hearing():
                swept.append(sweep("team", "us-east-1"))

    with hearing(sweeps):
        create_cluster(spec())
    assert len(swept) == 2
    assert len(nats(sandbox)) == 1


def test_while_somebody_changes_the_account_nothing_of_it_is_believed(
    looked: None, spec: Spec, account: Account, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, young=True)
    door = account.door("us-east-1")
    with lease(door, set_up_lease("team")):
        calls.clear()
        with pytest.raises(PrefectCoiledError, match="lease"):
            create_cluster(spec())
    assert looks(calls) == LOOKS


def test_what_was_noted_while_somebody_changed_it_is_not_believed(looked: None, aws: Aws) -> None:
    seen = known.see(aws, "x")
    assert seen is not None
    assert seen.known is not None
    known.forget(aws)
    assert not known.note(aws, seen.known.model_copy(update={"version": seen.version + 1}))
    again = known.see(aws, "x")
    assert again is not None
    assert (again.known, again.version) == (None, seen.version + 2)
    assert known.note(aws, seen.known.model_copy(update={"version": again.version + 1}))


def test_what_is_old_is_looked_at_again(
    looked: None, spec: Spec, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    another_program(monkeypatch)
    monkeypatch.setattr(known, "GOOD_FOR", -1.0)
    calls.clear()
    create_cluster(spec())
    assert looks(calls) == LOOKS


def test_another_version_of_this_library_looks_again(
    looked: None, spec: Spec, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    another_program(monkeypatch)
    monkeypatch.setattr(known, "library_version", lambda: "9")
    calls.clear()
    create_cluster(spec())
    assert looks(calls) == LOOKS


def test_where_the_policy_does_not_permit_the_call_all_is_looked_at(
    looked: None, spec: Spec, calls: Counter[str], lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    another_program(monkeypatch)
    lay(refusing("ssm:GetParameters", "AccessDeniedException"))
    calls.clear()
    create_cluster(spec())
    assert looks(calls) == LOOKS


def test_a_launch_that_aws_refuses_for_what_is_gone_looks_and_launches(
    looked: None, spec: Spec, sandbox: Sandbox, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, young=True)
    ec2 = sandbox.client("ec2")
    zone = [{"Name": "availability-zone", "Values": ["us-east-1a"]}]
    ours = [*zone, {"Name": "tag:coiled-tier", "Values": ["public"]}]
    # Somebody has taken the scheduler's subnet away in AWS's console.
    (gone,) = [s["SubnetId"] for s in ec2.describe_subnets(Filters=ours)["Subnets"]]
    for nat in nats(sandbox):
        ec2.delete_nat_gateway(NatGatewayId=nat)
    ec2.delete_subnet(SubnetId=gone)
    calls.clear()
    record = create_cluster(spec(zone="us-east-1a"))
    assert looks(calls) == LOOKS
    assert record.scheduler.subnet_id != gone
    assert len(nats(sandbox)) == 1


def test_a_cluster_whose_name_was_taken_away_launches_nothing(
    looked: None, spec: Spec, sandbox: Sandbox, calls: Counter[str]
) -> None:
    plan, gone = spec(), []
    calls.clear()

    def removes(event: Event) -> None:
        # The call that confirms what is known, and is to see it.
        if (event.kind, event.action) == ("call", "ssm:GetParameters") and not gone:
            gone.append("")
            with hearing():
                delete_cluster("team", "us-east-1", plan.name)

    with hearing(removes), pytest.raises(NameTakenError):
        create_cluster(plan)
    assert gone
    assert calls["ec2:RunInstances"] == 0
    assert live(sandbox) == []


def test_it_goes_with_the_account(looked: None, aws: Aws) -> None:
    assert read_parameter(aws, known_of("team")) is not None
    destroy_account("team", "us-east-1")
    assert read_parameter(aws, known_of("team")) is None


def test_what_was_missing_a_moment_ago_is_not_asked_for_first(
    looked: None, spec: Spec, sandbox: Sandbox, calls: Counter[str]
) -> None:
    sandbox.set(capacity=[{"instance_type": "m6i.large", "zone": "*", "free": 0}])
    types = {"worker_vm_types": ["m6i.large", "m5.large"], "scheduler_vm_types": ["t3.large"]}
    asked = []
    for _ in range(2):
        calls.clear()
        record = create_cluster(spec(n_workers=2, **types))
        assert {w.instance_type for w in record.workers} == {"m5.large"}
        asked.append(calls["ec2:RunInstances"])
    assert asked == [3, 2]
