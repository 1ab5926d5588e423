"""VPCs, subnets, gateways and endpoints."""

from __future__ import annotations

import pytest

from .here import COMBINATION, INVALID, MISSING, Case, Here, check, code_of, permission, story

CASES: list[Case] = [
    ("ec2-block", "ec2", "create_vpc", lambda h: {"CidrBlock": "10.0.0.0"}, INVALID, None),
    ("ec2-vpc-block", "ec2", "create_vpc", lambda h: {"CidrBlock": "10.0.0.0/8"}, "InvalidVpc.Range", None),
    (
        "ec2-subnet-block",
        "ec2",
        "create_subnet",
        lambda h: {"VpcId": h.vpc, "CidrBlock": "10.1.0.0/24"},
        "InvalidSubnet.Range",
        None,
    ),
    (
        "ec2-subnet-block",
        "ec2",
        "create_subnet",
        lambda h: {"VpcId": h.vpc, "CidrBlock": "10.0.0.0/24"},
        "InvalidSubnet.Conflict",
        None,
    ),
    (
        "ec2-subnet-size",
        "ec2",
        "create_subnet",
        lambda h: {"VpcId": h.vpc, "CidrBlock": "10.0.96.0/29"},
        "InvalidSubnet.Range",
        lambda h: {"VpcId": h.vpc, "CidrBlock": "10.0.96.0/28"},
    ),
    (
        "ec2-vpc-attribute",
        "ec2",
        "modify_vpc_attribute",
        lambda h: {
            "VpcId": h.vpc,
            "EnableDnsSupport": {"Value": True},
            "EnableDnsHostnames": {"Value": True},
        },
        COMBINATION,
        lambda h: {"VpcId": h.vpc, "EnableDnsSupport": {"Value": True}},
    ),
    (
        "ec2-endpoint-parts",
        "ec2",
        "create_vpc_endpoint",
        lambda h: {"VpcId": h.vpc, "ServiceName": "com.amazonaws.us-east-1.s3", "SubnetIds": [h.subnet]},
        "InvalidParameter",
        None,
    ),
    (
        "ec2-endpoint-service",
        "ec2",
        "create_vpc_endpoint",
        lambda h: {"VpcId": h.vpc, "ServiceName": "com.amazonaws.eu-west-1.s3"},
        "InvalidServiceName",
        None,
    ),
    ("ec2-nat-address", "ec2", "create_nat_gateway", lambda h: {"SubnetId": h.subnet}, MISSING, None),
    ("ec2-released-address", "ec2", "release_address", lambda h: {}, MISSING, None),
    (
        "ec2-gateway-once",
        "ec2",
        "attach_internet_gateway",
        lambda h: {"InternetGatewayId": h.gateway, "VpcId": h.vpc},
        "Resource.AlreadyAssociated",
        None,
    ),
    (
        "ec2-nat-there",
        "ec2",
        "describe_nat_gateways",
        lambda h: {"NatGatewayIds": ["nat-12345678"]},
        "NatGatewayNotFound",
        None,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)])
def test_a_call_that_breaks_the_rule_is_refused_with_the_code_of_aws(here: Here, case: Case) -> None:
    check(here, case)


@story("ec2-dependencies", "ec2-permission-once", "ec2-subnet-table", "ec2-route-gateway", "ec2-route-once")
def test_what_hangs_together_stays(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.3.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.3.0.0/24")["Subnet"]["SubnetId"]
    tables = [ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"] for _ in range(2)]
    ec2.associate_route_table(RouteTableId=tables[0], SubnetId=subnet)
    assert code_of(ec2.delete_vpc, VpcId=vpc) == "DependencyViolation"
    assert code_of(ec2.delete_route_table, RouteTableId=tables[0]) == "DependencyViolation"
    twice = {"RouteTableId": tables[1], "SubnetId": subnet}
    assert code_of(ec2.associate_route_table, **twice) == "Resource.AlreadyAssociated"
    route = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": here.gateway}
    assert code_of(ec2.create_route, RouteTableId=tables[0], **route) == INVALID
    ec2.create_route(RouteTableId=here.table, **route)
    assert code_of(ec2.create_route, RouteTableId=here.table, **route) == "RouteAlreadyExists"
    group = here.add_group("twice")
    ec2.authorize_security_group_ingress(GroupId=group, **permission())
    again = {"GroupId": group, **permission()}
    assert code_of(ec2.authorize_security_group_ingress, **again) == "InvalidPermission.Duplicate"


@story("ec2-nat-failed", "ec2-address-in-use")
def test_a_nat_gateway_that_cannot_work_fails_and_says_why(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.4.0.0/16")["Vpc"]["VpcId"]
    island = ec2.create_subnet(VpcId=vpc, CidrBlock="10.4.0.0/24")["Subnet"]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]

    def made(subnet: str) -> tuple[str, str | None]:
        name = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
        seen = ec2.describe_nat_gateways(NatGatewayIds=[name])["NatGateways"][0]
        return seen["State"], seen.get("FailureCode")

    assert made(island) == ("failed", "Gateway.NotAttached")
    assert made(here.subnet) == ("available", None)
    assert made(here.subnet) == ("failed", "Resource.AlreadyAssociated")
    assert code_of(ec2.release_address, AllocationId=address) == "InvalidIPAddress.InUse"


@story("ec2-vpc-names")
def test_a_vpc_that_answers_no_dns_gives_no_names(here: Here) -> None:
    ec2 = here.of("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.12.0.0/16")["Vpc"]["VpcId"]
    names = {"VpcId": vpc, "EnableDnsHostnames": {"Value": True}}
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsSupport={"Value": False})
    assert code_of(ec2.modify_vpc_attribute, **names) == COMBINATION
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsSupport={"Value": True})
    ec2.modify_vpc_attribute(**names)


@story("ec2-terminate-all-or-none")
def test_one_instance_that_stays_keeps_those_of_its_zone(here: Here) -> None:
    ec2 = here.of("ec2")
    made = ec2.create_subnet(VpcId=here.vpc, CidrBlock="10.0.80.0/24", AvailabilityZone="us-east-1b")
    elsewhere = here.run(SubnetId=made["Subnet"]["SubnetId"])
    kept, beside = here.run(MinCount=2, MaxCount=2)

    def alive() -> set[str]:
        shown = ec2.describe_instances(InstanceIds=[kept, beside, *elsewhere])["Reservations"]
        return {i["InstanceId"] for r in shown for i in r["Instances"] if i["State"]["Name"] != "terminated"}

    unknown = ["i-00000000000000000", kept]
    assert code_of(ec2.terminate_instances, InstanceIds=unknown) == "InvalidInstanceID.NotFound"
    assert alive() == {kept, beside, *elsewhere}
    ec2.modify_instance_attribute(InstanceId=kept, DisableApiTermination={"Value": True})
    together = [beside, kept, *elsewhere]
    assert code_of(ec2.terminate_instances, InstanceIds=together) == "OperationNotPermitted"
    assert alive() == {kept, beside}
    ec2.modify_instance_attribute(InstanceId=kept, DisableApiTermination={"Value": False})
    ec2.terminate_instances(InstanceIds=together)
