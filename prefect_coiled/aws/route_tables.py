"""Route tables: one public for the VPC, and one private for every zone."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags

EVERYWHERE = "0.0.0.0/0"
PUBLIC = "public"
_ZONE = "coiled-zone"


def find_route_tables(aws: Aws, vpc_id: str) -> dict[str, dict[str, Any]]:
    """The account's route tables in the VPC: the public one as "public", private ones by their zone."""
    wanted = tags.filters(tags.account_tags(aws.account), vpc_id=vpc_id)
    items = aws.pages(
        "ec2:DescribeRouteTables", f"finding route tables of VPC ({vpc_id})", "RouteTables", Filters=wanted
    )
    found: dict[str, dict[str, Any]] = {}
    for item in sorted(items, key=lambda t: str(t["RouteTableId"])):
        labels = tags.from_aws(item.get("Tags"))
        found.setdefault(labels.get(_ZONE, PUBLIC), item)
    return found


def ensure_route_table(
    aws: Aws, vpc_id: str, place: str, existing: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Find the route table of `place` ("public" or a zone) in `existing`, or make it."""
    if place in existing:
        return existing[place]
    more = {"tier": "public"} if place == PUBLIC else {"tier": "private", "zone": place}
    labels = tags.named(tags.account_tags(aws.account, **more), f"coiled-{aws.account}-{place}")
    # The token covers the repeats of this one call. One that was fixed for ever would give a table back that
    # somebody deleted: AWS remembers tokens longer than what they made.
    token = uuid.uuid4().hex
    table: dict[str, Any] = retry_while(
        aws,
        f"waiting for VPC ({vpc_id}) to be visible",
        lambda: aws.call(
            "ec2:CreateRouteTable",
            f"creating route table ({place})",
            VpcId=vpc_id,
            ClientToken=token,
            TagSpecifications=tags.specifications(labels, "route-table"),
        ),
        NotFoundError,
        timeout=VISIBLE,
    )["RouteTable"]
    return table


def ensure_associations(aws: Aws, table: dict[str, Any], subnet_ids: Iterable[str]) -> None:
    """Associate the subnets with the table, those that are not yet."""
    there = {a.get("SubnetId") for a in table.get("Associations", ())}
    for subnet_id in subnet_ids:
        if subnet_id in there:
            continue

        def associate(subnet: str = subnet_id) -> None:
            try:
                aws.call(
                    "ec2:AssociateRouteTable",
                    f"associating subnet ({subnet}) with route table ({table['RouteTableId']})",
                    RouteTableId=table["RouteTableId"],
                    SubnetId=subnet,
                )
            except AlreadyExistsError:
                return

        what = f"waiting for route table ({table['RouteTableId']}) to be visible"
        retry_while(aws, what, associate, NotFoundError, timeout=VISIBLE)


def ensure_default_route(aws: Aws, table: dict[str, Any], **target: str) -> None:
    """Make 0.0.0.0/0 of the table lead to `target`, such as `GatewayId="igw-1"` or `NatGatewayId="nat-1"`.

    A default route to something that is gone (a "blackhole") is replaced.
    """
    ((key, target_id),) = target.items()
    current = next((r for r in table.get("Routes", ()) if r.get("DestinationCidrBlock") == EVERYWHERE), None)
    if current and current.get(key) == target_id and current.get("State") != "blackhole":
        return
    table_id = table["RouteTableId"]
    what = f"routing {EVERYWHERE} of route table ({table_id}) to {target_id}"

    def route() -> None:
        if current:
            aws.call(
                "ec2:ReplaceRoute", what, RouteTableId=table_id, DestinationCidrBlock=EVERYWHERE, **target
            )
            return
        try:
            aws.call(
                "ec2:CreateRoute", what, RouteTableId=table_id, DestinationCidrBlock=EVERYWHERE, **target
            )
        except AlreadyExistsError:
            aws.call(
                "ec2:ReplaceRoute", what, RouteTableId=table_id, DestinationCidrBlock=EVERYWHERE, **target
            )

    retry_while(aws, f"waiting for {target_id} to be visible", route, NotFoundError, timeout=VISIBLE)


def delete_route_table(aws: Aws, table: dict[str, Any]) -> None:
    """Disassociate and delete the table; not found is success."""
    table_id = table["RouteTableId"]
    for association in table.get("Associations", ()):
        if association.get("Main"):
            continue
        try:
            aws.call(
                "ec2:DisassociateRouteTable",
                f"disassociating route table ({table_id})",
                AssociationId=association["RouteTableAssociationId"],
            )
        except NotFoundError:
            continue
    try:
        aws.call("ec2:DeleteRouteTable", f"deleting route table ({table_id})", RouteTableId=table_id)
    except NotFoundError:
        return
