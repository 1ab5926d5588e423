"""Plan of an account's network: address blocks, and which subnets are missing.

One VPC of a /16; each zone has two fixed /20 slots (4,091 addresses each, enough for 1,000 workers and more):
a public one and a private one. The slot follows the zone's letter, so that a zone that AWS adds later finds
its place free.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from prefect_coiled.errors import ProvisionError
from prefect_coiled.records import Record, Subnet, Tier

VPC_CIDR = "10.77.0.0/16"
_SLOT_PREFIX = 20
TIERS: tuple[Tier, Tier] = ("public", "private")


class SubnetPlan(Record):
    """A subnet to be made."""

    zone: str
    tier: Tier
    cidr: str


def missing_subnets(
    zones: Iterable[str], existing: Iterable[Subnet], vpc_cidr: str = VPC_CIDR
) -> tuple[SubnetPlan, ...]:
    """The subnets that a network still lacks, a public and a private one in every zone.

    Args:
        existing: The subnets there are, of this library or not; their blocks are avoided.

    Raises:
        ProvisionError: If the VPC has no free block left.
    """
    there = list(existing)
    slots = list(ipaddress.IPv4Network(vpc_cidr).subnets(new_prefix=_SLOT_PREFIX))
    taken = [ipaddress.IPv4Network(s.cidr) for s in there]
    have = {(s.zone, s.tier) for s in there}
    plans: list[SubnetPlan] = []
    for zone in sorted(set(zones)):
        for offset, tier in enumerate(TIERS):
            if (zone, tier) in have:
                continue
            preferred = 2 * (ord(zone[-1]) - ord("a")) + offset
            order = [preferred, *reversed(range(len(slots)))]
            free = (
                slots[i]
                for i in order
                if 0 <= i < len(slots) and not any(slots[i].overlaps(t) for t in taken)
            )
            block = next(free, None)
            if block is None:
                raise ProvisionError(
                    f"planning the {tier} subnet of {zone}",
                    f"the VPC's block {vpc_cidr} has no free /{_SLOT_PREFIX} left",
                    "Delete subnets that are no longer used, or bring your own network.",
                )
            taken.append(block)
            plans.append(SubnetPlan(zone=zone, tier=tier, cidr=str(block)))
    return tuple(plans)


def blocked_words(mode: str, vpc_id: str, region: str) -> tuple[str, str]:
    """Why machines of a VPC reach nothing under VPC Block Public Access, and what to do.

    https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html

    Args:
        mode: AWS's own word for it, such as "block-bidirectional".
        vpc_id: The VPC; empty for one that is not there yet.
    """
    console = f"https://{region}.console.aws.amazon.com/vpc/home?region={region}#Settings:"
    return (
        f"VPC Block Public Access ({mode}) closes its internet gateway, so that machines and clients would "
        "not reach each other",
        f"Exclude {vpc_id or 'the VPC'} (VPC console > Settings > Public access > Create exclusions), or "
        f"turn it off: {console}. An organisation may keep it on; else use a network of your own.",
    )
