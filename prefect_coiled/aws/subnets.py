"""The subnets of the account's VPC: a public and a private one in every zone."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import create_tagged, ec2_kind, name_of
from prefect_coiled.errors import AwsError, NoCapacityError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Item, There, Wanted
from prefect_coiled.plan.network import TIERS, missing_subnets
from prefect_coiled.records import Subnet


class ClosedZoneError(NoCapacityError):
    """AWS makes no new subnets of this AWS account in a zone, which is `zone`."""

    zone = ""


def record(item: Item) -> Subnet:
    """A subnet as it is kept."""
    public = tags.from_aws(item.get("Tags")).get(tags.TIER) == "public"
    return Subnet(
        subnet_id=item["SubnetId"],
        zone=item["AvailabilityZone"],
        tier="public" if public else "private",
        cidr=item["CidrBlock"],
        blocked=blocked(item),
    )


def blocked(item: Item) -> str:
    """How VPC Block Public Access closes the way to the internet of a subnet or VPC; empty if it does not.

    https://docs.aws.amazon.com/vpc/latest/userguide/security-vpc-bpa.html
    """
    mode = str((item.get("BlockPublicAccessStates") or {}).get("InternetGatewayBlockMode") or "off")
    return "" if mode == "off" else mode


def _places(want: Wanted, there: There) -> list[str]:
    return [f"{tier} {zone}" for zone in sorted(want.zones) for tier in TIERS]


def _place(item: Item) -> str:
    return f"{tags.from_aws(item.get('Tags')).get(tags.TIER, 'private')} {item['AvailabilityZone']}"


def _sketch(place: str) -> Item:
    tier, _, zone = place.partition(" ")
    return {"SubnetId": place, "AvailabilityZone": zone, "Tags": tags.to_aws({tags.TIER: tier})}


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    """Make one. EC2 refuses a second one on the same block, so a repeat cannot double it."""
    tier, _, zone = place.partition(" ")
    (vpc,) = there["vpc"]
    # Those of all zones are planned each time, so that each gets its own block, whichever is made first.
    plans = missing_subnets(want.every, [record(item) for item in there["subnet"]], str(vpc["CidrBlock"]))
    (cidr,) = (plan.cidr for plan in plans if (plan.tier, plan.zone) == (tier, zone))
    labels = tags.named(aws.labels(tier=tier), name_of(aws, tier, zone))
    where = {"VpcId": vpc["VpcId"], "AvailabilityZone": zone, "CidrBlock": cidr}
    what = f"creating {tier} subnet in {zone}"
    try:
        return create_tagged(aws, "ec2:CreateSubnet", what, "Subnet", "subnet", labels, **where)
    except AwsError as error:
        raise _closed(error, zone) or error from error


def _closed(error: AwsError, zone: str) -> AwsError | None:
    # AWS lists such a zone as available, has no code of its own for it, and names the zones that it takes:
    # https://github.com/hashicorp/terraform/issues/3434
    if error.code != "InvalidParameterValue" or "availabilityZone" not in error.diagnosis.why:
        return None
    closed = error.told_as(
        ClosedZoneError,
        why=f"{error.diagnosis.why.rstrip('. ')}: AWS makes no new subnets of this AWS account in {zone}",
        next_step="Choose another zone, or none.",
    )
    closed.zone = zone
    return closed


SUBNET = ec2_kind(
    "subnet",
    "ec2:DescribeSubnets",
    "Subnets",
    "SubnetId",
    "ec2:DeleteSubnet",
    note=lambda item: f"{_place(item)}, {item['CidrBlock']}",
    waits_for=("vpc",),
    asked=lambda want: want.network,
    places=_places,
    place=_place,
    sketch=_sketch,
    create=_create,
)
