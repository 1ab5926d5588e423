"""Route tables and routes."""

from __future__ import annotations

import pytest

from .here import INVALID, MISSING, Case, Here, check, code_of, story

CASES: list[Case] = [
    (
        "ec2-route-target",
        "ec2",
        "create_route",
        lambda h: {"RouteTableId": h.table, "DestinationCidrBlock": "0.0.0.0/0"},
        MISSING,
        None,
    ),
    (
        "ec2-route-there",
        "ec2",
        "replace_route",
        lambda h: {"RouteTableId": h.table, "DestinationCidrBlock": "9.0.0.0/8", "GatewayId": h.gateway},
        INVALID,
        None,
    ),
    (
        "ec2-route-nat",
        "ec2",
        "create_route",
        lambda h: {
            "RouteTableId": h.table,
            "DestinationCidrBlock": "9.0.0.0/8",
            "NatGatewayId": "nat-00000000000000000",
        },
        "InvalidNatGatewayID.NotFound",
        None,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("ec2-main-table")
def test_the_main_route_table_goes_with_its_vpc_alone(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    (table,) = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
    assert code_of(ec2.delete_route_table, RouteTableId=table["RouteTableId"]) == "DependencyViolation"
    ec2.delete_vpc(VpcId=vpc)


@story("ec2-one-network")
def test_a_table_is_for_the_subnets_and_gateways_of_its_own_vpc(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.13.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.13.0.0/24")["Subnet"]["SubnetId"]
    own = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    assert code_of(ec2.associate_route_table, RouteTableId=here.table, SubnetId=subnet) == INVALID
    ec2.associate_route_table(RouteTableId=own, SubnetId=subnet)
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    made = ec2.create_nat_gateway(SubnetId=here.subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
    route = {"DestinationCidrBlock": "9.0.0.0/8", "NatGatewayId": made}
    assert code_of(ec2.create_route, RouteTableId=own, **route) == INVALID
    ec2.create_route(RouteTableId=here.table, **route)
