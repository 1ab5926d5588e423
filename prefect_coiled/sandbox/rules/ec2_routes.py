"""EC2's rules for route tables and routes."""

from __future__ import annotations

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"

kept(
    "route-once",
    "ec2",
    "CreateRoute",
    "RouteAlreadyExists",
    "A destination is there once in a route table.",
    _API.format("CreateRoute"),
)
kept(
    "route-there",
    "ec2",
    "ReplaceRoute",
    "InvalidParameterValue",
    "A route that is replaced is there.",
    _API.format("ReplaceRoute"),
)


@rule(
    "ec2",
    "DeleteRouteTable",
    "DependencyViolation",
    "A VPC's main route table goes with the VPC.",
    _API.format("DeleteRouteTable"),
    needs="account",
)
def main_table(asked: Asked, account: Account) -> str | None:
    table = account.ec2.route_tables.get(asked.get("RouteTableId"))
    if table is None or table.main_association_id is None:
        return None
    return f"The routeTable '{table.id}' has dependencies and cannot be deleted."


_TARGETS = (
    "GatewayId",
    "NatGatewayId",
    "InstanceId",
    "NetworkInterfaceId",
    "VpcPeeringConnectionId",
    "EgressOnlyInternetGatewayId",
    "TransitGatewayId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "VpcEndpointId",
    "CoreNetworkArn",
)
_DESTINATIONS = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")


@rule(
    "ec2",
    "CreateRoute ReplaceRoute",
    "InvalidParameterCombination",
    "A route has one destination and one target.",
    _API.format("CreateRoute"),
)
def route_target(asked: Asked) -> Refusal | str | None:
    for names, what in ((_DESTINATIONS, "destination"), (_TARGETS, "target")):
        given = [name for name in names if asked.get(name)]
        local = asked.action == "ReplaceRoute" and what == "target" and asked.get("LocalTarget")
        if not given and not local:
            return Refusal("MissingParameter", f"The request must contain exactly one {what} of the route.")
        if len(given) > 1:
            return f"The request must contain exactly one {what} of the route, and has {', '.join(given)}."
    return None


@rule(
    "ec2",
    "CreateRoute ReplaceRoute",
    "InvalidParameterValue",
    "A route leads to an internet gateway of its own VPC.",
    _ERRORS,
    needs="account",
)
def route_gateway(asked: Asked, account: Account) -> str | None:
    gateway = account.ec2.internet_gateways.get(asked.get("GatewayId"))
    table = account.ec2.route_tables.get(asked.get("RouteTableId"))
    if gateway is None or table is None or (gateway.vpc and gateway.vpc.id == table.vpc_id):
        return None
    return f"route table {table.id} and network gateway {gateway.id} belong to different networks"


@rule(
    "ec2",
    "AssociateRouteTable",
    "Resource.AlreadyAssociated",
    "A subnet has one route table.",
    _API.format("AssociateRouteTable"),
    needs="account",
)
def subnet_table(asked: Asked, account: Account) -> str | None:
    subnet = asked.get("SubnetId")
    for table in account.ec2.route_tables.values():
        if subnet and subnet in table._associations.values() and table.id != asked.get("RouteTableId"):
            return (
                f"the specified association for route table {table.id} conflicts with an existing association"
            )
    return None


@rule(
    "ec2",
    "CreateRoute ReplaceRoute",
    "InvalidNatGatewayID.NotFound",
    "A NAT gateway that a route leads to is there.",
    "https://docs.aws.amazon.com/ec2/latest/devguide/errors-overview.html",
    needs="account",
)
def route_nat(asked: Asked, account: Account) -> Refusal | str | None:
    name = asked.get("NatGatewayId")
    gateway = account.ec2.nat_gateways.get(name)
    if name and gateway is None:
        return f"The natGateway ID '{name}' does not exist"
    table = account.ec2.route_tables.get(asked.get("RouteTableId"))
    if gateway is None or table is None or gateway.vpc_id == table.vpc_id:
        return None
    return Refusal(
        "InvalidParameterValue", f"route table {table.id} and NAT gateway {name} belong to different networks"
    )


@rule(
    "ec2",
    "AssociateRouteTable",
    "InvalidParameterValue",
    "A subnet and its route table are of one VPC.",
    _API.format("AssociateRouteTable"),
    needs="account",
)
def one_network(asked: Asked, account: Account) -> str | None:
    table = account.ec2.route_tables.get(asked.get("RouteTableId"))
    of_zones = account.ec2.subnets.values()
    subnet = next((s[asked.get("SubnetId")] for s in of_zones if asked.get("SubnetId") in s), None)
    if table is None or subnet is None or subnet.vpc_id == table.vpc_id:
        return None
    return f"route table {table.id} and subnet {subnet.id} belong to different networks"
