"""What a fresh AWS account may not do yet; each by a setting, and all of them by `account="fresh"`.

Rows come in the order in which a launch meets them; a region that is not validated yet is met last.
"""

from __future__ import annotations

from collections.abc import Mapping

from moto.ec2.models.instance_types import INSTANCE_TYPES

from prefect_coiled.sandbox.rules.account import Account, Launch
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__ = ["FREE_TYPES", "QUOTAS", "family", "limit_of", "room"]

_FREE = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-free-tier-usage.html"
_QUOTAS = "https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html"
_SPOT_ROLE = (
    "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html"
)
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"
_VPC_QUOTAS = "https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html"

kept(
    "vpc-limit",
    "ec2",
    "CreateVpc",
    "VpcLimitExceeded",
    "5 VPCs in a region, the default one counted.",
    _VPC_QUOTAS,
    "account",
)
kept(
    "gateway-limit",
    "ec2",
    "CreateInternetGateway",
    "InternetGatewayLimitExceeded",
    "As many internet gateways in a region as VPCs.",
    _VPC_QUOTAS,
    "account",
)
kept(
    "address-limit",
    "ec2",
    "AllocateAddress",
    "AddressLimitExceeded",
    "5 elastic addresses in a region.",
    _VPC_QUOTAS,
    "account",
)

FREE_TYPES = ("t3.micro", "t3.small", "t4g.micro", "t4g.small", "c7i-flex.large", "m7i-flex.large")

# The codes of Service Quotas: on demand, and spot.
QUOTAS = {
    "standard": ("L-1216C47A", "L-34B43A08"),
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "p": ("L-417A185B", "L-7212CCBC"),
    "p5": ("L-417A185B", "L-C4BD4855"),
    "x": ("L-7295265B", "L-E3A00192"),
    "f": ("L-74FC7D96", "L-88CF9481"),
    "inf": ("L-1945791B", "L-B5D1601B"),
    "trn": ("L-2C3B7624", "L-6B0D517C"),
    "dl": ("L-6E869C2A", "L-85EED4F7"),
}


def family(instance_type: str, spot: bool = False) -> str:
    """The quota that a type counts against, such as "standard" for m6i.large.

    Args:
        instance_type: The type.
        spot: Whether it is a spot machine: P5 and later ones have a quota apart then.
    """
    letters = "".join(c for c in instance_type.partition(".")[0].partition("-")[0] if c.isalpha())
    for name, starts in (("inf", ("inf",)), ("trn", ("trn",)), ("dl", ("dl",)), ("g", ("g", "vt"))):
        if letters.startswith(starts):
            return name
    number = instance_type[1:2]
    if spot and letters[:1] == "p" and number >= "5":
        return f"p{number}"
    if letters[:1] in ("p", "x", "f"):
        return letters[:1]
    return "standard" if letters[:1] in tuple("acdhimrtz") and not letters.startswith("hpc") else letters


def limit_of(vcpus: Mapping[str, int], name: str) -> int | None:
    """What the settings allow of a family, None where they do not say. P stands for each of its quotas."""
    return vcpus.get(name, vcpus.get("p") if name.startswith("p") else None)


def _vcpus(instance_type: str) -> int:
    known = INSTANCE_TYPES.get(instance_type, {})
    return int(known.get("VCpuInfo", {}).get("DefaultVCpus", 1))


def _used(account: Account, wanted: str, spot: bool) -> int:
    total = 0
    for reservation in account.ec2.reservations.values():
        for instance in reservation.instances:
            counts = instance.state in ("pending", "running") and (instance.lifecycle == "spot") == spot
            if counts and family(instance.instance_type, spot) == wanted:
                total += _vcpus(instance.instance_type)
    return total


def room(launch: Launch) -> int | None:
    """How many machines the quota on vCPUs leaves room for; None where there is no quota.

    Args:
        launch: The launch.
    """
    wanted = family(launch.instance_type, launch.spot)
    quota = limit_of(launch.account.settings.vcpus, wanted)
    if quota is None:
        return None
    left = quota - _used(launch.account, wanted, launch.spot)
    return max(0, left) // _vcpus(launch.instance_type)


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    f"On the free plan of accounts since July 2025 only {', '.join(FREE_TYPES)}.",
    _FREE,
    when="account",
    needs="launch",
)
def free_plan(launch: Launch) -> str | None:
    if not launch.account.settings.free_plan or launch.instance_type in FREE_TYPES:
        return None
    return (
        "The specified instance type is not eligible for Free Tier. For a list of Free Tier instance "
        "types, run "
        "'describe-instance-types' with the filter 'free-tier-eligible=true'."
    )


@rule(
    "ec2",
    "RunInstances",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
    "Spot machines need the role AWSServiceRoleForEC2Spot.",
    _SPOT_ROLE,
    when="account",
    needs="launch",
    status=403,
)
def spot_role(launch: Launch) -> str | None:
    if launch.account.settings.spot_role or not launch.spot:
        return None
    if any(role.name == "AWSServiceRoleForEC2Spot" for role in launch.account.iam.roles.values()):
        return None
    return (
        "The provided credentials do not have permission to create the service-linked role for EC2 "
        "Spot Instances."
    )


@rule(
    "ec2",
    "RunInstances",
    "VcpuLimitExceeded, MaxSpotInstanceCountExceeded",
    "Machines of a family have so many vCPUs together, on demand and spot each: 5 of the standard ones "
    "and none "
    "of G in a fresh account. As many are launched as there is room for, if it is MinCount.",
    _QUOTAS,
    when="account",
    needs="launch",
)
def vcpus(launch: Launch) -> Refusal | None:
    fits = room(launch)
    if fits is None or fits >= int(launch.params.get("MinCount", 1)):
        return None
    if launch.spot:
        return Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    limit = limit_of(launch.account.settings.vcpus, family(launch.instance_type))
    message = (
        f"You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the "
        f"instance "
        "bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
    )
    return Refusal("VcpuLimitExceeded", message)


@rule(
    "ec2",
    "RunInstances",
    "PendingVerification",
    "A new account's first launch in a region has it validated, which takes minutes.",
    _ERRORS,
    when="account",
    needs="launch",
)
def region_validated(launch: Launch) -> str | None:
    account = launch.account
    if not account.settings.validation:
        return None
    account.history.note_first("validation", account.region)
    if account.history.age("validation", account.region) >= account.settings.validation:
        return None
    return (
        "Your request for accessing resources in this region is being validated, and you will not be able to "
        "launch additional resources in this region until the validation is complete. We will notify "
        "you by email "
        "once your request has been validated. While normally resolved within minutes, please allow up "
        "to 4 hours "
        "for this process to complete. If the issue still persists, please let us know by writing to "
        "aws-verification@amazon.com for further assistance."
    )
