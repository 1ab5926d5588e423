"""A permissions boundary of the machines' role: the most that it can ever be given, by whomever.

Whoever may write a role's policies may give it everything, and start a machine that has it. So the set-up
policy wants a boundary, by `guards`. It is made once: by an administrator with the policies, or else by the
first set-up. The policy's holder neither changes nor removes it. IAM has no condition on what a policy says:
who trusts that holder with less than a first set-up makes the boundary before.
https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.actions import BOUNDARY

# What is said instead of an ARN where the role is to have none.
NO_BOUNDARY = "none"
# What that means.
GIVEN_UP = (
    "Without a boundary, whoever has the set-up policy can give the machines' role everything that the AWS "
    "account has, and use it by a machine: he is as good as an administrator."
)
# What is said of a policy that AWS keeps, where the role is to have that.
OF_AWS = (
    "The boundary is a policy of AWS's own, which may change it. Unlike the one that is made here, it does "
    "not keep machines from what other accounts of this library have; and one that permits IAM, such as "
    "AdministratorAccess, keeps whoever has the set-up policy from nothing."
)
# What the work on machines may use in every boundary, where the role has a policy for it.
SERVICES = ("s3",)

# Of the AWS account's own, or one that AWS keeps for all.
# https://docs.aws.amazon.com/IAM/latest/APIReference/API_PutRolePermissionsBoundary.html
_ARN = re.compile(r"arn:aws[a-z-]*:iam::(aws|\d{12}):policy/[\w+=,.@/-]+", re.ASCII)
_SERVICE = re.compile(r"[a-z0-9-]+")
# Who may use one of these in full, may have everything else by it.
_NEVER = frozenset({"iam", "identitystore", "organizations", "account", "sso", "sso-directory", "sts"})

# The calls that AWS lets depend on the boundary that a role has, or gets.
BOUND = (
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:DeleteRolePolicy",
    "iam:DetachRolePolicy",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
)
# The same, and changing and removing the boundary, with patterns that leave room in the policy.
_GIVEN = ("iam:*tachRoleP*", "iam:CreateRole", "iam:DeleteRolePolicy", "iam:PutRole*")
_CHANGES = (
    "iam:C*PolicyV*",
    "iam:DeletePolicy*",
    "iam:D*RolePer*",
    "iam:SetD*",
)


def check_boundary(arn: str) -> str:
    """Check the form of the ARN of a permissions boundary; "none" is one, too.

    Raises:
        OptionsError: If it is none.
    """
    if arn != NO_BOUNDARY and not _ARN.fullmatch(arn):
        raise OptionsError(
            f"permissions_boundary {arn!r}",
            'must look like arn:aws:iam::123456789012:policy/coiled-boundary-my-team, or be "none".',
            "`prefect-coiled policies boundary` prints one.",
        )
    return arn


def boundary_arn(account: str, number: str, partition: str = "aws") -> str:
    """The ARN of the boundary that is made with the policies of an account."""
    return BOUNDARY.format(partition=partition, number=number, account=account)


def effective_boundary(said: str, account: str, number: str, partition: str = "aws") -> str:
    """The ARN of the boundary that the machines' role must have; empty if it needs none.

    Args:
        said: Of the account: empty for the boundary that is made with its policies, an ARN, or "none".
    """
    if said == NO_BOUNDARY:
        return ""
    return said or boundary_arn(account, number, partition)


def caveat(said: str) -> str:
    """What a person should know of a boundary that holds less than the one that is made here; else empty.

    Args:
        said: See `effective_boundary`.
    """
    if said == NO_BOUNDARY:
        return GIVEN_UP
    return OF_AWS if ":iam::aws:" in said else ""


def boundary_policy(
    instance: Mapping[str, Any], services: Iterable[str] = (), partition: str = "aws"
) -> dict[str, Any]:
    """The document of a boundary: what every machine needs, and all of the services that its work may use.

    What other accounts of this library have in these services stays out of reach.

    Args:
        services: Beside those of `SERVICES`, by their names in IAM, such as "dynamodb".

    Raises:
        OptionsError: If one is no such name, or by it everything else could be had.
    """
    wanted = sorted({*SERVICES, *services})
    for service in wanted:
        if not _SERVICE.fullmatch(service):
            raise OptionsError(
                f"service {service!r}", 'must be a name of IAM\'s, such as "s3" or "dynamodb".'
            )
        if service in _NEVER:
            raise OptionsError(f"service {service!r}", "would let a machine give itself everything else.")
    work = {
        "Sid": "Work",
        "Effect": "Allow",
        "Action": [f"{service}:*" for service in wanted],
        "NotResource": [
            f"arn:{partition}:s3:::coiled-*",
            f"arn:{partition}:ssm:*:*:parameter/prefect-coiled/*",
            f"arn:{partition}:ecr:*:*:repository/coiled-*",
        ],
    }
    return {**instance, "Statement": [*instance["Statement"], work]}


def guards(boundary: str, account: str) -> list[tuple[str, dict[str, Any]]]:
    """What the set-up policy denies, whatever else permits it: a role without the boundary, or another one.

    Args:
        boundary: The ARN of the boundary, or a pattern of ARNs.
        account: The account's slug, which is the name of the machines' role.

    Returns:
        The statements, each with its name.
    """

    def deny(actions: Iterable[str], resources: list[str], condition: Any = None) -> dict[str, Any]:
        made = {"Effect": "Deny", "Action": sorted(actions), "Resource": resources}
        return {**made, "Condition": condition} if condition else made

    # Wherever they are: none of another AWS account is in reach.
    kept = [f"arn:*:iam::*:{name}" for name in (boundary.rpartition(":")[2], f"role/{account}")]
    unless = {"ArnNotLike": {"iam:PermissionsBoundary": boundary}}
    return [
        ("KeepRoleBound", deny(_GIVEN, ["*"], unless)),
        ("KeepBoundary", deny(_CHANGES, kept)),
    ]
