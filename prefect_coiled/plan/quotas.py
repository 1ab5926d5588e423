"""AWS's quotas that this library can meet: which one a machine counts against, and where to ask for more.

Codes and names are those of Service Quotas
(https://docs.aws.amazon.com/general/latest/gr/ec2-service.html#limits_ec2,
https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html). Pure: what holds in an AWS account
is asked by `aws.quotas`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from prefect_coiled.plan import machines


class Quota(NamedTuple):
    """A quota of an AWS account, nearly always in one region."""

    service: str
    code: str
    name: str

    def console(self, region: str) -> str:
        """Where the console shows it, and takes a request for more."""
        where = f"https://{region}.console.aws.amazon.com/servicequotas/home/services"
        return f"{where}/{self.service}/quotas/{self.code}"

    def __str__(self) -> str:
        return f"{self.name} ({self.code})"


# By the family's letters: on demand, spot. They count vCPUs, of all types that share them, in all zones.
_STANDARD = "A, C, D, H, I, M, R, T, Z"
# Of all generations of P; spot machines have several.
_P_ON_DEMAND = Quota("ec2", "L-417A185B", "Running On-Demand P instances")
_FAMILIES: dict[str, tuple[Quota, Quota | None]] = {
    "standard": (
        Quota("ec2", "L-1216C47A", f"Running On-Demand Standard ({_STANDARD}) instances"),
        Quota("ec2", "L-34B43A08", f"All Standard ({_STANDARD}) Spot Instance Requests"),
    ),
    "g": (
        Quota("ec2", "L-DB2E81BA", "Running On-Demand G and VT instances"),
        Quota("ec2", "L-3819A6DF", "All G and VT Spot Instance Requests"),
    ),
    "p": (
        _P_ON_DEMAND,
        Quota("ec2", "L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    ),
    "p5": (
        _P_ON_DEMAND,
        Quota("ec2", "L-C4BD4855", "All P5 Spot Instance Requests"),
    ),
    # Of later ones AWS names no quota of spot machines.
    "p6": (_P_ON_DEMAND, None),
    "f": (
        Quota("ec2", "L-74FC7D96", "Running On-Demand F instances"),
        Quota("ec2", "L-88CF9481", "All F Spot Instance Requests"),
    ),
    "x": (
        Quota("ec2", "L-7295265B", "Running On-Demand X instances"),
        Quota("ec2", "L-E3A00192", "All X Spot Instance Requests"),
    ),
    "inf": (
        Quota("ec2", "L-1945791B", "Running On-Demand Inf instances"),
        Quota("ec2", "L-B5D1601B", "All Inf Spot Instance Requests"),
    ),
    "trn": (
        Quota("ec2", "L-2C3B7624", "Running On-Demand Trn instances"),
        Quota("ec2", "L-6B0D517C", "All Trn Spot Instance Requests"),
    ),
    "dl": (
        Quota("ec2", "L-6E869C2A", "Running On-Demand DL instances"),
        Quota("ec2", "L-85EED4F7", "All DL Spot Instance Requests"),
    ),
    "hpc": (Quota("ec2", "L-F7808C92", "Running On-Demand HPC instances"), None),
    "u": (Quota("ec2", "L-43DA4232", "Running On-Demand High Memory instances"), None),
}
_SHARED = {"gr": "g", "vt": "g"}

# What an error code says is used up.
OF_CODES: dict[str, Quota] = {
    "AddressLimitExceeded": Quota("ec2", "L-0263D0A3", "EC2-VPC Elastic IPs"),
    "InternetGatewayLimitExceeded": Quota("vpc", "L-A4707A72", "Internet gateways per Region"),
    "NatGatewayLimitExceeded": Quota("vpc", "L-FE5A380F", "NAT gateways per Availability Zone"),
    "NetworkInterfaceLimitExceeded": Quota("vpc", "L-DF5E4CA3", "Network interfaces per Region"),
    "RouteTableLimitExceeded": Quota("vpc", "L-589F43AA", "Route tables per VPC"),
    "RulesPerSecurityGroupLimitExceeded": Quota(
        "vpc", "L-0EA8095F", "Inbound or outbound rules per security group"
    ),
    "SecurityGroupLimitExceeded": Quota("vpc", "L-E79EC296", "VPC security groups per Region"),
    "SnapshotLimitExceeded": Quota("ebs", "L-309BACF6", "Snapshots per Region"),
    "SubnetLimitExceeded": Quota("vpc", "L-407747CB", "Subnets per VPC"),
    "TooManyBuckets": Quota("s3", "L-DC2B2D3D", "Buckets"),
    "VolumeLimitExceeded": Quota(
        "ebs", "L-7A658B76", "Storage for General Purpose SSD (gp3) volumes, in TiB"
    ),
    "VpcEndpointLimitExceeded": Quota("vpc", "L-1B52E74A", "Gateway VPC endpoints per Region"),
    "VpcLimitExceeded": Quota("vpc", "L-F678F1CE", "VPCs per Region"),
}


def machine_quota(instance_type: str, *, spot: bool) -> Quota | None:
    """The quota that a machine counts against; None for a family that has none that we know.

    All types of a family's letters share it, in all zones of a region. Spot machines have one of their own.
    """
    letters = re.match(r"[a-z]+", instance_type)
    family = letters[0] if letters else ""
    if family.startswith("u") and re.match(r"u\d*[a-z]*-", instance_type):
        family = "u"
    family = _SHARED.get(family, family)
    if family == "p" and (number := re.match(r"p(\d+)", instance_type)):
        family = {"2": "p", "3": "p", "4": "p", "5": "p5"}.get(number[1], "p6")
    if family not in _FAMILIES:
        # "im", "is", "hpc" and "mac" begin with letters of other quotas.
        family = "standard" if family[:1] in tuple("acdhimrtz") and not family.startswith("mac") else ""
    found = _FAMILIES.get(family)
    return None if found is None else found[int(spot)]


def of_machines() -> list[Quota]:
    """The quotas of machines, on demand and spot."""
    return list(dict.fromkeys(quota for pair in _FAMILIES.values() for quota in pair if quota is not None))


def vcpus(instance_type: str) -> int | None:
    """The vCPUs that a machine counts; None for a type that is not in the table."""
    known = machines.table().get(instance_type)
    return None if known is None else known.vcpus


def room(limit: float, used: int, size: int, beside: int = 0) -> int:
    """How many machines of `size` vCPUs fit under a limit of vCPUs.

    Args:
        used: The vCPUs that count against it now.
        beside: vCPUs of what is launched with them, such as a scheduler.
    """
    return max(0, int(limit - used - beside) // size)


def used_vcpus(running: Iterable[tuple[str, bool, int]], quota: Quota) -> int:
    """The vCPUs that count against a quota.

    Args:
        running: Type, whether it is spot, and vCPUs of each machine that is pending or running.
    """
    return sum(vcpus(kind) or size for kind, spot, size in running if machine_quota(kind, spot=spot) == quota)
