"""The subnets of the account's VPC: a public and a private one in every zone."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import DEPENDENTS_GONE, VISIBLE, retry_while
from prefect_coiled.errors import InUseError, NotFoundError
from prefect_coiled.plan import tags
from prefect_coiled.plan.network import SubnetPlan
from prefect_coiled.records import Subnet


def find_subnets(aws: Aws, vpc_id: str) -> tuple[Subnet, ...]:
    """All subnets of the VPC that are ours, sorted by zone and tier."""
    wanted = tags.filters(tags.account_tags(aws.account), vpc_id=vpc_id)
    items = aws.pages("ec2:DescribeSubnets", f"finding subnets of VPC ({vpc_id})", "Subnets", Filters=wanted)
    found = []
    for item in items:
        tier = tags.from_aws(item.get("Tags")).get(tags.TIER)
        found.append(
            Subnet(
                subnet_id=item["SubnetId"],
                zone=item["AvailabilityZone"],
                tier="public" if tier == "public" else "private",
                cidr=item["CidrBlock"],
            )
        )
    return tuple(sorted(found, key=lambda s: (s.zone, s.tier)))


def create_subnet(aws: Aws, vpc_id: str, plan: SubnetPlan) -> Subnet:
    """Make one planned subnet. EC2 refuses a second one on the same block, so a repeat cannot double it."""
    labels = tags.named(
        tags.account_tags(aws.account, tier=plan.tier), f"coiled-{aws.account}-{plan.tier}-{plan.zone}"
    )
    subnet = retry_while(
        aws,
        f"waiting for VPC ({vpc_id}) to be visible",
        lambda: aws.call(
            "ec2:CreateSubnet",
            f"creating {plan.tier} subnet in {plan.zone}",
            VpcId=vpc_id,
            AvailabilityZone=plan.zone,
            CidrBlock=plan.cidr,
            TagSpecifications=tags.specifications(labels, "subnet"),
        ),
        NotFoundError,
        timeout=VISIBLE,
    )["Subnet"]
    return Subnet(subnet_id=subnet["SubnetId"], zone=plan.zone, tier=plan.tier, cidr=plan.cidr)


def delete_subnet(aws: Aws, subnet_id: str) -> None:
    """Delete a subnet once its interfaces are gone; not found is success."""
    try:
        retry_while(
            aws,
            f"waiting for interfaces of subnet ({subnet_id}) to go",
            lambda: aws.call("ec2:DeleteSubnet", f"deleting subnet ({subnet_id})", SubnetId=subnet_id),
            InUseError,
            timeout=DEPENDENTS_GONE,
        )
    except NotFoundError:
        return
