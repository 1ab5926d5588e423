"""The two security groups of a cluster: the scheduler's (client ports) and the cluster-wide one."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import ec2_kind
from prefect_coiled.aws.waits import VISIBLE, VISIBLE_SOON, retry_while, wait_for
from prefect_coiled.errors import (
    AlreadyExistsError,
    AwsError,
    CredentialsError,
    NotFoundError,
    ProvisionError,
    QuotaError,
    WaitTimeoutError,
)
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Item


def read_permissions(aws: Aws, *, group_id: str = "", name: str = "") -> list[dict[str, Any]]:
    """The `IpPermissions` of a group, by its id or, of the account's own, by its name."""
    what = f"reading Security Group ({group_id or name})"
    wanted: dict[str, Any] = {"GroupIds": [group_id]}
    if not group_id:
        wanted = {"Filters": tags.filters(tags.account_tags(aws.account), group_name=name)}
    groups = aws.pages("ec2:DescribeSecurityGroups", what, "SecurityGroups", **wanted)
    return [permission for group in groups for permission in group.get("IpPermissions", ())]


def ensure_security_group(
    aws: Aws,
    name: str,
    description: str,
    vpc_id: str,
    labels: dict[str, str],
) -> tuple[str, list[dict[str, Any]]]:
    """Make the group of that name in the VPC, or find it: an earlier attempt may have made it.

    The name is unique in its VPC, and has a cluster's uid, so that a repeat cannot double it.

    Returns:
        Its id, and the `IpPermissions` that it has; a new one lets nobody in.
    """
    try:
        made = aws.call(
            "ec2:CreateSecurityGroup",
            f"creating Security Group ({name})",
            GroupName=name,
            Description=description,
            VpcId=vpc_id,
            TagSpecifications=tags.specifications(labels, "security-group"),
        )
        return str(made["GroupId"]), []
    except AlreadyExistsError as taken:
        if taken.code != "InvalidGroup.Duplicate":
            raise
        what = f"waiting for Security Group ({name}) to be visible"
        try:
            return wait_for(aws, what, lambda: _found(aws, name, vpc_id, labels), timeout=VISIBLE)
        except WaitTimeoutError as late:
            raise taken from late


def find_security_group(
    aws: Aws, name: str, vpc_id: str, labels: dict[str, str]
) -> tuple[str, list[dict[str, Any]]]:
    """The group of that name, and its `IpPermissions`, of a cluster that runs.

    There it is not made: that would be behind the back of whoever removes the cluster just now, and stay.

    Raises:
        ProvisionError: It is not there.
    """
    found = _found(aws, name, vpc_id, labels)
    if found is None:
        raise ProvisionError(
            f"finding Security Group ({name})",
            "it is gone, so the cluster is being removed",
            "Make a new cluster.",
        )
    return found


def _found(
    aws: Aws, name: str, vpc_id: str, labels: dict[str, str]
) -> tuple[str, list[dict[str, Any]]] | None:
    ours = {k: labels[k] for k in (tags.OWNER, tags.ACCOUNT, tags.CLUSTER)}
    what = f"finding Security Group ({name})"
    wanted = tags.filters(ours, group_name=name, vpc_id=vpc_id)
    for group in aws.pages("ec2:DescribeSecurityGroups", what, "SecurityGroups", Filters=wanted):
        return str(group["GroupId"]), group.get("IpPermissions", [])
    return None


def change_rules(
    aws: Aws, name: str, group_id: str, there: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> None:
    """Make the group let in what `wanted` says and nothing else: open first, then close.

    Where both together are more rules than a group may have, those that go are closed first. What is refused
    leaves the group as it was. https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html

    Args:
        there: What it lets in.
        wanted: EC2 `IpPermissions`; the word "SELF" as a group id stands for the group itself.
    """
    have, want = _rules(there), _rules([_with_self(p, group_id) for p in wanted])
    missing = [rule for key, rule in want.items() if key not in have]
    extra = [rule for key, rule in have.items() if key not in want]
    try:
        _open(aws, name, group_id, missing)
    except QuotaError:
        if not extra:
            raise
        _close(aws, name, group_id, extra)
        try:
            _open(aws, name, group_id, missing)
        except AwsError:
            _open(aws, name, group_id, extra)
            raise
        return
    if extra:
        _close(aws, name, group_id, extra)


def _open(aws: Aws, name: str, group_id: str, rules: list[dict[str, Any]]) -> None:
    """Authorize these rules; some may be there already."""

    def open_() -> None:
        what = f"opening Security Group ({name})"
        try:
            aws.call("ec2:AuthorizeSecurityGroupIngress", what, GroupId=group_id, IpPermissions=rules)
        except AlreadyExistsError:
            # One that is there already refuses the whole call: an earlier attempt got through in part.
            for rule in rules:
                try:
                    aws.call(
                        "ec2:AuthorizeSecurityGroupIngress", what, GroupId=group_id, IpPermissions=[rule]
                    )
                except AlreadyExistsError:
                    continue

    if rules:
        what = f"waiting for Security Group ({name}) to be visible"
        retry_while(aws, what, open_, NotFoundError, timeout=VISIBLE, first=VISIBLE_SOON)


def _close(aws: Aws, name: str, group_id: str, rules: list[dict[str, Any]]) -> None:
    """Revoke these rules, but those that somebody else has revoked meanwhile: one refuses the whole call.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RevokeSecurityGroupIngress.html
    """
    what = f"closing Security Group ({name})"
    try:
        aws.call("ec2:RevokeSecurityGroupIngress", what, GroupId=group_id, IpPermissions=rules)
    except NotFoundError as error:
        if error.code != "InvalidPermission.NotFound":
            raise
        if len(rules) > 1:
            for rule in rules:
                _close(aws, name, group_id, [rule])


def _rules(permissions: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Permissions taken apart: one rule for each port range and source, by what makes it that rule."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for permission in permissions:
        base: dict[str, Any] = {k: permission[k] for k in _PORTS if k in permission}
        for kind, key in _SOURCES.items():
            for source in permission.get(kind, ()):
                rule = {**base, kind: [source]}
                found[(*base.values(), kind, source[key])] = rule
    return found


_PORTS = ("IpProtocol", "FromPort", "ToPort")
_SOURCES = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "UserIdGroupPairs": "GroupId",
    "PrefixListIds": "PrefixListId",
}


def _with_self(permission: dict[str, Any], group_id: str) -> dict[str, Any]:
    pairs = [
        {**p, "GroupId": group_id if p["GroupId"] == "SELF" else p["GroupId"]}
        for p in permission.get("UserIdGroupPairs", ())
    ]
    return {**permission, **({"UserIdGroupPairs": pairs} if pairs else {})}


def _delete(aws: Aws, items: list[Item]) -> None:
    """Delete the groups of a cluster; rules that name another one of them go first.

    Raises:
        AwsError: The first refusal, once all were asked to go; with all that AWS keeps as `left`.
    """
    ids = {item["GroupId"] for item in items}
    for item in items:
        others = ids - {item["GroupId"]}
        foreign = [
            {**p, "UserIdGroupPairs": pairs, "IpRanges": [], "Ipv6Ranges": [], "PrefixListIds": []}
            for p in item.get("IpPermissions", ())
            if (pairs := [q for q in p.get("UserIdGroupPairs", ()) if q["GroupId"] in others])
        ]
        if foreign:
            what = f"closing Security Group ({item['GroupId']})"
            with suppress(NotFoundError):
                aws.call(
                    "ec2:RevokeSecurityGroupIngress", what, GroupId=item["GroupId"], IpPermissions=foreign
                )
            item["IpPermissions"] = []  # where it is tried again, they are gone
    kept: dict[str, AwsError] = {}
    for group_id in sorted(ids):
        try:
            aws.call("ec2:DeleteSecurityGroup", f"deleting Security Group ({group_id})", GroupId=group_id)
        except CredentialsError:
            raise
        except AwsError as error:
            kept[group_id] = error
    # One that is not found is gone, or too young for EC2 to know it.
    refused = {one: error for one, error in kept.items() if not isinstance(error, NotFoundError)}
    for first in (refused or kept).values():
        first.left = {one: error.diagnosis.why for one, error in refused.items()}
        raise first


SECURITY_GROUP = ec2_kind(
    "security group",
    "ec2:DescribeSecurityGroups",
    "SecurityGroups",
    "GroupId",
    note=lambda item: str(item["GroupName"]),
    of_clusters=True,
    waits_for=("intent", "vpc"),
    delete=_delete,
    at_once=100,
)
