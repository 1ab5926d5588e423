"""A network of one's own: what is fit for a cluster, what is refused, and what only a person can know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.own_network import check_own_network
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import Egress, NetworkIds

VPC, DOOR, INSIDE = "vpc-0123456789abcdef0", "sg-0123456789abcdef0", "sg-0123456789abcdef1"
PUBLIC, PRIVATE = "subnet-0123456789abcdef0", "subnet-0123456789abcdef1"
ALL = {"IpProtocol": "-1"}
ANYWHERE = {**ALL, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
MEMBERS = {**ALL, "UserIdGroupPairs": [{"GroupId": INSIDE}]}
Rules = list[dict[str, Any]]


class Door:
    """A door of AWS to one network, as far as it is looked at."""

    region = "us-east-1"

    def __init__(self, ways: dict[str, Rules] | None = None, tables: Rules | None = None) -> None:
        of_group: dict[str, Any] = {"IpPermissions": [MEMBERS], "IpPermissionsEgress": [ANYWHERE]}
        subnets = {PUBLIC: "10.9.0.0/24", PRIVATE: "10.9.1.0/24"}
        self.there: dict[str, dict[str, Any]] = {
            "Vpcs": {VPC: {"VpcId": VPC}},
            "Subnets": {
                one: {"VpcId": VPC, "SubnetId": one, "CidrBlock": block, "AvailabilityZone": "us-east-1a"}
                for one, block in subnets.items()
            },
            "SecurityGroups": {INSIDE: {"GroupId": INSIDE, "VpcId": VPC, **of_group, **(ways or {})}},
        }
        self.tables = tables or [table(PUBLIC, "igw-1"), table(PRIVATE, "nat-1")]

    def call(self, action: str, what: str, **asked: Any) -> dict[str, Any]:
        if action == "ec2:DescribeRouteTables":
            return {"RouteTables": self.tables}
        ((key, ids),) = asked.items()
        (kind,) = (k for k in self.there if k[:-1] in action)
        assert key in ("VpcIds", "SubnetIds", "GroupIds")
        return {kind: [self.there[kind][one] for one in ids]}

    def pages(self, action: str, what: str, key: str, **asked: Any) -> Iterator[dict[str, Any]]:
        return iter(())  # ACLs and name servers have tests of their own


def table(subnet: str, target: str, *blocks: str) -> dict[str, Any]:
    key = {"nat": "NatGatewayId", "eni": "NetworkInterfaceId"}.get(target[:3], "GatewayId")
    routes = [{"DestinationCidrBlock": b, key: target, "State": "active"} for b in blocks or ("0.0.0.0/0",)]
    return {"Associations": [{"SubnetId": subnet}], "Routes": routes}


def check(door: Door, *, public: bool = True, egress: Egress = "nat", group: str = INSIDE) -> str:
    """What is refused; empty where nothing is."""
    ids = NetworkIds(network_id=VPC, scheduler_subnet_id=PUBLIC, worker_subnet_id=PRIVATE, firewall_id=group)
    try:
        check_own_network(cast(Aws, door), ids, public_scheduler=public, egress=egress)
    except OptionsError as error:
        return str(error)
    return ""


# -- groups


def tcp(low: int, high: int, *blocks: str, **more: Any) -> dict[str, Any]:
    return {
        "IpProtocol": "tcp",
        "FromPort": low,
        "ToPort": high,
        "IpRanges": [{"CidrIp": b} for b in blocks],
        **more,
    }


BOTH = ("10.9.0.0/24", "10.9.1.0/24")
HTTPS = tcp(443, 443, "0.0.0.0/0")
AMONG = {
    "the group itself": [MEMBERS],
    "the network": [tcp(0, 65535, "10.9.0.0/16")],
    "everywhere": [ANYWHERE],
    "both subnets": [tcp(1024, 65535, *BOTH)],
    "one rule each": [tcp(1024, 65535, BOTH[0]), tcp(1024, 65535, BOTH[1])],
    "halves of one": [tcp(1024, 65535, BOTH[0], "10.9.1.0/25", "10.9.1.128/25")],
    "ports in two": [tcp(1024, 9000, *BOTH), tcp(9001, 65535, UserIdGroupPairs=[{"GroupId": INSIDE}])],
    "ports that overlap": [tcp(1, 9000, *BOTH), tcp(8000, 65535, *BOTH)],
}
APART = {
    "nothing": [],
    "one subnet": [tcp(1024, 65535, BOTH[0])],
    "half of one": [tcp(1024, 65535, BOTH[0], "10.9.1.0/25")],
    "a hole in the ports": [tcp(1024, 9000, *BOTH), tcp(9002, 65535, *BOTH)],
    "ports that end early": [tcp(1024, 65534, *BOTH)],
    "ports that begin late": [tcp(1025, 65535, *BOTH)],
    "another group": [tcp(1024, 65535, UserIdGroupPairs=[{"GroupId": DOOR}])],
    "UDP": [{**tcp(1024, 65535, *BOTH), "IpProtocol": "udp"}],
    "IPv6": [tcp(1024, 65535, Ipv6Ranges=[{"CidrIpv6": "::/0"}])],
}


@pytest.mark.parametrize("case", AMONG)
def test_groups_that_let_machines_at_each_other_are_taken(case: str) -> None:
    assert check(Door({"IpPermissions": AMONG[case]})) == ""
    assert check(Door({"IpPermissionsEgress": [*AMONG[case], HTTPS]})) == ""


@pytest.mark.parametrize("case", APART)
def test_groups_that_keep_machines_from_each_other_are_refused(case: str) -> None:
    inward = check(Door({"IpPermissions": APART[case]}))
    assert f"firewall_id {INSIDE} does not let its own members in at ports 1024-65535" in inward
    outward = check(Door({"IpPermissionsEgress": [*APART[case], HTTPS]}))
    assert f"firewall_id {INSIDE} does not let its own members out to each other at ports 1024" in outward


@pytest.mark.parametrize("key", ["IpPermissions", "IpPermissionsEgress"])
def test_a_prefix_list_among_machines_is_a_warning(key: str, caplog: pytest.LogCaptureFixture) -> None:
    listed = tcp(1024, 65535, PrefixListIds=[{"PrefixListId": "pl-1"}])
    assert check(Door({key: [listed, HTTPS]})) == ""
    assert "by a prefix list, which has to hold both subnets" in caplog.text


@pytest.mark.parametrize(
    ("rules", "egress", "refused"),
    [
        ([MEMBERS], "nat", False),  # all ports, to somewhere
        ([tcp(1024, 65535, *BOTH)], "nat", True),
        ([tcp(1024, 65535, *BOTH)], "public-ip", True),
        ([tcp(1024, 65535, *BOTH)], "none", False),
        ([tcp(1024, 65535, *BOTH), tcp(443, 443, "10.0.0.0/8")], "nat", False),
        ([tcp(443, 65535, *BOTH, PrefixListIds=[{"PrefixListId": "pl-1"}])], "nat", False),
    ],
)
def test_a_group_without_a_way_to_aws_is_refused_where_one_is_needed(
    rules: Rules, egress: Egress, refused: bool
) -> None:
    said = check(Door({"IpPermissionsEgress": rules}), egress=egress)
    assert ("lets nothing out to port 443" in said) == refused
    assert bool(said) == refused


def test_a_group_that_lets_nothing_out_is_refused_with_all_that_it_lacks() -> None:
    said = check(Door({"IpPermissionsEgress": []}))
    assert "does not let its own members out" in said
    assert "lets nothing out to port 443" in said


# -- routes


def of_gateway(appliance: str) -> dict[str, Any]:
    """The table of an internet gateway that sends what comes in through a firewall."""
    made = table(PUBLIC, appliance, "10.9.0.0/24")
    return {**made, "Associations": [{"GatewayId": "igw-1"}]}


HALVES = ("0.0.0.0/1", "128.0.0.0/1")


@pytest.mark.parametrize("appliance", ["vpce-1", "eni-1"])
def test_a_scheduler_behind_a_firewall_of_the_internet_gateway_is_reached(
    appliance: str, caplog: pytest.LogCaptureFixture
) -> None:
    tables = [table(PUBLIC, appliance), table(PRIVATE, appliance), of_gateway(appliance)]
    assert check(Door(tables=tables)) == ""
    assert caplog.text == ""


def test_a_scheduler_behind_an_endpoint_that_may_lead_elsewhere_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables = [table(PUBLIC, "vpce-1"), table(PRIVATE, "vpce-1")]
    assert check(Door(tables=tables), public=False) == ""
    assert caplog.text == ""
    assert check(Door(tables=tables)) == ""
    assert f"scheduler_subnet_id {PUBLIC} leads to vpce-1" in caplog.text


@pytest.mark.parametrize("target", ["nat-1", "eni-1", "tgw-1", "local"])
def test_a_scheduler_with_another_way_out_is_not_reached_from_outside(target: str) -> None:
    tables = [table(PUBLIC, target), table(PRIVATE, "nat-1")]
    assert "has no route to an internet gateway" in check(Door(tables=tables))


def test_a_firewall_of_the_gateway_lets_nobody_in_behind_a_nat_gateway() -> None:
    tables = [table(PUBLIC, "nat-1"), table(PRIVATE, "nat-1"), of_gateway("vpce-1")]
    assert "has no route to an internet gateway" in check(Door(tables=tables))


def test_block_public_access_closes_the_way_through_a_firewall_too() -> None:
    door = Door(tables=[table(PUBLIC, "vpce-1"), table(PRIVATE, "vpce-1"), of_gateway("vpce-1")])
    door.there["Subnets"][PUBLIC]["BlockPublicAccessStates"] = {"InternetGatewayBlockMode": "block-ingress"}
    assert f"scheduler_subnet_id {PUBLIC} is closed by VPC Block Public Access" in check(door)


def test_two_halves_are_a_default_route() -> None:
    assert check(Door(tables=[table(PUBLIC, "igw-1", *HALVES), table(PRIVATE, "nat-1", *HALVES)])) == ""


def test_a_half_is_none() -> None:
    half = Door(tables=[table(PUBLIC, "igw-1"), table(PRIVATE, "nat-1", HALVES[0])])
    assert f"worker_subnet_id {PRIVATE} has no way out" in check(half)
    dead = [table(PUBLIC, "igw-1"), table(PRIVATE, "nat-1", *HALVES)]
    dead[1]["Routes"][1]["State"] = "blackhole"
    assert f"worker_subnet_id {PRIVATE} has no way out" in check(Door(tables=dead))
