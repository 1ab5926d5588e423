"""On a way down, what AWS refuses, or does not show, is left and said; everything else goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import botocore.client
import pytest

from prefect_coiled.aws import kinds, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError, AwsError, InUseError, NotFoundError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import (
    create_cluster,
    delete_cluster,
    destroy_account,
    set_up_account,
    sweep,
    take_inventory,
)
from prefect_coiled.records import ClusterRecord
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session
from tests.provision.laid import Lay, Rule, live, refusing

Spec = Callable[..., ClusterSpec]
# What each account that was set up shares, and costs nothing: it stays whatever a sweep does.
SHARED = {"VPC", "subnet", "route table", "internet gateway", "VPC endpoint", "IAM role", "instance profile"}
SHARED |= {"log group", "bucket", "repository", "parameter"}


pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture(autouse=True)
def no_machine_is_left(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()
    if ids := [machine["InstanceId"] for machine in live(sandbox)]:
        sandbox.client("ec2").terminate_instances(InstanceIds=ids)


@pytest.fixture
def dead(
    session: Session, spec: Spec, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ClusterRecord]:
    """Make a cluster whose scheduler is gone, and whose workers run on."""

    def make(name: str) -> ClusterRecord:
        record = create_cluster(spec(name=name))
        sandbox.client("ec2").terminate_instances(InstanceIds=[record.scheduler.instance_id])
        return record

    monkeypatch.setattr(parameters, "STARTING", -60.0)  # no cluster is young
    return make


def kinds_left(aws: Aws) -> set[str]:
    return {one.kind for one in take_inventory(aws)}


def refuse_to_end(*machines: str) -> Rule:
    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        if action != "ec2:TerminateInstances" or not set(machines) & set(asked["InstanceIds"]):
            return None
        return "OperationNotPermitted", "The instance may not be terminated."

    return rule


def test_a_cluster_that_cannot_go_keeps_no_other_from_being_swept(
    dead: Callable[..., ClusterRecord], aws: Aws, sandbox: Sandbox, lay: Lay
) -> None:
    first, _second = dead("a"), dead("b")
    kept = first.workers[0].instance_id
    lay(refuse_to_end(kept))
    with pytest.raises(InUseError, match="protection") as caught:
        sweep("team", "us-east-1")
    assert [machine["InstanceId"] for machine in live(sandbox)] == [kept]
    assert "an hour" in caught.value.left[kept]
    assert not [one for one in take_inventory(aws) if one.cluster == "b" and one.kind != "instance"]
    assert "NAT gateway" not in kinds_left(aws)
    lay(lambda action, asked: None)
    assert sweep("team", "us-east-1").is_done
    assert live(sandbox) == []
    assert kinds_left(aws) == SHARED


@pytest.mark.parametrize("uid", ["all of that name", "one"])
def test_a_close_says_which_machine_is_left_and_what_it_costs(
    session: Session, spec: Spec, lay: Lay, uid: str
) -> None:
    record = create_cluster(spec())
    kept = record.workers[1].instance_id
    lay(refuse_to_end(kept))
    with pytest.raises(InUseError) as caught:
        delete_cluster("team", "us-east-1", record.name, record.uid if uid == "one" else None)
    assert list(caught.value.left) == [kept]
    assert "an hour" in caught.value.left[kept]


def test_a_machine_that_stays_shutting_down_is_named_and_what_waits_for_it_goes_later(
    session: Session, spec: Spec, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create_cluster(spec())
    stuck = record.workers[0].instance_id
    call: Any = botocore.client.BaseClient.__dict__["_make_api_call"]

    def shown(self: Any, operation: str, asked: dict[str, Any]) -> Any:
        reply = call(self, operation, asked)
        for one in (i for r in reply.get("Reservations", ()) for i in r["Instances"]):
            if one["InstanceId"] == stuck and one["State"]["Name"] == "terminated":
                one["State"] = {"Code": 32, "Name": "shutting-down"}
        return reply

    with monkeypatch.context() as patch:
        patch.setattr(botocore.client.BaseClient, "_make_api_call", shown)
        removal = delete_cluster("team", "us-east-1", record.name, patience=2.0)
    assert not removal.is_done
    assert all(f"{stuck} is shutting-down" in why for why in removal.left.values()), removal.left
    assert not any("an hour" in why for why in removal.left.values())
    assert delete_cluster("team", "us-east-1", record.name, record.uid).is_done


@pytest.mark.parametrize("hidden", ["ecr:DescribeRepositories", "iam:GetRole", "ec2:DescribeVpcs"])
def test_what_costs_is_told_though_aws_does_not_show_what_is_free(
    session: Session, spec: Spec, aws: Aws, lay: Lay, hidden: str
) -> None:
    record = create_cluster(spec())
    lay(refusing(hidden, "AccessDenied"))
    kinds_of = {one.kind for one in take_inventory(aws, costly=True)}
    assert kinds_of == {"instance", "volume", "NAT gateway", "elastic address"}
    with pytest.raises(AccessDeniedError, match=hidden):
        take_inventory(aws)
    delete_cluster("team", "us-east-1", record.name, record.uid)


@pytest.mark.parametrize("hidden", ["ecr:DescribeRepositories", "ec2:DescribeRouteTables"])
def test_what_aws_does_not_show_of_lesser_things_keeps_nothing_that_costs(
    dead: Callable[..., ClusterRecord], aws: Aws, sandbox: Sandbox, lay: Lay, hidden: str
) -> None:
    dead("a")
    lay(refusing(hidden, "AccessDenied"))
    with pytest.raises(AccessDeniedError, match=hidden) as caught:
        sweep("team", "us-east-1")
    assert "add this statement" in str(caught.value)
    assert live(sandbox) == []
    with pytest.raises(AccessDeniedError, match=hidden) as caught:
        destroy_account("team", "us-east-1")
    kind = "repository" if hidden.startswith("ecr") else "route table"
    assert "price not known" in caught.value.left[kind]
    lay(lambda action, asked: None)
    assert sum(one.usd_per_hour or 0.0 for one in take_inventory(aws)) == 0.0
    assert destroy_account("team", "us-east-1").is_done
    assert kinds_left(aws) == set()


def test_where_it_is_not_known_what_runs_nothing_is_removed(session: Session, aws: Aws, lay: Lay) -> None:
    set_up_account("team", "us-east-1")
    before = take_inventory(aws)
    lay(refusing("ec2:DescribeInstances", "UnauthorizedOperation"))
    for down in (sweep, destroy_account):
        with pytest.raises(AccessDeniedError):
            down("team", "us-east-1")
    lay(lambda action, asked: None)
    assert take_inventory(aws) == before


def test_what_aws_lists_and_does_not_find_for_long_is_left(
    aws: Aws, sandbox: Sandbox, lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "CONSISTENCY", 0.5)
    ours = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team"}]
    specification = [{"ResourceType": "internet-gateway", "Tags": ours}]
    made = sandbox.client("ec2").create_internet_gateway(TagSpecifications=specification)
    wanted = made["InternetGateway"]["InternetGatewayId"]
    row = kinds.KINDS["internet gateway"]
    items = [one for one in kinds.find(aws, row) if one["InternetGatewayId"] == wanted]
    lay(refusing("ec2:DeleteInternetGateway", "InvalidInternetGatewayID.NotFound"))
    with pytest.raises(NotFoundError, match=wanted):
        kinds.drop(aws, row, items, 60.0)
    lay(lambda action, asked: None)
    kinds.drop(aws, row, items, 60.0)
    assert all(one["InternetGatewayId"] != wanted for one in kinds.find(aws, row))


def test_an_address_that_outlives_its_gateway_is_left_with_a_price(session: Session, lay: Lay) -> None:
    set_up_account("team", "us-east-1")
    lay(refusing("ec2:ReleaseAddress", "UnauthorizedOperation"))
    removal = sweep("team", "us-east-1")
    assert "NAT gateway" in removal.removed
    ((left, why),) = removal.left.items()
    assert left.startswith("eipalloc-")
    assert "$0.0050 an hour" in why
    lay(lambda action, asked: None)
    assert sweep("team", "us-east-1").is_done


def test_a_sweep_comes_through_where_aws_slows_every_call_down(
    dead: Callable[..., ClusterRecord], aws: Aws, sandbox: Sandbox, lay: Lay
) -> None:
    dead("a")
    slowed: Counter[str] = Counter()

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        slowed[action] += 1
        return ("RequestLimitExceeded", "Slow down.") if slowed[action] <= 2 else None

    lay(rule)
    assert sweep("team", "us-east-1").is_done
    assert live(sandbox) == []


def test_a_credential_that_ends_in_mid_sweep_is_no_reason_to_go_on(
    dead: Callable[..., ClusterRecord], lay: Lay
) -> None:
    dead("a")
    lay(refusing("ecr:DescribeRepositories", "ExpiredTokenException"))
    with pytest.raises(AwsError, match="ExpiredTokenException"):
        sweep("team", "us-east-1")
