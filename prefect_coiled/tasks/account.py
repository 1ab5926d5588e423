"""Steps that set an account up in a region. Each finds first, and is a no-op when all is there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect_coiled.aws import (
    bucket,
    caller,
    ecr,
    iam_role,
    internet_gateway,
    leases,
    logs,
    nat_gateways,
    route_tables,
    s3_endpoint,
    spot_role,
    subnets,
    vpc,
    zones,
)
from prefect_coiled.aws.caller import Caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import set_up_lease
from prefect_coiled.plan.network import TIERS, SubnetPlan
from prefect_coiled.plan.policies import bucket_name
from prefect_coiled.records import AccountRecord, Network, Subnet
from prefect_coiled.tasks.steps import step


@step("find account", "look at account {aws.account}")
def find_account(
    aws: Aws,
    who: Caller,
    zone_names: tuple[str, ...],
    nat: bool,
    with_network: bool = True,
    with_repository: bool = True,
) -> AccountRecord | None:
    """What is already set up, or None if anything is missing. Reads only, side by side."""
    with ThreadPoolExecutor(5, thread_name_prefix="find") as pool:
        network = pool.submit(_look_at_network, aws, zone_names, nat) if with_network else None
        roles = pool.submit(_look_at_role, aws)
        group = pool.submit(logs.find_log_group, aws)
        name = bucket_name(aws.account, who.aws_account_id, aws.region)
        files = pool.submit(bucket.find_own_bucket, aws, name)
        images = pool.submit(_look_at_repository, aws) if with_repository else None
    if (network is not None and network.result() is None) or (images is not None and not images.result()):
        return None
    arns = roles.result()
    if arns is None or group.result() is None or not files.result():
        return None
    return account_record(
        aws,
        who,
        network.result() if network is not None else None,
        *arns,
        aws.account,
        images.result() if images is not None else "",
    )


def _look_at_network(aws: Aws, zone_names: tuple[str, ...], nat: bool) -> Network | None:
    found = vpc.find_vpcs(aws)
    if len(found) != 1:
        return None
    vpc_id = str(found[0]["VpcId"])
    if not vpc.has_names(aws, vpc_id):
        return None
    return _find_network(aws, vpc_id, str(found[0]["CidrBlock"]), zone_names, nat)


def _look_at_role(aws: Aws) -> tuple[str, str] | None:
    """The ARNs of role and instance profile."""
    role, profile = iam_role.find_role(aws), iam_role.find_instance_profile(aws)
    if role is None or profile is None or not profile.get("Roles"):
        return None
    # What an earlier version of this library wrote is written anew.
    arns = str(role["Arn"]), str(profile["Arn"])
    return arns if iam_role.has_policy(aws, arns[0]) else None


def _look_at_repository(aws: Aws) -> str:
    """The repository's URI; empty if it is not there, or not whole."""
    repository = ecr.find_repository(aws)
    return str(repository["repositoryUri"]) if repository is not None and ecr.is_complete(aws) else ""


def account_record(
    aws: Aws,
    who: Caller,
    network: Network | None,
    role_arn: str,
    profile_arn: str,
    log_group: str,
    repository: str = "",
) -> AccountRecord:
    """Put the parts together."""
    return AccountRecord(
        account=aws.account,
        region=aws.region,
        aws_account_id=who.aws_account_id,
        creator=who.name,
        network=network,
        role_arn=role_arn,
        instance_profile_arn=profile_arn,
        log_group=log_group,
        repository=repository,
    )


def _find_network(aws: Aws, vpc_id: str, cidr: str, zone_names: tuple[str, ...], nat: bool) -> Network | None:
    there = subnets.find_subnets(aws, vpc_id)
    if not {(z, t) for z in zone_names for t in TIERS} <= {(s.zone, s.tier) for s in there}:
        return None
    gateways = [
        g
        for g in internet_gateway.find_internet_gateways(aws)
        if any(a["VpcId"] == vpc_id for a in g.get("Attachments", ()))
    ]
    tables = route_tables.find_route_tables(aws, vpc_id)
    endpoints = s3_endpoint.find_s3_endpoints(aws, vpc_id)
    if not gateways or not endpoints or not {route_tables.PUBLIC, *zone_names} <= set(tables):
        return None
    nats = nat_gateways.find_nat_gateways(aws, ["available"])
    if nat and not nats:
        return None
    wanted = {route_tables.PUBLIC, *(zone_names if nat else ())}
    if not all(_is_complete(tables[place], place, there) for place in wanted):
        return None
    return network_record(
        vpc_id,
        cidr,
        there,
        str(gateways[0]["InternetGatewayId"]),
        tables,
        str(endpoints[0]["VpcEndpointId"]),
        nats,
    )


def _is_complete(table: dict[str, Any], place: str, there: tuple[Subnet, ...]) -> bool:
    mine = {s.subnet_id for s in there if _belongs(s, place)}
    associated = {a.get("SubnetId") for a in table.get("Associations", ())}
    default = [r for r in table.get("Routes", ()) if r.get("DestinationCidrBlock") == route_tables.EVERYWHERE]
    return mine <= associated and any(r.get("State") != "blackhole" for r in default)


def _belongs(subnet: Subnet, place: str) -> bool:
    return (
        subnet.tier == "public"
        if place == route_tables.PUBLIC
        else (subnet.tier, subnet.zone) == ("private", place)
    )


def network_record(
    vpc_id: str,
    cidr: str,
    there: tuple[Subnet, ...],
    gateway_id: str,
    tables: dict[str, dict[str, Any]],
    endpoint_id: str,
    nats: dict[str, Any],
) -> Network:
    """Put the parts of the network together."""
    return Network(
        vpc_id=vpc_id,
        cidr=cidr,
        subnets=there,
        internet_gateway_id=gateway_id,
        public_route_table_id=str(tables[route_tables.PUBLIC]["RouteTableId"]),
        private_route_tables={
            z: str(t["RouteTableId"]) for z, t in tables.items() if z != route_tables.PUBLIC
        },
        s3_endpoint_id=endpoint_id,
        nat_gateways={zone: str(nat["NatGatewayId"]) for zone, nat in nats.items()},
    )


@step("look at lease")
def is_held(aws: Aws) -> bool:
    """Whether somebody makes or removes what the account's clusters share."""
    return leases.is_held(aws, set_up_lease(aws.account))


@step("check credentials")
def check_credentials(aws: Aws) -> Caller:
    """Who the credentials belong to."""
    return caller.find_caller(aws)


@step("list zones", "zones of {aws.region}")
def list_zones(aws: Aws) -> tuple[str, ...]:
    """The region's availability zones."""
    return zones.find_zones(aws)


@step("network", "network {aws.region}")
def ensure_vpc(aws: Aws, cidr: str) -> tuple[str, str]:
    """The VPC's id and block."""
    found = vpc.ensure_vpc(aws, cidr)
    return str(found["VpcId"]), str(found["CidrBlock"])


@step("find subnets")
def find_subnets(aws: Aws, vpc_id: str) -> tuple[Subnet, ...]:
    """The subnets there are."""
    return subnets.find_subnets(aws, vpc_id)


@step("subnet", "subnet {plan.tier} {plan.zone}")
def ensure_subnet(aws: Aws, vpc_id: str, plan: SubnetPlan) -> Subnet:
    """One subnet; an earlier attempt may have made it already."""
    for subnet in subnets.find_subnets(aws, vpc_id):
        if (subnet.zone, subnet.tier) == (plan.zone, plan.tier):
            return subnet
    return subnets.create_subnet(aws, vpc_id, plan)


@step("internet gateway")
def ensure_internet_gateway(aws: Aws, vpc_id: str) -> str:
    """The internet gateway's id."""
    return internet_gateway.ensure_internet_gateway(aws, vpc_id)


@step("route table", "route table {place}")
def ensure_route_table(aws: Aws, vpc_id: str, place: str, there: tuple[Subnet, ...]) -> dict[str, Any]:
    """A route table with its subnets."""
    table = route_tables.ensure_route_table(aws, vpc_id, place, route_tables.find_route_tables(aws, vpc_id))
    route_tables.ensure_associations(aws, table, [s.subnet_id for s in there if _belongs(s, place)])
    return table


@step("default route", "default route {place}")
def ensure_default_route(aws: Aws, place: str, table: dict[str, Any], target: dict[str, str]) -> None:
    """0.0.0.0/0 of a route table."""
    route_tables.ensure_default_route(aws, table, **target)


@step("S3 endpoint")
def ensure_s3_endpoint(aws: Aws, vpc_id: str, table_ids: list[str]) -> str:
    """The S3 gateway endpoint's id."""
    return s3_endpoint.ensure_s3_endpoint(aws, vpc_id, table_ids)


@step("NAT gateway", "NAT gateway {zone}")
def ensure_nat_gateway(aws: Aws, zone: str, public_subnet_id: str) -> tuple[str, str]:
    """A NAT gateway: the one there is in any zone, else a new one in `zone`. Returns (zone, id)."""
    live = nat_gateways.find_nat_gateways(aws)
    where = zone if zone in live or not live else next(iter(sorted(live)))
    return where, nat_gateways.ensure_nat_gateway(aws, where, public_subnet_id)


@step("IAM role", "IAM role {aws.account}")
def ensure_role(aws: Aws) -> str:
    """The role's ARN."""
    return iam_role.ensure_role(aws)


@step("instance profile")
def ensure_instance_profile(aws: Aws) -> str:
    """The instance profile's ARN; it holds the role."""
    return iam_role.ensure_instance_profile(aws)


@step("find role")
def is_new(aws: Aws) -> bool:
    """Whether the account has no role yet, in whatever region."""
    return iam_role.find_role(aws) is None


@step("role of spot machines")
def ensure_spot_role(aws: Aws) -> bool:
    """Whether the role is there that spot machines need; an account without them does without it."""
    return spot_role.ensure_spot_role(aws)


@step("bucket")
def ensure_bucket(aws: Aws, aws_account_id: str) -> str:
    """The bucket's name."""
    return bucket.ensure_bucket(aws, aws_account_id)


@step("repository", "repository {aws.account}")
def ensure_repository(aws: Aws) -> str:
    """The URI of the repository of container images."""
    return ecr.ensure_repository(aws)


@step("log group", "log group {aws.account}")
def ensure_log_group(aws: Aws) -> str:
    """The log group's name."""
    return logs.ensure_log_group(aws)
