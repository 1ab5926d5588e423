"""The S3 gateway endpoint of the VPC: S3 without a way out to the internet, and at no cost."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.route_tables import wanted_tables
from prefect_coiled.aws.tagged import create_tagged, ec2_kind, find_tagged, name_of
from prefect_coiled.plan import tags
from prefect_coiled.plan.aws_errors import aws_error
from prefect_coiled.plan.kinds import Item, Scope, There, Wanted

_GONE = {"deleting", "deleted"}


def _find(aws: Aws, scope: Scope) -> list[Item]:
    items = find_tagged(aws, "ec2:DescribeVpcEndpoints", "VpcEndpoints", scope)
    return [e for e in items if str(e.get("State", "")).lower() not in _GONE]


def _missing(item: Item, tables: list[Item]) -> list[str]:
    return sorted({str(table["RouteTableId"]) for table in tables} - set(item.get("RouteTableIds", ())))


def _lacks(item: Item, want: Wanted, there: There) -> str:
    return "route tables do not lead to it" if _missing(item, wanted_tables(want, there)) else ""


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    vpc_id = there["vpc"][0]["VpcId"]
    return create_tagged(
        aws,
        "ec2:CreateVpcEndpoint",
        f"creating S3 endpoint in VPC ({vpc_id})",
        "VpcEndpoint",
        "vpc-endpoint",
        tags.named(aws.labels(), name_of(aws, "s3")),
        VpcId=vpc_id,
        VpcEndpointType="Gateway",
        ServiceName=f"com.amazonaws.{aws.region}.s3",
        RouteTableIds=_missing({}, there["route table"]),
        ClientToken="",
    )


def _add_tables(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    missing = _missing(item, there["route table"])
    what = f"adding route tables to S3 endpoint ({item['VpcEndpointId']})"
    aws.call("ec2:ModifyVpcEndpoint", what, VpcEndpointId=item["VpcEndpointId"], AddRouteTableIds=missing)
    return {**item, "RouteTableIds": [*item.get("RouteTableIds", ()), *missing]}


def _delete(aws: Aws, items: list[Item]) -> None:
    for item in items:
        what = f"deleting S3 endpoint ({item['VpcEndpointId']})"
        reply = aws.call("ec2:DeleteVpcEndpoints", what, VpcEndpointIds=[item["VpcEndpointId"]])
        # AWS answers with success, and names in it what it did not delete.
        for refused in reply.get("Unsuccessful", ()):
            raise aws_error(what, "ec2:DeleteVpcEndpoints", {**reply, "Error": refused["Error"]})


S3_ENDPOINT = ec2_kind(
    "VPC endpoint",
    "ec2:DescribeVpcEndpoints",
    "VpcEndpoints",
    "VpcEndpointId",
    find=_find,
    note=lambda item: str(item.get("ServiceName", "")),
    waits_for=("vpc", "route table"),
    asked=lambda want: want.network,
    lacks=_lacks,
    create=_create,
    update=_add_tables,
    delete=_delete,
)
