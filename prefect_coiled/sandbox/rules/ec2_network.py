"""EC2's rules for VPCs, subnets, gateways and endpoints; those of routes are in `ec2_routes`."""

from __future__ import annotations

import ipaddress
import re

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__ = ["is_block"]

_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"

kept(
    "vpc-block",
    "ec2",
    "CreateVpc",
    "InvalidVpc.Range",
    "A VPC's block is between /16 and /28.",
    _API.format("CreateVpc"),
)
kept(
    "subnet-block",
    "ec2",
    "CreateSubnet",
    "InvalidSubnet.Range, InvalidSubnet.Conflict",
    "A subnet's block is in its VPC's, and meets no other one.",
    _API.format("CreateSubnet"),
)
kept(
    "dependencies",
    "ec2",
    "DeleteVpc DeleteSubnet DeleteSecurityGroup DetachInternetGateway DeleteInternetGateway DeleteRouteTable",
    "DependencyViolation",
    "What something else depends on is not deleted.",
    _ERRORS,
)
kept(
    "terminate-all-or-none",
    "ec2",
    "TerminateInstances",
    "InvalidInstanceID.NotFound, OperationNotPermitted",
    "One unknown id keeps all instances of a call; one that is protected keeps those in its zone.",
    _API.format("TerminateInstances"),
)
kept(
    "address-in-use",
    "ec2",
    "ReleaseAddress",
    "InvalidIPAddress.InUse",
    "An address in use is not released.",
    _API.format("ReleaseAddress"),
)
kept(
    "gateway-once",
    "ec2",
    "AttachInternetGateway",
    "Resource.AlreadyAssociated",
    "A VPC has one internet gateway, a gateway one VPC.",
    _API.format("AttachInternetGateway"),
)
kept(
    "nat-failed",
    "ec2",
    "CreateNatGateway",
    "Gateway.NotAttached, Resource.AlreadyAssociated",
    "A NAT gateway fails after a while where its VPC has no internet gateway, or its address is in use.",
    "https://docs.aws.amazon.com/vpc/latest/userguide/nat-gateway-troubleshooting.html",
)
kept(
    "instance-state",
    "ec2",
    "StartInstances StopInstances RebootInstances",
    "IncorrectInstanceState",
    "A terminated instance is not started, stopped or rebooted.",
    _ERRORS,
)


def is_block(text: str) -> bool:
    """Whether it is a CIDR block, of either version."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "/" in text


@rule(
    "ec2",
    "CreateVpc CreateSubnet CreateRoute ReplaceRoute",
    "InvalidParameterValue",
    "A block is a CIDR block.",
    _API.format("CreateVpc"),
)
def block(asked: Asked) -> str | None:
    for name in ("CidrBlock", "DestinationCidrBlock"):
        value = asked.get(name)
        if value and not is_block(value):
            return f"Value ({value}) for parameter cidrBlock is invalid. This is not a valid CIDR block."
    return None


@rule(
    "ec2",
    "ModifyVpcAttribute",
    "InvalidParameterCombination",
    "A call changes one attribute of a VPC.",
    _API.format("ModifyVpcAttribute"),
)
def vpc_attribute(asked: Asked) -> Refusal | str | None:
    names = ("EnableDnsHostnames", "EnableDnsSupport", "EnableNetworkAddressUsageMetrics")
    given = [name for name in names if asked.get(name) is not None]
    if not given:
        return Refusal("MissingParameter", "The request must contain one attribute of the VPC.")
    return f"Fields for multiple attribute types specified: {', '.join(given)}" if len(given) > 1 else None


@rule(
    "ec2",
    "ModifyVpcAttribute",
    "InvalidParameterCombination",
    "A VPC gives DNS names only where it answers DNS.",
    _API.format("ModifyVpcAttribute"),
    needs="account",
)
def vpc_names(asked: Asked, account: Account) -> str | None:
    vpc = account.ec2.vpcs.get(asked.get("VpcId"))
    if vpc is None or vpc.enable_dns_support or not asked.get("EnableDnsHostnames", "Value"):
        return None
    return "DNS hostnames need DNS support."


@rule(
    "ec2",
    "CreateSubnet",
    "InvalidSubnet.Range",
    "A subnet's block is between /16 and /28.",
    _API.format("CreateSubnet"),
)
def subnet_size(asked: Asked) -> str | None:
    block = str(asked.get("CidrBlock") or "")
    if not is_block(block) or 16 <= ipaddress.ip_network(block, strict=False).prefixlen <= 28:
        return None
    return f"The CIDR '{block}' is invalid."


@rule(
    "ec2",
    "CreateVpcEndpoint",
    "InvalidParameter",
    "Gateway endpoints have route tables; the others subnets.",
    _API.format("CreateVpcEndpoint"),
)
def endpoint_parts(asked: Asked) -> str | None:
    gateway = asked.get("VpcEndpointType") in (None, "Gateway")
    wrong = ("SubnetIds", "SecurityGroupIds") if gateway else ("RouteTableIds",)
    kind = "Gateway" if gateway else asked.get("VpcEndpointType")
    for name in wrong:
        if asked.get(name):
            return f"Endpoint type ({kind}) does not take {name}."
    return None


@rule(
    "ec2",
    "CreateVpcEndpoint",
    "InvalidServiceName",
    "The service is one of the region's.",
    _API.format("CreateVpcEndpoint"),
)
def endpoint_service(asked: Asked) -> str | None:
    name = str(asked.get("ServiceName") or "")
    own = re.fullmatch(
        rf"(?:com|cn\.com|aws\.api|aws\.sagemaker)\.?(?:amazonaws)?\.{asked.region}\.[\w.\-]+", name
    )
    if not name or own or name.startswith(("com.amazonaws.vpce.", "com.amazonaws.s3-global")):
        return None
    return f"The Vpc Endpoint Service '{name}' does not exist"


@rule(
    "ec2",
    "CreateNatGateway",
    "MissingParameter",
    "A public NAT gateway has an address, a private one none.",
    _API.format("CreateNatGateway"),
)
def nat_address(asked: Asked) -> Refusal | str | None:
    public = asked.get("ConnectivityType") in (None, "public")
    given = asked.get("AllocationId") or asked.get("AvailabilityMode") == "regional"
    if public and not given:
        return (
            "The request must include the AllocationId parameter. Add the required parameter and retry "
            "the request."
        )
    if not public and asked.get("AllocationId"):
        message = "The AllocationId parameter is not valid for a private NAT gateway."
        return Refusal("InvalidParameterCombination", message)
    return None


@rule(
    "ec2",
    "ReleaseAddress",
    "MissingParameter",
    "An address is released by its allocation id or itself.",
    _API.format("ReleaseAddress"),
)
def released_address(asked: Asked) -> str | None:
    if asked.get("AllocationId") or asked.get("PublicIp"):
        return None
    return "Either public IP or allocation id must be specified"


@rule(
    "ec2",
    "DescribeNatGateways",
    "NatGatewayNotFound",
    "The NAT gateways that are named are there.",
    _API.format("DescribeNatGateways"),
    needs="account",
)
def nat_there(asked: Asked, account: Account) -> str | None:
    for one in asked.all("NatGatewayIds"):
        if one not in account.ec2.nat_gateways:
            return f"The Nat Gateway {one} was not found"
    return None
