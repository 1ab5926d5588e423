"""The internet gateway of the account's VPC."""

from __future__ import annotations

from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import DEPENDENTS_GONE, VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, InUseError, NotFoundError
from prefect_coiled.plan import tags


def find_internet_gateways(aws: Aws) -> list[dict[str, Any]]:
    """The account's internet gateways in the region, by tag, attached or not."""
    wanted = tags.filters(tags.account_tags(aws.account))
    what = f"finding internet gateway ({aws.account})"
    return list(aws.pages("ec2:DescribeInternetGateways", what, "InternetGateways", Filters=wanted))


def ensure_internet_gateway(aws: Aws, vpc_id: str) -> str:
    """Find or make the internet gateway, and attach it to the VPC. Returns its id."""
    found = find_internet_gateways(aws)
    for gateway in found:
        if any(a["VpcId"] == vpc_id for a in gateway.get("Attachments", [])):
            return str(gateway["InternetGatewayId"])
    loose = [g for g in found if not g.get("Attachments")]
    if loose:
        gateway_id = str(loose[0]["InternetGatewayId"])
    else:
        labels = tags.named(tags.account_tags(aws.account), f"coiled-{aws.account}")
        gateway_id = aws.call(
            "ec2:CreateInternetGateway",
            f"creating internet gateway ({aws.account})",
            TagSpecifications=tags.specifications(labels, "internet-gateway"),
        )["InternetGateway"]["InternetGatewayId"]

    def attach() -> None:
        try:
            aws.call(
                "ec2:AttachInternetGateway",
                f"attaching internet gateway ({gateway_id})",
                InternetGatewayId=gateway_id,
                VpcId=vpc_id,
            )
        except AlreadyExistsError:
            return

    what = f"waiting for internet gateway ({gateway_id}) to be visible"
    retry_while(aws, what, attach, NotFoundError, timeout=VISIBLE)
    return gateway_id


def delete_internet_gateway(aws: Aws, gateway_id: str, vpc_ids: list[str]) -> None:
    """Detach and delete; waits until no public address is mapped any more. Not found is success."""
    for vpc_id in vpc_ids:
        try:
            retry_while(
                aws,
                f"waiting for public addresses of VPC ({vpc_id}) to go",
                lambda vpc=vpc_id: aws.call(  # type: ignore[misc]
                    "ec2:DetachInternetGateway",
                    f"detaching internet gateway ({gateway_id})",
                    InternetGatewayId=gateway_id,
                    VpcId=vpc,
                ),
                InUseError,
                timeout=DEPENDENTS_GONE,
            )
        except NotFoundError:
            continue
    try:
        aws.call(
            "ec2:DeleteInternetGateway",
            f"deleting internet gateway ({gateway_id})",
            InternetGatewayId=gateway_id,
        )
    except NotFoundError:
        return
