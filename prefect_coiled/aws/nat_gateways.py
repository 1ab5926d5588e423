"""NAT gateways, one for the region, and elastic addresses, one for each of them.

A NAT gateway costs money while it exists, used or not; `sweep` releases those that no cluster uses.
"""

from __future__ import annotations

from collections.abc import Iterator

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import create_tagged, ec2_kind, find_tagged, name_of, zone_of
from prefect_coiled.aws.waits import NAT_AVAILABLE, NAT_DELETED, wait_as
from prefect_coiled.errors import CredentialsError, InUseError, NoCapacityError
from prefect_coiled.plan import tags
from prefect_coiled.plan.aws_codes import BY_CLASS
from prefect_coiled.plan.kinds import Item, Scope, There, Wanted

_LIVE = ["pending", "available"]
# Old accounts see a zone of ap-northeast-1 that has none:
# https://github.com/sysdiglabs/terraform-aws-secure-for-cloud/pull/52
_NOT_HERE = "NotAvailableInZone"
_DESCRIBE = "ec2:DescribeNatGateways"


def _places(want: Wanted, there: There) -> list[str]:
    """The zone of the one there is, wherever that may be; else of the one that is to be made."""
    live = sorted(zone_of(gateway) for gateway in there["nat gateway"])
    return [] if not want.nat else [want.zone if want.zone in live or not live else live[0]]


def _labels(aws: Aws, zone: str) -> dict[str, str]:
    return tags.named(aws.labels(zone=zone), name_of(aws, zone))


# -- elastic addresses


def _find_addresses(aws: Aws, scope: Scope) -> Iterator[Item]:
    """The account's addresses, each with the NAT gateway of ours that holds it, until that one is gone."""
    there = find_tagged(aws, _DESCRIBE, "NatGateways", state=[*_LIVE, "deleting"])
    held = {a.get("AllocationId"): g for g in there for a in g.get("NatGatewayAddresses", ())}
    for item in find_tagged(aws, "ec2:DescribeAddresses", "Addresses", scope):
        gateway = held.get(item["AllocationId"], {})
        going = gateway.get("State") == "deleting"
        yield {**item, "NatGatewayId": gateway.get("NatGatewayId", ""), "going": going}


def _address_places(want: Wanted, there: There) -> list[str]:
    """One is made for a gateway that is to be made; a gateway that is there has one."""
    there_are = {ELASTIC_ADDRESS.place(item) for item in there["elastic address"]}
    return [zone for zone in _places(want, there) if zone in there_are or not there["nat gateway"]]


def _is_free(item: Item) -> bool:
    return not item.get("AssociationId") and not item.get("NatGatewayId")


def _held_address(item: Item) -> str:
    if item.get("NatGatewayId") or not item.get("AssociationId"):
        return ""
    user = item.get("InstanceId") or item.get("NetworkInterfaceId") or "something"
    return f"{item.get('PublicIp', 'it')} is in use by {user}"


def _surplus_address(item: Item, there: There, idle: bool) -> str:
    live = {gateway["NatGatewayId"] for gateway in there["nat gateway"]}
    return "" if item.get("NatGatewayId") in live else "no NAT gateway uses it"


def _allocate(aws: Aws, zone: str, want: Wanted, there: There) -> Item:
    labels, what = _labels(aws, zone), f"allocating the address of the NAT gateway in {zone}"
    made = create_tagged(aws, "ec2:AllocateAddress", what, "", "elastic-ip", labels, Domain="vpc")
    return {**made, "Tags": tags.to_aws(labels)}


def _release(aws: Aws, items: list[Item]) -> None:
    """Release addresses that nothing is shown to use.

    EC2 holds that of a gateway for a moment after its end, and may say so as if it were somebody else's.
    """
    for item in items:
        item["NatGatewayId"] = ""  # that is gone, so that the address has a price of its own
        what = f"releasing address ({item['AllocationId']})"
        try:
            aws.call("ec2:ReleaseAddress", what, AllocationId=item["AllocationId"])
        except CredentialsError as error:
            if error.code != "AuthFailure":
                raise
            raise error.told_as(InUseError, next_step=BY_CLASS[InUseError].next_step) from error


ELASTIC_ADDRESS = ec2_kind(
    "elastic address",
    "ec2:DescribeAddresses",
    "Addresses",
    "AllocationId",
    delete=_release,
    find=_find_addresses,
    note=lambda item: str(item.get("PublicIp", "")),
    # That of a NAT gateway is in the price of the gateway.
    usd=lambda item, prices: 0.0 if item.get("NatGatewayId") else prices.address,
    asked=lambda want: want.network,
    places=_address_places,
    place=lambda item: "" if _held_address(item) or item.get("going") else zone_of(item),
    sketch=lambda zone: {"NatGatewayId": zone},
    create=_allocate,
    surplus=_surplus_address,
    held=_held_address,
)


# -- NAT gateways


def _create(aws: Aws, zone: str, want: Wanted, there: There) -> Item:
    """Make one in the zone, or in the next one where the zone has none: it is for all of them."""
    (address, *_) = (a for a in there["elastic address"] if _is_free(a) and zone_of(a) == zone)
    public = {
        str(s["AvailabilityZone"]): s["SubnetId"]
        for s in there["subnet"]
        if tags.from_aws(s.get("Tags")).get(tags.TIER) == "public"
    }
    zones = [zone, *sorted(public.keys() - {zone})]
    for one in zones:
        where = {"SubnetId": public[one], "AllocationId": address["AllocationId"], "ClientToken": ""}
        what, labels = f"creating NAT gateway in {one}", _labels(aws, one)
        try:
            return create_tagged(
                aws, "ec2:CreateNatGateway", what, "NatGateway", "natgateway", labels, **where
            )
        except NoCapacityError as error:
            if error.code != _NOT_HERE or one == zones[-1]:
                raise
    raise AssertionError("there is a zone")


def _wait_available(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    what = f"waiting for NAT gateway ({item['NatGatewayId']}) to be available"
    help_ = 'Use egress="public-ip" if addresses are short in this AWS account.'
    ids = [item["NatGatewayId"]]
    found = wait_as(
        aws,
        "nat_gateway_available",
        _DESCRIBE,
        what,
        timeout=NAT_AVAILABLE,
        next_step=help_,
        NatGatewayIds=ids,
    )
    made: Item = found["NatGateways"][0]
    return made


def _surplus(item: Item, there: There, idle: bool) -> str:
    if idle:
        return "no cluster uses it"
    used = {r.get("NatGatewayId") for t in there["route table"] for r in t.get("Routes", ())}
    second = item["NatGatewayId"] not in used and any(g["NatGatewayId"] in used for g in there["nat gateway"])
    return "a second one, to which no route leads" if second else ""


def _gone(aws: Aws, items: list[Item], patience: float) -> None:
    for item in items:
        what = f"waiting for NAT gateway ({item['NatGatewayId']}) to be deleted"
        timeout, ids = min(patience, NAT_DELETED), [item["NatGatewayId"]]
        wait_as(aws, "nat_gateway_deleted", _DESCRIBE, what, timeout=timeout, NatGatewayIds=ids)


NAT_GATEWAY = ec2_kind(
    "NAT gateway",
    _DESCRIBE,
    "NatGateways",
    "NatGatewayId",
    "ec2:DeleteNatGateway",
    find=lambda aws, scope: sorted(
        find_tagged(aws, _DESCRIBE, "NatGateways", scope, state=_LIVE), key=lambda n: str(n["NatGatewayId"])
    ),
    note=lambda item: f"{zone_of(item)}, {item.get('State', '')}",
    usd=lambda item, prices: prices.nat,
    waits_for=("vpc", "subnet", "internet gateway", "elastic address"),
    asked=lambda want: want.network,
    places=_places,
    place=zone_of,
    lacks=lambda item, want, there: "" if item.get("State") == "available" else "it is not available yet",
    create=_create,
    update=_wait_available,
    surplus=_surplus,
    gone=_gone,
)
