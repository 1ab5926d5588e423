"""What the policies permit as questions, for a simulation by IAM itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prefect_coiled.plan.actions import Condition, Phase
from prefect_coiled.plan.boundary import BOUND, boundary_arn, effective_boundary
from prefect_coiled.plan.policies import held, key_statements
from prefect_coiled.plan.statements import condition_of, grants, places_of


class Question(NamedTuple):
    """Whether actions are permitted on a resource under some conditions."""

    actions: tuple[str, ...]
    resource: str
    context: Mapping[str, str]


def questions(
    phase: Phase,
    account: str,
    number: str,
    region: str,
    partition: str = "aws",
    permissions_boundary: str = "",
) -> list[Question]:
    """All that a phase asks of IAM, for a simulation: the statements of its policy taken apart."""
    places = places_of(account, number, region, partition)
    boundary = effective_boundary(permissions_boundary, account, number, partition)
    groups: dict[tuple[Condition, str], list[str]] = {}
    for grant in held(phase, boundary, boundary_arn(account, number, partition)):
        groups.setdefault((grant.condition, grant.resource), []).append(grant.action)
    bound = {"iam:PermissionsBoundary": boundary} if boundary else {}
    found = [
        Question(
            tuple(actions),
            resource.format(**places),
            {
                **_context(condition, account, number, partition),
                **(bound if set(actions) & set(BOUND) else {}),
            },
        )
        for (condition, resource), actions in groups.items()
    ]
    for grant in grants(phase):
        if grant.condition == "made":
            context = {**_context("made", account, number), "ec2:CreateAction": grant.action.split(":")[1]}
            found.append(Question(("ec2:CreateTags",), grant.resource.format(**places), context))
    return found


def _context(name: Condition, account: str, number: str, partition: str = "aws") -> dict[str, str]:
    """What fulfils a condition."""
    if name == "bounded":
        return {}
    if name == "owned":
        return {"aws:ResourceAccount": number, "aws:PrincipalAccount": number}
    if name == "policy":
        return {"iam:PolicyARN": f"arn:{partition}:iam::aws:policy/AmazonS3ReadOnlyAccess"}
    (keys,) = (condition_of(name, account, number, partition) or {"": {}}).values()
    return {**keys, **(_LAUNCHED if name == "made" else {})}


# What our launches say of machines and of their disks.
_LAUNCHED = {"ec2:MetadataHttpTokens": "required", "ec2:Encrypted": "true"}


def key_questions(key: str, region: str) -> list[Question]:
    """The statements about a KMS key of one's own, for a simulation."""
    return [
        Question(
            tuple(statement["Action"]),
            key,
            {name: str(value) for keys in statement["Condition"].values() for name, value in keys.items()},
        )
        for statement in key_statements(key, region)
    ]
