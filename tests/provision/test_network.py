"""Zones, firewall and networks of one's own, as provisioning deals with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.aws import security_groups
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError, OptionsError, ProvisionError, QuotaError
from prefect_coiled.options import IngressRule
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import (
    add_workers,
    change_ingress,
    create_cluster,
    delete_cluster,
    set_up_account,
)
from prefect_coiled.provision.clusters import find_cluster
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks.steps import Session

from .laid import Lay


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> None:
    sandbox.reset()
    sandbox.set(boot="none")


def lose_subnets(sandbox: Sandbox, zone: str) -> None:
    """Take a zone's subnets away, as if AWS had just opened the zone."""
    ec2 = sandbox.client("ec2")
    wanted = [{"Name": "availability-zone", "Values": [zone]}, {"Name": "tag:owner", "Values": ["coiled"]}]
    for subnet in ec2.describe_subnets(Filters=wanted)["Subnets"]:
        own = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
        for table in ec2.describe_route_tables(Filters=own)["RouteTables"]:
            for association in table["Associations"]:
                if association.get("SubnetId") == subnet["SubnetId"]:
                    ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])


def zones_of(sandbox: Sandbox) -> set[str]:
    wanted = [{"Name": "tag:owner", "Values": ["coiled"]}]
    found = sandbox.client("ec2").describe_subnets(Filters=wanted)["Subnets"]
    return {s["AvailabilityZone"] for s in found}


def deny(action: str) -> dict[str, Any]:
    message = f"User: arn:aws:iam::1:user/u is not authorized to perform: ec2:{action} on resource: *"
    return {
        "effect": "error",
        "action": action,
        "code": "UnauthorizedOperation",
        "status": 403,
        "message": message,
    }


# -- zones


@pytest.mark.long
def test_a_new_zone_is_picked_up_by_the_next_set_up(session: Session, sandbox: Sandbox) -> None:
    set_up_account("team", "us-east-1")
    lose_subnets(sandbox, "us-east-1c")
    assert "us-east-1c" not in zones_of(sandbox)
    record = set_up_account("team", "us-east-1")
    assert record.network is not None
    assert "us-east-1c" in zones_of(sandbox)


@pytest.mark.long
def test_a_cluster_in_a_zone_without_a_subnet_makes_that_one_alone(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec]
) -> None:
    set_up_account("team", "us-east-1")
    lose_subnets(sandbox, "us-east-1c")
    lose_subnets(sandbox, "us-east-1d")
    record = create_cluster(spec(zone="us-east-1c"))
    assert {record.scheduler.zone, *(w.zone for w in record.workers)} == {"us-east-1c"}
    assert "us-east-1d" not in zones_of(sandbox)


@pytest.mark.long
def test_a_zone_that_has_its_subnets_needs_nothing_of_the_others(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec]
) -> None:
    set_up_account("team", "us-east-1")
    lose_subnets(sandbox, "us-east-1c")
    sandbox.faults([deny("CreateSubnet")])
    record = create_cluster(spec(zone="us-east-1b"))
    assert record.scheduler.zone == "us-east-1b"


def test_without_the_permission_the_error_names_the_zone_and_those_that_work(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec]
) -> None:
    set_up_account("team", "us-east-1")
    lose_subnets(sandbox, "us-east-1c")
    sandbox.faults([deny("CreateSubnet")])
    with pytest.raises(AccessDeniedError) as caught:
        create_cluster(spec(zone="us-east-1c"))
    text = str(caught.value)
    assert text.startswith("starting in zone us-east-1c: it has no subnet, and none could be made")
    assert "not authorized to perform: ec2:CreateSubnet" in text
    assert "prefect-coiled policies setup --account team" in text
    assert "Or choose a zone that has one: us-east-1a, us-east-1b, us-east-1d" in text
    assert sandbox.instances() == {}


def test_a_zone_that_the_region_does_not_show_is_refused_before_anything_is_made(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec]
) -> None:
    with pytest.raises(
        OptionsError, match=r"zone 'us-east-1z': is none of AWS's in us-east-1\. There is: us-east-1a"
    ):
        create_cluster(spec(zone="us-east-1z"))
    assert sandbox.instances() == {}
    ec2 = sandbox.client("ec2")
    assert ec2.describe_nat_gateways()["NatGateways"] == [], "nothing that costs was made for it"
    assert ec2.describe_subnets(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Subnets"] == []


# -- firewall


def doors(sandbox: Sandbox, name: str) -> set[tuple[int, str]]:
    """What may reach the scheduler: ports and networks."""
    wanted = [
        {"Name": "tag:coiled-cluster", "Values": [name]},
        {"Name": "tag:coiled-role", "Values": ["scheduler"]},
    ]
    (group,) = sandbox.client("ec2").describe_security_groups(Filters=wanted)["SecurityGroups"]
    return {
        (rule["FromPort"], source)
        for rule in group["IpPermissions"]
        for source in (*(r["CidrIp"] for r in rule["IpRanges"]), *(r["CidrIpv6"] for r in rule["Ipv6Ranges"]))
    }


EVERYWHERE = "0.0.0.0/0"


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("keywords", "open_to"),
    [
        ({}, {(8786, EVERYWHERE), (8787, EVERYWHERE)}),
        ({"key_name": "mine"}, {(22, EVERYWHERE), (8786, EVERYWHERE), (8787, EVERYWHERE)}),
        ({"allow_ssh": True}, {(22, EVERYWHERE), (8786, EVERYWHERE), (8787, EVERYWHERE)}),
        ({"allow_ingress_from": "me"}, {(8786, "192.0.2.7/32"), (8787, "192.0.2.7/32")}),
        ({"backend_options": {"firewall": {"ports": [8786], "cidr": "10.0.0.0/8"}}}, {(8786, "10.0.0.0/8")}),
        (
            {
                "backend_options": {
                    "ingress": [{"ports": [8786], "cidr": "me"}, {"ports": [8787], "cidr": "2001:db8::/32"}]
                }
            },
            {(8786, "192.0.2.7/32"), (8787, "2001:db8::/32")},
        ),
        ({"backend_options": {"ingress": []}}, set()),
    ],
    ids=["default", "key", "ssh", "from-me", "firewall", "ingress-list", "closed"],
)
def test_the_scheduler_lets_in_what_the_options_say(
    session: Session,
    sandbox: Sandbox,
    spec: Callable[..., ClusterSpec],
    keywords: dict[str, Any],
    open_to: set[tuple[int, str]],
) -> None:
    sandbox.client("ec2").create_key_pair(KeyName="mine")
    create_cluster(spec(name="c", **keywords))
    assert doors(sandbox, "c") == open_to


def test_rules_change_while_the_cluster_runs_and_stay_changed(
    session: Session, aws: Aws, sandbox: Sandbox, spec: Callable[..., ClusterSpec]
) -> None:
    planned = spec()
    record = create_cluster(planned)
    change_ingress("team", "us-east-1", planned.name, [IngressRule(ports=(8786,), cidr="198.51.100.0/24")])
    assert doors(sandbox, planned.name) == {(8786, "198.51.100.0/24")}
    # Adding workers looks at the groups again: by what is written down now, whoever asks.
    found = find_cluster(aws, planned.name)
    assert found is not None
    add_workers(found[0], record, 1, "more")
    assert doors(sandbox, planned.name) == {(8786, "198.51.100.0/24")}
    change_ingress("team", "us-east-1", planned.name, [])
    assert doors(sandbox, planned.name) == set()


def test_a_door_that_somebody_closed_stays_closed_when_the_program_that_made_the_cluster_scales(
    session: Session, aws: Aws, sandbox: Sandbox, spec: Callable[..., ClusterSpec]
) -> None:
    planned = spec()
    record = create_cluster(planned)
    change_ingress("team", "us-east-1", planned.name, [IngressRule(ports=(8786,), cidr="198.51.100.0/24")])
    add_workers(planned, record, 1, "more")  # by the plan that it had in hand
    assert doors(sandbox, planned.name) == {(8786, "198.51.100.0/24")}


def test_a_change_that_aws_refuses_changes_nothing_and_keeps_no_worker_from_coming(
    session: Session, aws: Aws, sandbox: Sandbox, spec: Callable[..., ClusterSpec], lay: Lay
) -> None:
    planned = spec()
    record = create_cluster(planned)
    before = doors(sandbox, planned.name)

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        world = action == "ec2:AuthorizeSecurityGroupIngress" and "203.0.113.0/24" in str(asked)
        return ("UnauthorizedOperation", "The organisation forbids it.") if world else None

    lay(rule)
    with pytest.raises(AccessDeniedError):
        change_ingress("team", "us-east-1", planned.name, [IngressRule(ports=(8786,), cidr="203.0.113.0/24")])
    assert doors(sandbox, planned.name) == before
    assert add_workers(planned, record, 1, "more")
    assert doors(sandbox, planned.name) == before


@pytest.mark.parametrize("wanted", [2, 4, 5])
def test_rules_are_swapped_where_a_group_has_no_room_for_both(wanted: int) -> None:
    def rules(first: int, count: int) -> list[dict[str, Any]]:
        pairs = [{"CidrIp": f"198.51.{n}.0/24"} for n in range(first, first + count)]
        return [{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 2, "IpRanges": [pair]} for pair in pairs]

    def call(action: str, what: str, *, GroupId: str, IpPermissions: list[dict[str, Any]]) -> None:  # noqa: N803
        if "Revoke" in action:
            held[:] = [rule for rule in held if rule not in IpPermissions]
        elif len(held) + len(IpPermissions) > 4:
            raise QuotaError(what, "too many rules.", code="RulesPerSecurityGroupLimitExceeded")
        else:
            held.extend(IpPermissions)

    held = rules(0, 4)
    door: Any = SimpleNamespace(call=call, stop=threading.Event())
    change = partial(security_groups.change_rules, door, "c", "sg-1", rules(0, 4), rules(100, wanted))
    if wanted > 4:
        with pytest.raises(QuotaError):
            change()
        assert held == rules(0, 4), "what is refused leaves the group as it was"
    else:
        change()
        assert held == rules(100, wanted)


def test_of_two_changes_at_once_the_later_one_holds_alone(
    session: Session,
    aws: Aws,
    sandbox: Sandbox,
    spec: Callable[..., ClusterSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = spec()
    create_cluster(planned)
    mine, others = (IngressRule(ports=(8786,), cidr=f"198.51.{n}.0/24") for n in (100, 200))
    find, found = steps.find_security_groups, threading.Event()

    def meanwhile(*args: Any) -> Any:
        there = find(*args)
        if not found.is_set():  # the first has read the rules; the other changes them, to the end
            found.set()
            change_ingress("team", "us-east-1", planned.name, [others])
        return there

    monkeypatch.setattr(steps, "find_security_groups", meanwhile)
    change_ingress("team", "us-east-1", planned.name, [mine])
    assert doors(sandbox, planned.name) == {(8786, "198.51.200.0/24")}


def test_rules_of_a_cluster_that_is_not_there_are_not_changed(session: Session) -> None:
    with pytest.raises(ProvisionError, match="has no cluster of that name"):
        change_ingress("team", "us-east-1", "ghost", [])


# -- a network of one's own


@pytest.fixture
def own(sandbox: Sandbox) -> dict[str, Any]:
    """A VPC that somebody made: a public subnet, and one behind a NAT gateway."""
    ec2 = sandbox.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc_id)
    made = {}
    for n, name in enumerate(("public", "private")):
        subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone="us-east-1b")
        made[name] = subnet["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=made["public"], AllocationId=address)["NatGateway"]["NatGatewayId"]
    for name, target in (("public", {"GatewayId": gateway}), ("private", {"NatGatewayId": nat})):
        table = ec2.create_route_table(VpcId=vpc_id)["RouteTable"]["RouteTableId"]
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=EVERYWHERE, **target)
        ec2.associate_route_table(RouteTableId=table, SubnetId=made[name])
    return {
        "network_id": vpc_id,
        "scheduler_subnet_id": made["public"],
        "worker_subnet_id": made["private"],
    }


def looks(sandbox: Sandbox) -> dict[str, Any]:
    """What there is in EC2, but for machines, templates and the groups of clusters."""
    ec2 = sandbox.client("ec2")
    return {
        "vpcs": ec2.describe_vpcs()["Vpcs"],
        "subnets": sorted((s["SubnetId"], str(s.get("Tags"))) for s in ec2.describe_subnets()["Subnets"]),
        "tables": ec2.describe_route_tables()["RouteTables"],
        "groups": ec2.describe_security_groups()["SecurityGroups"],
        "nats": len(ec2.describe_nat_gateways()["NatGateways"]),
        "addresses": len(ec2.describe_addresses()["Addresses"]),
        "endpoints": ec2.describe_vpc_endpoints()["VpcEndpoints"],
    }


def test_a_cluster_runs_in_a_network_of_ones_own_which_stays_as_it_was(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec], own: dict[str, Any]
) -> None:
    before = looks(sandbox)
    planned = spec(name="c", backend_options={"network": own})
    record = create_cluster(planned)
    assert record.scheduler.subnet_id == own["scheduler_subnet_id"]
    assert {w.subnet_id for w in record.workers} == {own["worker_subnet_id"]}
    assert record.scheduler.zone == "us-east-1b"
    assert all(not w.public_ip for w in record.workers)
    add_workers(planned, record, 1, "more")
    delete_cluster("team", "us-east-1", "c")
    assert looks(sandbox) == before


@pytest.fixture
def shut(sandbox: Sandbox) -> dict[str, Any]:
    """A VPC that somebody made, whose one subnet has no way out."""
    ec2 = sandbox.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.7.0.0/24", AvailabilityZone="us-east-1b")
    return {"network_id": vpc_id, "scheduler_subnet_id": subnet["Subnet"]["SubnetId"]}


@pytest.mark.long
def test_without_egress_a_cluster_runs_in_subnets_that_have_no_way_out(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec], shut: dict[str, Any]
) -> None:
    before = looks(sandbox)
    options = {"network": shut, "egress": "none"}
    record = create_cluster(spec(name="c", use_scheduler_public_ip=False, backend_options=options))
    assert {one.subnet_id for one in (record.scheduler, *record.workers)} == {shut["scheduler_subnet_id"]}
    assert not any(one.public_ip for one in (record.scheduler, *record.workers))
    delete_cluster("team", "us-east-1", "c")
    assert looks(sandbox) == before


@pytest.mark.parametrize(
    ("public", "egress", "text"),
    [
        (True, "none", "no route to an internet gateway, and clients come by the public address"),
        (
            False,
            "nat",
            r"scheduler_subnet_id \S+ has no way out \(0.0.0.0/0\); egress='none' if none is needed",
        ),
    ],
)
def test_subnets_without_a_way_out_are_refused_where_one_is_needed(
    session: Session,
    spec: Callable[..., ClusterSpec],
    shut: dict[str, Any],
    public: bool,
    egress: str,
    text: str,
) -> None:
    options = {"network": shut, "egress": egress}
    with pytest.raises(OptionsError, match=text):
        create_cluster(spec(use_scheduler_public_ip=public, backend_options=options))


def test_ones_own_groups_are_used_and_never_changed(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec], own: dict[str, Any]
) -> None:
    ec2 = sandbox.client("ec2")
    ids = {}
    for name in ("door", "inside"):
        group = ec2.create_security_group(GroupName=name, Description=name, VpcId=own["network_id"])
        ids[name] = group["GroupId"]
    rule = {"IpProtocol": "tcp", "FromPort": 8786, "ToPort": 8787, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}
    ec2.authorize_security_group_ingress(GroupId=ids["door"], IpPermissions=[rule])
    among = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": ids["inside"]}]}
    ec2.authorize_security_group_ingress(GroupId=ids["inside"], IpPermissions=[among])
    before = looks(sandbox)
    network = {**own, "scheduler_firewall_id": ids["door"], "firewall_id": ids["inside"]}
    create_cluster(spec(name="c", backend_options={"network": network}))
    assert looks(sandbox) == before
    with pytest.raises(OptionsError, match="is your own, and is never changed"):
        change_ingress("team", "us-east-1", "c", [])
    delete_cluster("team", "us-east-1", "c")
    assert looks(sandbox) == before


def test_everything_that_is_wrong_with_a_network_is_told_at_once_before_anything_is_made(
    session: Session, sandbox: Sandbox, spec: Callable[..., ClusterSpec], own: dict[str, Any]
) -> None:
    ec2 = sandbox.client("ec2")
    elsewhere = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    foreign = ec2.create_security_group(GroupName="f", Description="f", VpcId=elsewhere)["GroupId"]
    lonely = ec2.create_security_group(GroupName="l", Description="l", VpcId=own["network_id"])["GroupId"]
    network = {
        **own,
        "scheduler_subnet_id": own["worker_subnet_id"],
        "worker_subnet_id": own["scheduler_subnet_id"],
        "scheduler_firewall_id": foreign,
        "firewall_id": lonely,
    }
    before = looks(sandbox)
    with pytest.raises(OptionsError) as caught:
        create_cluster(spec(backend_options={"network": network}))
    text = str(caught.value)
    assert "has no route to an internet gateway, and clients come by the public address" in text
    assert "leads to an internet gateway, through which only machines with public addresses get out" in text
    assert f"scheduler_firewall_id {foreign} is not in {own['network_id']}" in text
    assert f"firewall_id {lonely} does not let its own members in" in text
    assert looks(sandbox) == before
    assert sandbox.client("iam").list_roles()["Roles"] == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"network_id": "vpc-0123456789abcdef0"}, "there is no such VPC"),
        ({"worker_subnet_id": "subnet-0123456789abcdef0"}, "is not in vpc-"),
    ],
    ids=["vpc", "subnet"],
)
def test_parts_that_are_not_there_are_named(
    session: Session, spec: Callable[..., ClusterSpec], own: dict[str, Any], change: dict[str, str], text: str
) -> None:
    with pytest.raises(OptionsError, match=text):
        create_cluster(spec(backend_options={"network": {**own, **change}}))
