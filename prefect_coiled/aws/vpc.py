"""The account's VPC, with DNS names for its machines: the S3 endpoint and metadata need them."""

from __future__ import annotations

from collections.abc import Iterator

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import create_tagged, ec2_kind, find_tagged, name_of
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import NotFoundError, ProvisionError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Item, Scope, There, Wanted
from prefect_coiled.plan.network import VPC_CIDR

_NAMES = "EnableDnsHostnames"


def find_vpcs(aws: Aws) -> list[Item]:
    """The account's VPCs in the region, by tag; more than one only after a lost reply."""
    return sorted(find_tagged(aws, "ec2:DescribeVpcs", "Vpcs"), key=lambda item: str(item["VpcId"]))


def _find(aws: Aws, scope: Scope) -> Iterator[Item]:
    for item in find_vpcs(aws):
        what = f"reading attributes of VPC ({item['VpcId']})"
        # Names are the last thing that making one sees to.
        wanted = {"VpcId": item["VpcId"], "Attribute": "enableDnsHostnames"}
        try:
            named = bool(aws.call("ec2:DescribeVpcAttribute", what, **wanted)[_NAMES]["Value"])
        except NotFoundError:  # just made, or going
            named = False
        yield {**item, _NAMES: named}


def _places(want: Wanted, there: There) -> tuple[str, ...]:
    found = [str(item["VpcId"]) for item in there["vpc"]]
    if len(found) > 1:
        raise ProvisionError(
            "finding VPC",
            f"there are {len(found)}: {', '.join(found)}; which of them is in use cannot be told",
            "Run `prefect-coiled sweep`, which deletes the empty ones.",
        )
    return ("",)


def _create(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    labels = tags.named(aws.labels(), name_of(aws))
    what = f"creating VPC ({aws.account})"
    return create_tagged(aws, "ec2:CreateVpc", what, "Vpc", "vpc", labels, CidrBlock=VPC_CIDR)


def _give_names(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    for attribute in ("EnableDnsSupport", _NAMES):
        retry_while(
            aws,
            f"waiting for VPC ({item['VpcId']}) to be visible",
            lambda name=attribute: aws.call(  # type: ignore[misc]
                "ec2:ModifyVpcAttribute",
                f"setting {name} of VPC ({item['VpcId']})",
                VpcId=item["VpcId"],
                **{name: {"Value": True}},
            ),
            NotFoundError,
            timeout=VISIBLE,
        )
    return {**item, _NAMES: True}


def _surplus(item: Item, there: There, idle: bool) -> str:
    """Of several VPCs, which a lost reply can leave, those that nothing was put into."""
    used = {s["VpcId"] for s in there["subnet"]}
    used |= {a["VpcId"] for g in there["internet gateway"] for a in g.get("Attachments", ())}
    # Of several empty ones the last that is looked at stays.
    return "a second one, and empty" if len(there["vpc"]) > 1 and item["VpcId"] not in used else ""


VPC = ec2_kind(
    "VPC",
    "ec2:DescribeVpcs",
    "Vpcs",
    "VpcId",
    "ec2:DeleteVpc",
    find=_find,
    note=lambda item: str(item["CidrBlock"]),
    asked=lambda want: want.network,
    places=_places,
    lacks=lambda item, want, there: "" if item.get(_NAMES) else "its machines have no DNS names",
    create=_create,
    update=_give_names,
    surplus=_surplus,
)
