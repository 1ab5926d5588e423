"""NAT gateways, one in each zone that needs one, each with an elastic address of its own.

A NAT gateway costs money while it exists, used or not; `sweep` releases those that no cluster uses.
"""

from __future__ import annotations

import uuid
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import CONSISTENCY, NAT_AVAILABLE, NAT_DELETED, retry_while, wait_for
from prefect_coiled.errors import (
    AccessDeniedError,
    CredentialsError,
    InUseError,
    NotFoundError,
    ProvisionError,
)
from prefect_coiled.plan import tags

_ZONE = "coiled-zone"
_LIVE = ["pending", "available"]


def list_nat_gateways(aws: Aws, states: list[str] | None = None) -> list[dict[str, Any]]:
    """All of the account's NAT gateways; a zone may have more than one, after a lost reply."""
    wanted = tags.filters(tags.account_tags(aws.account), state=states or _LIVE)
    items = aws.pages(
        "ec2:DescribeNatGateways", f"finding NAT gateways ({aws.account})", "NatGateways", Filter=wanted
    )
    return sorted(items, key=lambda n: str(n["NatGatewayId"]))


def find_nat_gateways(aws: Aws, states: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """The account's NAT gateways by zone; of several in a zone, the one with the lowest id."""
    found: dict[str, dict[str, Any]] = {}
    for item in list_nat_gateways(aws, states):
        found.setdefault(zone_of(item), item)
    return found


def zone_of(gateway: dict[str, Any]) -> str:
    """The zone of a NAT gateway of ours."""
    return tags.from_aws(gateway.get("Tags")).get(_ZONE, "")


def find_addresses(aws: Aws) -> list[dict[str, Any]]:
    """The account's elastic addresses, in use or not."""
    wanted = tags.filters(tags.account_tags(aws.account))
    reply = aws.call("ec2:DescribeAddresses", f"finding elastic addresses ({aws.account})", Filters=wanted)
    found: list[dict[str, Any]] = reply["Addresses"]
    return found


def ensure_nat_gateway(aws: Aws, zone: str, public_subnet_id: str) -> str:
    """Find or make the zone's NAT gateway and wait until it is available. Returns its id.

    Raises:
        ProvisionError: If AWS reports that the gateway failed.
        WaitTimeoutError: If it is not available within five minutes.
    """
    found = find_nat_gateways(aws).get(zone)
    nat_id = str(found["NatGatewayId"]) if found else _create(aws, zone, public_subnet_id)
    if found and found.get("State") == "available":
        return nat_id

    def available() -> bool | None:
        reply = aws.call("ec2:DescribeNatGateways", f"reading NAT gateway ({nat_id})", NatGatewayIds=[nat_id])
        gateway = reply["NatGateways"][0] if reply["NatGateways"] else {"State": "pending"}
        if gateway["State"] == "failed":
            raise ProvisionError(
                f"creating NAT gateway in {zone}",
                str(gateway.get("FailureMessage", "it failed")),
                'Use egress="public-ip" if addresses are short in this AWS account.',
            )
        return True if gateway["State"] == "available" else None

    what = f"waiting for NAT gateway ({nat_id}) to be available"
    wait_for(aws, what, available, timeout=NAT_AVAILABLE, interval=3.0)
    return nat_id


def _create(aws: Aws, zone: str, public_subnet_id: str) -> str:
    labels = tags.named(tags.account_tags(aws.account, zone=zone), f"coiled-{aws.account}-{zone}")
    spare = [
        a
        for a in find_addresses(aws)
        if not a.get("AssociationId") and tags.from_aws(a.get("Tags")).get(_ZONE) == zone
    ]
    if spare:
        allocation_id = str(spare[0]["AllocationId"])
    else:
        allocation_id = aws.call(
            "ec2:AllocateAddress",
            f"allocating the address of the NAT gateway in {zone}",
            Domain="vpc",
            TagSpecifications=tags.specifications(labels, "elastic-ip"),
        )["AllocationId"]
    # The token covers botocore's own retries of this one call. A later attempt finds the gateway by its tags,
    # and must not replay a token whose gateway may have been deleted since.
    reply = aws.call(
        "ec2:CreateNatGateway",
        f"creating NAT gateway in {zone}",
        SubnetId=public_subnet_id,
        AllocationId=allocation_id,
        ClientToken=uuid.uuid4().hex,
        TagSpecifications=tags.specifications(labels, "natgateway"),
    )
    return str(reply["NatGateway"]["NatGatewayId"])


def delete_nat_gateways(aws: Aws, nat_ids: list[str]) -> None:
    """Delete NAT gateways and wait until they are gone (they hold their addresses until then)."""
    for nat_id in nat_ids:
        try:
            aws.call("ec2:DeleteNatGateway", f"deleting NAT gateway ({nat_id})", NatGatewayId=nat_id)
        except NotFoundError:
            continue

    def gone() -> bool | None:
        wanted = tags.filters(tags.account_tags(aws.account), state=[*_LIVE, "deleting"])
        items = aws.pages("ec2:DescribeNatGateways", "reading NAT gateways", "NatGateways", Filter=wanted)
        return None if {n["NatGatewayId"] for n in items} & set(nat_ids) else True

    if nat_ids:
        wait_for(aws, "waiting for NAT gateways to be deleted", gone, timeout=NAT_DELETED, interval=5.0)


def release_addresses(aws: Aws) -> tuple[list[str], dict[str, str]]:
    """Release the account's elastic addresses that nothing uses.

    Returns:
        The allocation ids of those that are released; and of those that stay, with the reason. Those of the
        account's NAT gateways are as they should be.
    """
    released: list[str] = []
    kept: dict[str, str] = {}
    there = list_nat_gateways(aws, [*_LIVE, "deleting"])
    held = {a.get("AllocationId") for n in there for a in n.get("NatGatewayAddresses", ())}
    for address in find_addresses(aws):
        allocation_id = str(address["AllocationId"])
        if allocation_id in held:
            continue
        if address.get("AssociationId"):
            user = address.get("InstanceId") or address.get("NetworkInterfaceId") or "something"
            kept[allocation_id] = f"{address.get('PublicIp', 'it')} is in use by {user}"
            continue
        try:
            retry_while(
                aws,
                f"waiting for address ({allocation_id}) to be free",
                lambda one=allocation_id: _release(aws, one),  # type: ignore[misc]
                InUseError,
                timeout=CONSISTENCY,
            )
        except NotFoundError:
            continue
        except (AccessDeniedError, InUseError) as error:
            kept[allocation_id] = error.diagnosis.why
            continue
        released.append(allocation_id)
    return released, kept


def _release(aws: Aws, allocation_id: str) -> None:
    """Release an address that nothing is shown to use.

    EC2 holds that of a gateway for a moment after its end, and may say so as if it were somebody else's.
    """
    what = f"releasing address ({allocation_id})"
    try:
        aws.call("ec2:ReleaseAddress", what, AllocationId=allocation_id)
    except CredentialsError as error:
        if error.code != "AuthFailure":
            raise
        why = error.diagnosis.why
        raise InUseError(what, why, operation=error.operation, code=error.code) from error
