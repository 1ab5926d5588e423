"""A plan says what is changed before anything is; the same is done then, and nothing is left to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from pydantic import SecretStr

from prefect_coiled.aws import instances, kinds, parameters
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.request import Request
from prefect_coiled.events import hearing
from prefect_coiled.plan import tags
from prefect_coiled.plan.actions import changes
from prefect_coiled.plan.changes import Change, Plan
from prefect_coiled.plan.kinds import Kind
from prefect_coiled.provision import (
    create_cluster,
    destroy_account,
    plan_destruction,
    plan_set_up,
    plan_sweep,
    set_up_account,
    sweep,
    take_inventory,
)
from prefect_coiled.records import Removal
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session

# One life, of a set-up and its repair, a sweep and the end, is what most of these tests look at.
pytestmark = pytest.mark.timeout(600)

OURS = tags.to_aws(tags.account_tags("team"))


class Act(NamedTuple):
    """A command: what was planned, what it did, and what is planned afterwards."""

    before: Plan
    done: Any
    after: Plan
    called: frozenset[str]  # that planning called


@pytest.fixture(scope="module")
def own_sandbox() -> Iterator[Sandbox]:
    with Sandbox({"boot": "none"}) as running:
        yield running


@pytest.fixture(scope="module")
def door(own_sandbox: Sandbox) -> Aws:
    keys = CredentialSource("sandbox", SecretStr(own_sandbox.info.secret_access_key))
    endpoint, info = own_sandbox.endpoint, own_sandbox.info
    return Account("team", credentials=keys, endpoint_url=endpoint, sandbox=info).door("us-east-1")


def act(aws: Aws, plan: Callable[[Aws], Plan], do: Callable[[Session], Any]) -> Act:
    called: set[str] = set()
    with hearing(lambda event: called.add(event.action) if event.kind == "call" else None):
        before = plan(aws)
    with use_session(Session(aws)) as session:
        done = do(session)
    return Act(before, done, plan(aws), frozenset(called))


def set_up(session: Session) -> tuple[Change, ...]:
    with patch.object(kinds, "bring", wraps=kinds.bring) as bring:
        set_up_account("team", "us-east-1")
    return tuple(call.args[1] for call in bring.call_args_list)


def damage(sandbox: Sandbox) -> None:
    """What an older version wrote, what was interrupted, and what somebody deleted."""
    sandbox.client("iam").delete_role_policy(RoleName="team", PolicyName="coiled-instance")
    ec2 = sandbox.client("ec2")
    ours = [{"Name": "tag:coiled-account", "Values": ["team"]}]
    vpc_id = ec2.describe_vpcs(Filters=ours)["Vpcs"][0]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc_id, EnableDnsHostnames={"Value": False})
    zone = [*ours, {"Name": "availability-zone", "Values": ["us-east-1c"]}]
    for subnet in ec2.describe_subnets(Filters=zone)["Subnets"]:
        used = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        for table in ec2.describe_route_tables(Filters=used)["RouteTables"]:
            for one in table["Associations"]:
                if one.get("SubnetId") == subnet["SubnetId"]:
                    ec2.disassociate_route_table(AssociationId=one["RouteTableAssociationId"])
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    sandbox.client("logs").delete_retention_policy(logGroupName="team")


@pytest.fixture(scope="module")
def life(own_sandbox: Sandbox, door: Aws, prefect_server: None) -> dict[str, Act]:
    acts = {"set-up": act(door, plan_set_up, set_up)}
    damage(own_sandbox)
    acts["repair"] = act(door, plan_set_up, set_up)
    request = Request({}, n_workers=1, name="lost")
    account = Account("team", endpoint_url=door.endpoint_url, sandbox=door.sandbox)
    spec = request.spec(account, "tester", own_cidr=lambda: "192.0.2.7/32", now=datetime.now(timezone.utc))
    with use_session(Session(door)):
        record = create_cluster(spec)
    instances.terminate_instances(door, [record.scheduler.instance_id])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "STARTING", 0.0)
        acts["sweep"] = act(door, plan_sweep, lambda session: sweep("team", "us-east-1"))
    acts["destroy"] = act(door, plan_destruction, lambda session: destroy_account("team", "us-east-1"))
    return acts


def planned(plan: Plan) -> set[tuple[str, str]]:
    return {(c.kind, c.resource_id.removeprefix(KINDS[c.row].prefix)) for c in plan.todo}


def removed(removal: Removal) -> set[tuple[str, str]]:
    return {(kind, one) for kind, ids in removal.removed.items() for one in ids}


def test_a_plan_changes_nothing(life: dict[str, Act]) -> None:
    for name, one in life.items():
        assert one.called, name
        assert not [call for call in one.called if changes(call)], name


def test_a_set_up_makes_what_was_planned_and_then_nothing(life: dict[str, Act]) -> None:
    one = life["set-up"]
    assert Counter(one.done) == Counter(one.before.todo)
    kinds = [change.kind for change in one.before.todo]
    assert (kinds.count("VPC"), kinds.count("subnet"), kinds.count("NAT gateway")) == (1, 12, 1)
    assert kinds.count("role of spot machines") == 1
    assert {change.action for change in one.before.todo} == {"create"}
    assert one.before.costs == pytest.approx(0.05)  # the NAT gateway with its address
    assert one.after.todo == ()
    assert "nothing changes" in one.after.summary()


def test_a_set_up_repairs_what_was_planned_and_nothing_else(life: dict[str, Act]) -> None:
    one = life["repair"]
    assert Counter(one.done) == Counter(one.before.todo)
    assert [(c.action, c.kind, c.place) for c in one.before.todo] == [
        ("update", "VPC", ""),
        ("create", "subnet", "public us-east-1c"),
        ("create", "subnet", "private us-east-1c"),
        ("update", "route table", "public"),
        ("update", "route table", "us-east-1c"),
        ("update", "IAM role", ""),
        ("update", "log group", ""),
    ]
    assert all(change.why for change in one.before.todo)
    assert one.before.costs == 0
    assert one.after.todo == ()


def test_a_sweep_removes_what_was_planned_and_then_nothing(life: dict[str, Act]) -> None:
    one = life["sweep"]
    assert removed(one.done) == planned(one.before)
    assert one.done.left == {}
    kinds = [change.kind for change in one.before.todo]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "instance": 1,
        "NAT gateway": 1,
        "elastic address": 1,
        "launch template": 4,
        "security group": 2,
        "parameter": 4,
    }
    assert kinds[0] == "instance", "what costs goes first"
    assert one.before.saves is not None
    assert one.before.saves > 0.05
    assert one.after.todo == ()


def test_the_end_of_an_account_removes_what_was_planned_and_then_nothing(
    life: dict[str, Act], door: Aws
) -> None:
    one = life["destroy"]
    assert removed(one.done) == planned(one.before)
    assert {c.kind for c in one.before.todo} >= {"VPC", "subnet", "IAM role", "bucket", "repository"}
    assert one.after.todo == ()
    assert take_inventory(door) == ()


def test_a_plan_goes_through_json(life: dict[str, Act]) -> None:
    for one in life.values():
        assert Plan.model_validate_json(one.before.model_dump_json()) == one.before


# -- with an account that has little


@pytest.fixture
def nothing_there(sandbox: Sandbox) -> Iterator[None]:
    sandbox.reset()
    yield
    sandbox.reset()


def allocate(sandbox: Sandbox) -> str:
    specification = [{"ResourceType": "elastic-ip", "Tags": OURS}]
    made = sandbox.client("ec2").allocate_address(Domain="vpc", TagSpecifications=specification)
    return str(made["AllocationId"])


def group_of(sandbox: Sandbox, cluster: str, uid: str, which: str = "") -> str:
    """A security group that a cluster left."""
    labels = tags.to_aws(tags.account_tags("team", cluster=cluster, cluster_uid=uid))
    made = sandbox.client("ec2").create_security_group(
        GroupName=f"{cluster}-{uid}{which}",
        Description="of a dead cluster",
        TagSpecifications=[{"ResourceType": "security-group", "Tags": labels}],
    )
    return str(made["GroupId"])


DOWN = {
    "sweep": (plan_sweep, lambda plan: sweep("team", "us-east-1", plan=plan)),
    "destroy": (plan_destruction, lambda plan: destroy_account("team", "us-east-1", plan)),
}


@pytest.mark.parametrize("way", DOWN)
def test_what_came_after_the_plan_stays_and_is_said_with_its_price(
    way: str, nothing_there: None, session: Session, aws: Aws, sandbox: Sandbox
) -> None:
    first = allocate(sandbox)
    planned, do = DOWN[way]
    plan = planned(aws)
    late = allocate(sandbox)
    removal = do(plan)
    assert removal.removed == {"elastic address": (first,)}
    assert removal.left == {late: "it came after the plan, $0.0050 an hour"}
    assert not removal.is_done


@pytest.mark.parametrize("way", DOWN)
def test_a_cluster_is_agreed_to_as_a_whole_and_another_of_its_name_is_not(
    way: str, nothing_there: None, session: Session, aws: Aws, sandbox: Sandbox
) -> None:
    first = group_of(sandbox, "gone", "u1")
    planned, do = DOWN[way]
    plan = planned(aws)
    seen_late, other = group_of(sandbox, "gone", "u1", "-again"), group_of(sandbox, "gone", "u2")
    removal = do(plan)
    assert {kind: set(ids) for kind, ids in removal.removed.items()} == {"security group": {first, seen_late}}
    assert removal.left == {other: "it came after the plan"}


def test_what_something_else_uses_is_planned_to_be_left(
    nothing_there: None, session: Session, aws: Aws, sandbox: Sandbox
) -> None:
    ec2, kept = sandbox.client("ec2"), allocate(sandbox)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.associate_address(AllocationId=kept, NetworkInterfaceId=interface)
    for plan, do in ((plan_sweep, sweep), (plan_destruction, destroy_account)):
        (left,) = plan(aws).left
        assert (left.action, left.resource_id, left.usd_per_hour) == ("keep", kept, 0.005)
        removal = do("team", "us-east-1")
        assert list(removal.left) == [kept]
        assert interface in removal.left[kept]
        assert "$0.0050 an hour" in removal.left[kept]


def test_what_fails_is_left_with_what_it_needs_and_the_rest_goes(
    nothing_there: None, session: Session, aws: Aws, sandbox: Sandbox
) -> None:
    ec2 = sandbox.client("ec2")

    def tagged(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": OURS}]

    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=tagged("vpc"))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/20", TagSpecifications=tagged("subnet"))
    subnet_id, address = subnet["Subnet"]["SubnetId"], allocate(sandbox)
    denied = {"service": "ec2", "action": "DeleteSubnet", "effect": "error", "status": 403}
    sandbox.faults([{**denied, "code": "UnauthorizedOperation"}])
    with pytest.raises(Exception, match="DeleteSubnet") as caught:
        destroy_account("team", "us-east-1")
    assert set(caught.value.left) == {subnet_id, vpc}  # type: ignore[attr-defined]
    assert address not in {a["AllocationId"] for a in ec2.describe_addresses()["Addresses"]}


def test_a_new_kind_is_one_row(
    nothing_there: None,
    session: Session,
    aws: Aws,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is listed, priced, swept with a dead cluster and by itself, and destroyed."""
    ec2 = sandbox.client("ec2")

    def delete(aws: Aws, items: list[dict[str, Any]]) -> None:
        for item in items:
            ec2.delete_key_pair(KeyName=item["KeyName"])

    row = Kind(
        name="key pair",
        find=lambda aws, scope: [k for k in ec2.describe_key_pairs()["KeyPairs"] if k["Tags"]],
        id_of=lambda item: str(item["KeyName"]),
        owner=lambda item: aws.number,
        usd=lambda item, prices: 0.25,
        of_clusters=True,
        waits_for=("intent",),
        surplus=lambda item, there, idle: "nobody has it" if idle and item["KeyName"] == "lost" else "",
        delete=delete,
    )
    monkeypatch.setitem(KINDS, "key pair", row)
    of_cluster = tags.to_aws(tags.account_tags("team", cluster="gone", cluster_uid="u1"))
    theirs = tags.to_aws(tags.account_tags("team-2"))
    for name, labels in (("lost", OURS), ("kept", OURS), ("dead", of_cluster), ("theirs", theirs)):
        specification = [{"ResourceType": "key-pair", "Tags": labels}]
        ec2.create_key_pair(KeyName=name, TagSpecifications=specification)

    listed = {r.resource_id: (r.kind, r.cluster, r.usd_per_hour) for r in take_inventory(aws)}
    assert listed == {
        "lost": ("key pair", "", 0.25),
        "kept": ("key pair", "", 0.25),
        "dead": ("key pair", "gone", 0.25),
    }
    plan = plan_sweep(aws)
    assert {c.resource_id: c.why for c in plan.todo} == {
        "dead": "cluster gone is gone",
        "lost": "nobody has it",
    }
    assert plan.saves == 0.5
    assert set(sweep("team", "us-east-1").removed["key pair"]) == {"dead", "lost"}
    assert plan_sweep(aws).todo == ()
    known = "/prefect-coiled/team/known"  # where the sweep said that nothing is known any more
    assert {c.resource_id for c in plan_destruction(aws).todo} == {"kept", known}
    assert destroy_account("team", "us-east-1").removed == {"key pair": ("kept",), "parameter": (known,)}
    assert [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]] == ["theirs"]
