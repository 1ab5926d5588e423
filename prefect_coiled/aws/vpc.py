"""The account's VPC."""

from __future__ import annotations

from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import DEPENDENTS_GONE, VISIBLE, retry_while
from prefect_coiled.errors import InUseError, NotFoundError, ProvisionError
from prefect_coiled.plan import tags


def find_vpcs(aws: Aws) -> list[dict[str, Any]]:
    """The account's VPCs in the region, by tag; more than one only after a lost reply."""
    wanted = tags.filters(tags.account_tags(aws.account))
    found = list(aws.pages("ec2:DescribeVpcs", f"finding VPC ({aws.account})", "Vpcs", Filters=wanted))
    return sorted(found, key=lambda vpc: str(vpc["VpcId"]))


def ensure_vpc(aws: Aws, cidr: str) -> dict[str, Any]:
    """Find the account's VPC or make it, with DNS names on (the S3 endpoint and IMDS names need them).

    Raises:
        ProvisionError: If there are several; which of them is in use cannot be told.
    """
    found = find_vpcs(aws)
    if len(found) > 1:
        raise ProvisionError(
            f"finding VPC ({aws.account})",
            f"there are {len(found)}: {', '.join(v['VpcId'] for v in found)}",
            "Run `prefect-coiled sweep`, which deletes the empty ones.",
        )
    if found:
        if not has_names(aws, str(found[0]["VpcId"])):
            _give_names(aws, str(found[0]["VpcId"]))
        return found[0]
    labels = tags.named(tags.account_tags(aws.account), f"coiled-{aws.account}")
    vpc = aws.call(
        "ec2:CreateVpc",
        f"creating VPC ({aws.account})",
        CidrBlock=cidr,
        TagSpecifications=tags.specifications(labels, "vpc"),
    )["Vpc"]
    _give_names(aws, str(vpc["VpcId"]))
    made: dict[str, Any] = vpc
    return made


def has_names(aws: Aws, vpc_id: str) -> bool:
    """Whether machines of the VPC have DNS names, which is the last thing that making one sees to."""
    reply = aws.call(
        "ec2:DescribeVpcAttribute",
        f"reading attributes of VPC ({vpc_id})",
        VpcId=vpc_id,
        Attribute="enableDnsHostnames",
    )
    return bool(reply["EnableDnsHostnames"]["Value"])


def _give_names(aws: Aws, vpc_id: str) -> None:
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
        retry_while(
            aws,
            f"waiting for VPC ({vpc_id}) to be visible",
            lambda name=attribute: aws.call(  # type: ignore[misc]
                "ec2:ModifyVpcAttribute",
                f"setting {name} of VPC ({vpc_id})",
                VpcId=vpc_id,
                **{name: {"Value": True}},
            ),
            NotFoundError,
            timeout=VISIBLE,
        )


def delete_vpc(aws: Aws, vpc_id: str) -> None:
    """Delete the VPC once its dependents are gone; not found is success."""
    try:
        retry_while(
            aws,
            f"waiting for dependents of VPC ({vpc_id}) to go",
            lambda: aws.call("ec2:DeleteVpc", f"deleting VPC ({vpc_id})", VpcId=vpc_id),
            InUseError,
            timeout=DEPENDENTS_GONE,
        )
    except NotFoundError:
        return
