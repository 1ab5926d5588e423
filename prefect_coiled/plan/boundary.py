"""A permissions boundary of the machines' role: the most that it can ever be given, by whomever.

Whoever may write a role's policies may give it everything, and start a machine that has it. A boundary that
the same person could make and unmake would be none: an administrator makes it, and `guards`, which are part
of the set-up policy then, hold its holder to it.
https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prefect_coiled.errors import OptionsError

__all__ = ["BOUND", "boundary_arn", "boundary_policy", "check_boundary", "guards"]

_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:policy/[\w+=,.@/-]+", re.ASCII)
_SERVICE = re.compile(r"[a-z0-9-]+")
# Who may use one of these in full, may have everything else by it.
_NEVER = frozenset({"iam", "identitystore", "organizations", "account", "sso", "sso-directory", "sts"})

# The calls that AWS lets depend on the boundary that a role has, or gets.
BOUND = (
    "iam:AttachRolePolicy",
    "iam:CreateRole",
    "iam:PutRolePermissionsBoundary",
    "iam:PutRolePolicy",
)
_CHANGES = (
    "iam:CreatePolicyVersion",
    "iam:DeletePolicy",
    "iam:DeletePolicyVersion",
    "iam:DeleteRolePermissionsBoundary",
    "iam:SetDefaultPolicyVersion",
)


def check_boundary(arn: str) -> str:
    """Check the form of the ARN of a permissions boundary.

    Raises:
        OptionsError: If it is none: a boundary is a policy of the AWS account's own.
    """
    if not _ARN.fullmatch(arn):
        raise OptionsError(
            f"permissions_boundary {arn!r}",
            "must look like arn:aws:iam::123456789012:policy/coiled-boundary-my-team.",
            "`prefect-coiled policies boundary` prints one, for an administrator to make.",
        )
    return arn


def boundary_arn(account: str, number: str, partition: str = "aws") -> str:
    """The ARN of the boundary that `prefect-coiled setup iam --boundary` makes."""
    return f"arn:{partition}:iam::{number}:policy/coiled-boundary-{account}"


def boundary_policy(instance: Mapping[str, Any], services: Iterable[str] = ()) -> dict[str, Any]:
    """The document of a boundary: what every machine needs, and all of the services that its work may use.

    Args:
        instance: The policy of the machines' role; see `plan.policies`.
        services: By their names in IAM, such as "s3" or "dynamodb".

    Raises:
        OptionsError: If one is no such name, or by it everything else could be had.
    """
    wanted = sorted(dict.fromkeys(services))
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
        "Resource": ["*"],
    }
    return {**instance, "Statement": [*instance["Statement"], *([work] if wanted else [])]}


def guards(boundary: str, role: str) -> list[tuple[str, dict[str, Any]]]:
    """What the set-up policy denies, whatever else permits it: a role without the boundary, or another one.

    Args:
        boundary: The ARN of the boundary.
        role: The ARN of the machines' role.

    Returns:
        The statements, each with its name.
    """

    def deny(actions: Iterable[str], resources: list[str], condition: Any = None) -> dict[str, Any]:
        made = {"Effect": "Deny", "Action": sorted(actions), "Resource": resources}
        return {**made, "Condition": condition} if condition else made

    unless = {"StringNotEquals": {"iam:PermissionsBoundary": boundary}}
    return [
        ("KeepRoleBound", deny(BOUND, ["*"], unless)),
        ("KeepBoundary", deny(_CHANGES, [boundary, role])),
    ]
