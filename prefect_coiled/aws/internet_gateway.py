"""The internet gateway of the account's VPC."""

from __future__ import annotations

from contextlib import suppress

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import create_tagged, ec2_kind, name_of
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Item, There, Wanted


def _lacks(item: Item, want: Wanted, there: There) -> str:
    vpcs = {vpc.get("VpcId") for vpc in there["vpc"]}
    attached = {a["VpcId"] for a in item.get("Attachments", ())}
    return "" if vpcs & attached else "it is not attached to the VPC"


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    labels = tags.named(aws.labels(), name_of(aws))
    what, kind = f"creating internet gateway ({aws.account})", "internet-gateway"
    return create_tagged(aws, "ec2:CreateInternetGateway", what, "InternetGateway", kind, labels)


def _attach(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    gateway_id, vpc_id = str(item["InternetGatewayId"]), str(there["vpc"][0]["VpcId"])

    def attach() -> None:
        what = f"attaching internet gateway ({gateway_id})"
        with suppress(AlreadyExistsError):
            aws.call("ec2:AttachInternetGateway", what, InternetGatewayId=gateway_id, VpcId=vpc_id)

    what = f"waiting for internet gateway ({gateway_id}) to be visible"
    retry_while(aws, what, attach, NotFoundError, timeout=VISIBLE)
    return {**item, "Attachments": [{"VpcId": vpc_id}]}


def _delete(aws: Aws, items: list[Item]) -> None:
    for item in items:
        gateway_id = item["InternetGatewayId"]
        for vpc_id in [a["VpcId"] for a in item.get("Attachments", ())]:
            what = f"detaching internet gateway ({gateway_id})"
            with suppress(NotFoundError):
                aws.call("ec2:DetachInternetGateway", what, InternetGatewayId=gateway_id, VpcId=vpc_id)
        what = f"deleting internet gateway ({gateway_id})"
        aws.call("ec2:DeleteInternetGateway", what, InternetGatewayId=gateway_id)


INTERNET_GATEWAY = ec2_kind(
    "internet gateway",
    "ec2:DescribeInternetGateways",
    "InternetGateways",
    "InternetGatewayId",
    waits_for=("vpc",),
    asked=lambda want: want.network,
    lacks=_lacks,
    create=_create,
    update=_attach,
    surplus=lambda item, there, idle: "" if item.get("Attachments") else "attached to no VPC",
    delete=_delete,
)
