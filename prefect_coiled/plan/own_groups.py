"""Whether a security group of the user's own lets a cluster's machines do their work. Pure.

All machines have the cluster's group, the scheduler that of its clients besides, and what any of a machine's
groups permits is permitted. https://docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, collapse_addresses
from typing import Any, NamedTuple

from prefect_coiled.options import Egress
from prefect_coiled.plan.cluster import INSIDE_PORTS

_HTTPS = 443
_TCP = ("tcp", "6")
_EVERYWHERE = IPv4Network("0.0.0.0/0")
_SOURCES = ("UserIdGroupPairs", "IpRanges", "Ipv6Ranges", "PrefixListIds")


class Finding(NamedTuple):
    """Something that is wrong with a network.

    Attributes:
        certain: Whether no cluster can work there; else it may, and only a person can know.
    """

    text: str
    certain: bool = True


def clients_problems(group: Mapping[str, Any], port: int) -> Iterator[Finding]:
    """What is wrong with the scheduler's group: clients have to come in at its port, wherever they are."""
    rules = group.get("IpPermissions", ())
    if not any(any(rule.get(kind) for kind in _SOURCES) for rule in _at(rules, port)):
        yield Finding(f"scheduler_firewall_id {group['GroupId']} lets nobody in at port {port}")


def inside_problems(group: Mapping[str, Any], subnets: Iterable[str], egress: Egress) -> Iterator[Finding]:
    """What is wrong with the group of all machines of a cluster.

    Args:
        subnets: The blocks of the machines' subnets; without, only rules that name the group itself count.
        egress: With "none", machines need no way out of the network.
    """
    blocks = [IPv4Network(block) for block in subnets]
    named = f"firewall_id {group['GroupId']}"
    ports = "{}-{}".format(*INSIDE_PORTS)
    ways = {
        "IpPermissions": f"does not let its own members in at ports {ports}",
        "IpPermissionsEgress": f"does not let its own members out to each other at ports {ports}",
    }
    for key, words in ways.items():
        rules = group.get(key, ())
        if _among(rules, group["GroupId"], blocks):
            continue
        if _among(rules, group["GroupId"], blocks, lists_hold_all=True):
            yield Finding(f"{named} {words} but by a prefix list, which has to hold both subnets", False)
        else:
            yield Finding(
                f"{named} {words}: let it name itself, or the blocks of both subnets, for all of these"
            )
    out = _at(group.get("IpPermissionsEgress", ()), _HTTPS)
    if egress != "none" and not any(any(rule.get(kind) for kind in _SOURCES) for rule in out):
        yield Finding(
            f"{named} lets nothing out to port 443, by which machines reach AWS; egress='none' if none is "
            "needed"
        )


def _at(rules: Iterable[Mapping[str, Any]], port: int) -> list[Mapping[str, Any]]:
    """The rules that are about a TCP port."""
    return [rule for rule in rules if _low(rule) <= port <= _high(rule)]


def _low(rule: Mapping[str, Any]) -> int:
    return 0 if rule.get("IpProtocol") == "-1" else int(rule.get("FromPort", 0))


def _high(rule: Mapping[str, Any]) -> int:
    """The last TCP port that a rule is about; none where it is about something else."""
    if rule.get("IpProtocol") == "-1":
        return 65535
    return int(rule.get("ToPort", 65535)) if rule.get("IpProtocol") in _TCP else -1


def _among(
    rules: Iterable[Mapping[str, Any]],
    member: str,
    blocks: list[IPv4Network],
    lists_hold_all: bool = False,
) -> bool:
    """Whether machines get at each other at all of the ports: by the group itself, or by their addresses.

    It cannot change but where a rule begins, or behind its end, so that these ports decide.
    """
    first, last = INSIDE_PORTS
    rules = list(rules)
    edges = {first, *(_low(rule) for rule in rules), *(_high(rule) + 1 for rule in rules)}
    for port in (edge for edge in edges if first <= edge <= last):
        there = _at(rules, port)
        pairs = [pair for rule in there for pair in rule.get("UserIdGroupPairs", ())]
        if any(pair.get("GroupId") == member for pair in pairs):
            continue
        ranges = [
            IPv4Network(one["CidrIp"], strict=False) for rule in there for one in rule.get("IpRanges", ())
        ]
        if lists_hold_all and any(rule.get("PrefixListIds") for rule in there):
            ranges = [_EVERYWHERE]
        held = list(collapse_addresses(ranges))
        if not blocks or not all(any(block.subnet_of(one) for one in held) for block in blocks):
            return False
    return True
