"""A network of the user's own: checked before anything is made, and never changed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.network_rules import closed_ways
from prefect_coiled.aws.subnets import blocked
from prefect_coiled.errors import NotFoundError, OptionsError
from prefect_coiled.options import Egress, NetworkIds
from prefect_coiled.plan.own_groups import Finding, clients_problems, inside_problems
from prefect_coiled.records import OwnNetwork

logger = logging.getLogger(__name__)

_EVERYWHERE = "0.0.0.0/0"
_HALVES = ("0.0.0.0/1", "128.0.0.0/1")
# What a route may lead to that is a way out. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Route.html
_LEADS_TO = (
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "CoreNetworkArn",
    "LocalGatewayId",
    "CarrierGatewayId",
    "InstanceId",
    "NetworkInterfaceId",
)
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/dedicated-instance.html
_DEDICATED = (
    "VPC %s has dedicated tenancy: each machine is a dedicated instance, which some types cannot be, and AWS "
    "takes 2 US dollars an hour for the region besides. A VPC of default tenancy costs less."
)
# https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html
_BPA = "VPC Block Public Access: exclude it (VPC console > Settings), or turn that off"


def check_own_network(
    aws: Aws, ids: NetworkIds, *, public_scheduler: bool, egress: Egress, port: int = 8786
) -> OwnNetwork:
    """See that a network is fit for a cluster. Reads only.

    Args:
        public_scheduler: Whether clients come by the scheduler's public address.
        egress: With "none", machines need no way out; a public scheduler needs that of its clients.

    Returns:
        The zones of the two subnets.

    Raises:
        OptionsError: With everything that is wrong, so that it can be mended at once.
    """
    vpcs = _described(aws, "ec2:DescribeVpcs", "Vpcs", VpcIds=[ids.network_id])
    if not vpcs:
        raise OptionsError(
            f"network.network_id {ids.network_id!r}",
            f"there is no such VPC in {aws.region}.",
            "Give the id of a VPC of that region.",
        )
    subnets: dict[str, dict[str, Any]] = {}
    findings: list[Finding] = []
    wanted = {
        "scheduler_subnet_id": ids.scheduler_subnet_id,
        "worker_subnet_id": ids.effective_worker_subnet_id,
    }
    for name, subnet_id in wanted.items():
        found = _described(aws, "ec2:DescribeSubnets", "Subnets", SubnetIds=[subnet_id])
        if not found or found[0]["VpcId"] != ids.network_id:
            findings.append(Finding(f"{name} {subnet_id} is not in {ids.network_id}"))
        elif found[0].get("Ipv6Native"):
            words = f"{name} {subnet_id} has IPv6 addresses only, and machines come by IPv4"
            findings.append(Finding(words))
        else:
            subnets[name] = found[0]
    blocks: list[str] = []
    if len(subnets) == 2:
        shut = {name: blocked(subnet) for name, subnet in subnets.items()}
        findings += _routes(aws, ids, public_scheduler, egress, shut)
        findings += map(Finding, closed_ways(aws, vpcs[0], wanted.values(), port))
        blocks = [str(subnet["CidrBlock"]) for subnet in subnets.values()]
    findings += _groups(aws, ids, blocks, egress, port)
    if problems := [one.text for one in findings if one.certain]:
        raise OptionsError("network", f"{'; '.join(dict.fromkeys(problems))}.", "Mend it, or give other ids.")
    for one in findings:
        logger.warning("Own network: %s.", one.text)
    dedicated = vpcs[0].get("InstanceTenancy") == "dedicated"
    if dedicated:
        logger.warning(_DEDICATED, ids.network_id)
    return OwnNetwork(
        scheduler_zone=subnets["scheduler_subnet_id"]["AvailabilityZone"],
        worker_zone=subnets["worker_subnet_id"]["AvailabilityZone"],
        dedicated=dedicated,
    )


def _routes(
    aws: Aws, ids: NetworkIds, public_scheduler: bool, egress: Egress, shut: dict[str, str]
) -> Iterator[Finding]:
    tables = _described(
        aws,
        "ec2:DescribeRouteTables",
        "RouteTables",
        Filters=[{"Name": "vpc-id", "Values": [ids.network_id]}],
    )
    way = _way_out(tables, ids.scheduler_subnet_id)
    way = _gateway_behind(tables, way) or way
    if public_scheduler and way.startswith("vpce-"):
        yield Finding(
            f"scheduler_subnet_id {ids.scheduler_subnet_id} leads to {way}, and no internet gateway of "
            f"{ids.network_id} sends what comes in through it: clients may not reach the public address",
            certain=False,
        )
    elif public_scheduler and not way.startswith("igw-"):
        yield Finding(
            f"scheduler_subnet_id {ids.scheduler_subnet_id} has no route to an internet gateway, and clients "
            "come by the public address (use_scheduler_public_ip=False if they are in the network)"
        )
    if not way and egress != "none":
        yield Finding(
            f"scheduler_subnet_id {ids.scheduler_subnet_id} has no way out ({_EVERYWHERE}); "
            "egress='none' if none is needed"
        )
    if (public_scheduler or egress != "none") and _closes(shut["scheduler_subnet_id"], way):
        yield Finding(f"scheduler_subnet_id {ids.scheduler_subnet_id} is closed by {_BPA}")
    if egress == "none":
        return
    subnet_id = ids.effective_worker_subnet_id
    way = _way_out(tables, subnet_id)
    if not way:
        yield Finding(
            f"worker_subnet_id {subnet_id} has no way out ({_EVERYWHERE}); egress='none' if none is needed"
        )
    elif _closes(shut["worker_subnet_id"], way):
        yield Finding(f"worker_subnet_id {subnet_id} is closed by {_BPA}")
    elif way.startswith("igw-") and not ids.give_workers_public_ip:
        yield Finding(
            f"worker_subnet_id {subnet_id} leads to an internet gateway, through which only machines with "
            "public addresses get out (give_workers_public_ip=True, or a NAT gateway)"
        )


def _closes(mode: str, way: str) -> bool:
    """Whether VPC Block Public Access closes a way; in one mode, NAT gateways still lead out."""
    return bool(mode) and (way.startswith("igw-") or (way.startswith("nat-") and mode != "block-ingress"))


def _way_out(tables: list[dict[str, Any]], subnet_id: str) -> str:
    """Where the default route of a subnet leads; empty if nowhere. Without a table it has the main one."""
    own = [t for t in tables if any(a.get("SubnetId") == subnet_id for a in t.get("Associations", ()))]
    main = [t for t in tables if any(a.get("Main") for a in t.get("Associations", ()))]
    for table in (own or main)[:1]:
        routes = {r.get("DestinationCidrBlock"): _target(r) for r in table.get("Routes", ())}
        halves = [routes.get(half, "") for half in _HALVES]
        return halves[0] if all(halves) else routes.get(_EVERYWHERE, "")
    return ""


def _target(route: dict[str, Any]) -> str:
    if route.get("State") == "blackhole":
        return ""
    return next((str(route[key]) for key in _LEADS_TO if route.get(key)), "")


def _gateway_behind(tables: list[dict[str, Any]], way: str) -> str:
    """The internet gateway that sends what comes in through what a route leads to, such as a firewall.

    https://docs.aws.amazon.com/vpc/latest/userguide/gateway-route-tables.html
    """
    for table in tables:
        led = map(_target, table.get("Routes", ()))
        gateways = [str(a.get("GatewayId", "")) for a in table.get("Associations", ())]
        found = next((one for one in gateways if one.startswith("igw-")), "")
        if found and way and way in led:
            return found
    return ""


def _groups(aws: Aws, ids: NetworkIds, blocks: list[str], egress: Egress, port: int) -> Iterator[Finding]:
    groups = {"scheduler_firewall_id": ids.scheduler_firewall_id, "firewall_id": ids.firewall_id}
    for name, group_id in groups.items():
        if not group_id:
            continue
        found = _described(aws, "ec2:DescribeSecurityGroups", "SecurityGroups", GroupIds=[group_id])
        if not found or found[0]["VpcId"] != ids.network_id:
            yield Finding(f"{name} {group_id} is not in {ids.network_id}")
        elif name == "scheduler_firewall_id":
            yield from clients_problems(found[0], port)
        else:
            yield from inside_problems(found[0], blocks, egress)


def _described(aws: Aws, action: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = aws.call(action, "checking the network", **parameters)[key]
    except NotFoundError:
        return []
    return found
