"""The S3 gateway endpoint of the VPC: S3 without a way out to the internet, and at no cost."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags

_GONE = {"deleting", "deleted"}


def find_s3_endpoints(aws: Aws, vpc_id: str) -> list[dict[str, Any]]:
    """The VPC's S3 gateway endpoints that are ours."""
    wanted = tags.filters(tags.account_tags(aws.account), vpc_id=vpc_id)
    what = f"finding S3 endpoint of VPC ({vpc_id})"
    items = aws.pages("ec2:DescribeVpcEndpoints", what, "VpcEndpoints", Filters=wanted)
    return [e for e in items if str(e.get("State", "")).lower() not in _GONE]


def ensure_s3_endpoint(aws: Aws, vpc_id: str, route_table_ids: Iterable[str]) -> str:
    """Find or make the endpoint, and see that every route table leads to it. Returns its id."""
    tables = sorted(route_table_ids)
    found = find_s3_endpoints(aws, vpc_id)
    if found:
        endpoint_id = str(found[0]["VpcEndpointId"])
        missing = sorted(set(tables) - set(found[0].get("RouteTableIds", ())))
        if missing:
            aws.call(
                "ec2:ModifyVpcEndpoint",
                f"adding route tables to S3 endpoint ({endpoint_id})",
                VpcEndpointId=endpoint_id,
                AddRouteTableIds=missing,
            )
        return endpoint_id
    labels = tags.named(tags.account_tags(aws.account), f"coiled-{aws.account}-s3")
    token = uuid.uuid4().hex  # for the repeats of this one call; see `route_tables`

    def create() -> str:
        try:
            reply = aws.call(
                "ec2:CreateVpcEndpoint",
                f"creating S3 endpoint in VPC ({vpc_id})",
                VpcId=vpc_id,
                VpcEndpointType="Gateway",
                ServiceName=f"com.amazonaws.{aws.region}.s3",
                RouteTableIds=tables,
                ClientToken=token,
                TagSpecifications=tags.specifications(labels, "vpc-endpoint"),
            )
        except AlreadyExistsError:
            # Made meanwhile by another set-up; its tags came with its creation.
            return str(find_s3_endpoints(aws, vpc_id)[0]["VpcEndpointId"])
        return str(reply["VpcEndpoint"]["VpcEndpointId"])

    return retry_while(
        aws, f"waiting for VPC ({vpc_id}) to be visible", create, NotFoundError, timeout=VISIBLE
    )


def delete_s3_endpoint(aws: Aws, endpoint_id: str) -> None:
    """Delete the endpoint; not found is success."""
    try:
        aws.call(
            "ec2:DeleteVpcEndpoints", f"deleting S3 endpoint ({endpoint_id})", VpcEndpointIds=[endpoint_id]
        )
    except NotFoundError:
        return
