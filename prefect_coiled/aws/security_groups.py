"""The two security groups of a cluster: the scheduler's (client ports) and the cluster-wide one."""

from __future__ import annotations

from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import DEPENDENTS_GONE, VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, InUseError, NotFoundError
from prefect_coiled.plan import tags


def find_security_groups(aws: Aws, cluster: str | None = None) -> list[dict[str, Any]]:
    """The security groups of a cluster, or of all the account's clusters."""
    wanted = tags.account_tags(aws.account)
    if cluster is not None:
        wanted[tags.CLUSTER] = cluster
    what = f"finding security groups ({cluster or aws.account})"
    return list(aws.pages("ec2:DescribeSecurityGroups", what, "SecurityGroups", Filters=tags.filters(wanted)))


def ensure_security_group(
    aws: Aws,
    name: str,
    description: str,
    vpc_id: str,
    labels: dict[str, str],
    permissions: list[dict[str, Any]],
) -> str:
    """Find the group of that name in the VPC or make it, then see that it lets in what `permissions` say.

    The name is unique in its VPC, so that a repeat cannot double it.

    Args:
        aws: The door.
        name: Group name.
        description: What the AWS console shows.
        vpc_id: The VPC.
        labels: Tags, set inside the creating call.
        permissions: EC2 `IpPermissions`; the word "SELF" as a group id stands for the group itself.

    Returns:
        The group's id.
    """
    wanted = tags.filters(
        {k: labels[k] for k in (tags.OWNER, tags.ACCOUNT, tags.CLUSTER)}, group_name=name, vpc_id=vpc_id
    )
    found = list(
        aws.pages(
            "ec2:DescribeSecurityGroups", f"finding Security Group ({name})", "SecurityGroups", Filters=wanted
        )
    )
    if found:
        group_id = str(found[0]["GroupId"])
    else:
        group_id = str(
            aws.call(
                "ec2:CreateSecurityGroup",
                f"creating Security Group ({name})",
                GroupName=name,
                Description=description,
                VpcId=vpc_id,
                TagSpecifications=tags.specifications(labels, "security-group"),
            )["GroupId"]
        )
    rules = [_with_self(p, group_id) for p in permissions]

    def authorize() -> None:
        for rule in rules:
            try:
                aws.call(
                    "ec2:AuthorizeSecurityGroupIngress",
                    f"opening Security Group ({name})",
                    GroupId=group_id,
                    IpPermissions=[rule],
                )
            except AlreadyExistsError:
                continue

    if rules:
        what = f"waiting for Security Group ({name}) to be visible"
        retry_while(aws, what, authorize, NotFoundError, timeout=VISIBLE)
    return group_id


def _with_self(permission: dict[str, Any], group_id: str) -> dict[str, Any]:
    pairs = [
        {**p, "GroupId": group_id if p["GroupId"] == "SELF" else p["GroupId"]}
        for p in permission.get("UserIdGroupPairs", ())
    ]
    return {**permission, **({"UserIdGroupPairs": pairs} if pairs else {})}


def delete_security_groups(
    aws: Aws, groups: list[dict[str, Any]], *, timeout: float = DEPENDENTS_GONE
) -> list[str]:
    """Delete the groups once no interface uses them; rules that name another group of the list go first.

    Returns:
        The ids that are gone.

    Raises:
        InUseError: If one is still in use after `timeout` seconds.
    """
    ids = {g["GroupId"] for g in groups}
    for group in groups:
        foreign = [
            {**p, "UserIdGroupPairs": pairs, "IpRanges": [], "Ipv6Ranges": [], "PrefixListIds": []}
            for p in group.get("IpPermissions", ())
            if (
                pairs := [
                    q for q in p.get("UserIdGroupPairs", ()) if q["GroupId"] in ids - {group["GroupId"]}
                ]
            )
        ]
        if foreign:
            try:
                aws.call(
                    "ec2:RevokeSecurityGroupIngress",
                    f"closing Security Group ({group['GroupId']})",
                    GroupId=group["GroupId"],
                    IpPermissions=foreign,
                )
            except NotFoundError:
                continue
    for group_id in sorted(ids):
        try:
            retry_while(
                aws,
                f"waiting for interfaces of Security Group ({group_id}) to go",
                lambda gid=group_id: aws.call(  # type: ignore[misc]
                    "ec2:DeleteSecurityGroup", f"deleting Security Group ({gid})", GroupId=gid
                ),
                InUseError,
                timeout=timeout,
            )
        except NotFoundError:
            continue
    return sorted(ids)
