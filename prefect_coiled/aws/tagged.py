"""What EC2's kinds of resources have in common: found by our tags, made with them, deleted by id."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import NotFoundError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import ALL, Item, Kind, Scope

ZONE = "coiled-zone"
# The one call that names its filters otherwise, and the one without pages.
_FILTERS = {"ec2:DescribeNatGateways": "Filter"}
_WHOLE = {"ec2:DescribeAddresses"}


def find_tagged(
    aws: Aws,
    action: str,
    key: str,
    scope: Scope = ALL,
    *,
    owners: str = "",
    disabled: bool = False,
    **more: str | Iterable[str],
) -> list[Item]:
    """What an EC2 listing call shows of the account, or of clusters of it.

    Args:
        scope: Which clusters; all that the account has by default.
        owners: The parameter that says that our own AWS account's are meant, where AWS shows others too.
        disabled: Whether images that are disabled are meant too.
    """
    wanted = tags.cluster_filter(aws.account, scope.cluster, scope.uid)
    parameters: dict[str, Any] = {_FILTERS.get(action, "Filters"): tags.filters(wanted, **more)}
    if owners:
        parameters[owners] = ["self"]
    if disabled:
        parameters["IncludeDisabled"] = True
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in key)
    text = f"finding{words} ({scope.cluster or aws.account})"
    if action in _WHOLE:
        return list(aws.call(action, text, **parameters)[key])
    return list(aws.pages(action, text, key, **parameters))


def create_tagged(
    aws: Aws, action: str, what: str, key: str, resource_type: str, labels: dict[str, str], **parameters: Any
) -> Item:
    """Make something with our tags, as soon as what it is made in is visible.

    Args:
        key: Where it is in the reply.
        resource_type: What EC2 calls it where tags are given with a call.
        parameters: The others of the call. A `ClientToken` of "" becomes one for the repeats of this call;
            one that was fixed for ever would give back what somebody deleted, for AWS remembers it for long.
    """
    if "ClientToken" in parameters:
        parameters["ClientToken"] = uuid.uuid4().hex
    parameters["TagSpecifications"] = tags.specifications(labels, resource_type)
    reply = retry_while(
        aws,
        f"waiting for what it takes to be visible: {what}",
        lambda: aws.call(action, what, **parameters),
        NotFoundError,
        timeout=VISIBLE,
    )
    made: Item = reply[key] if key else reply
    return made


def ec2_kind(
    name: str, describe: str, key: str, id_key: str, delete_call: str = "", *, owners: str = "", **more: Any
) -> Kind:
    """A row of what EC2 finds by tags and deletes by id; it can say otherwise.

    Args:
        delete_call: The call that deletes it; empty where nothing does, or the row says how.
    """

    def find(aws: Aws, scope: Scope) -> list[Item]:
        found = find_tagged(aws, describe, key, scope, owners=owners)
        return sorted(found, key=lambda item: str(item[id_key]))

    def remove(aws: Aws, items: list[Item]) -> None:
        for item in items:
            aws.call(delete_call, f"deleting {name} ({item[id_key]})", **{id_key: item[id_key]})

    if delete_call:
        more.setdefault("delete", remove)
    return Kind(**{"name": name, "find": find, "id_of": lambda item: str(item[id_key]), **more})


def zone_of(item: Item) -> str:
    """The zone that an item is tagged with; empty if there is none."""
    return tags.from_aws(item.get("Tags")).get(ZONE, "")


def name_of(aws: Aws, *parts: str) -> str:
    """What the AWS console shows of what is the account's."""
    return "-".join(("coiled", aws.account, *parts))
