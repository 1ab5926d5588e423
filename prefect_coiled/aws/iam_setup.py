"""Takes the steps of `plan.iam_setup`: makes a user, policies and a key, and attaches, as an administrator.

What is there stays. A policy of ours that says something else gets a new version; one that is not ours is an
error, and nothing was changed. What it calls is in no printed policy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import unquote

from pydantic import SecretStr

from prefect_coiled.aws.boundary import bound_by
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.iam_role import attached_policies
from prefect_coiled.aws.ownership import check_ours
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    AwsError,
    NotFoundError,
    OptionsError,
    UnavailableError,
)
from prefect_coiled.plan import tags
from prefect_coiled.plan.iam_setup import Step

T = TypeVar("T")

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_MOST_VERSIONS = 5
_BIND, _KEY = "PutRolePermissionsBoundary", "CreateAccessKey"
_ADMINISTRATOR = (
    "Use the credentials of somebody who manages IAM (--profile), or give them the commands that are printed "
    "without --apply."
)


class Task(NamedTuple):
    """A step, and what is there of it; a policy that says something else, or another boundary, "differs"."""

    step: Step
    state: Literal["missing", "there", "differs"]


class NewKey(NamedTuple):
    """An access key, whose secret AWS tells this once."""

    access_key_id: str
    secret_access_key: SecretStr


def look(aws: Aws, steps: Sequence[Step], number: str, partition: str) -> list[Task]:
    """What is there of the steps; changes nothing.

    Raises:
        OptionsError: The credentials are of another AWS account, or there is no such group or role.
        ProvisionError: There is a policy of that name that is not ours, or a role of the account's name that
            would be its holder's to change.
        AccessDeniedError: The credentials may not look.
    """
    if aws.number != number:
        raise OptionsError(
            f"AWS account {number}", f"is not that of the credentials, which are of {aws.number}."
        )
    _explained(lambda: _refuse_foreign_role(aws))
    return _explained(lambda: [Task(step, _state(aws, step, number, partition)) for step in steps])


def held_by_boundary(aws: Aws, tasks: Sequence[Task]) -> list[str]:
    """The policies of a role that is about to be bound: from then on they hold as the boundary allows."""
    bound = any(task.step.call == _BIND and task.state != "there" for task in tasks)
    return attached_policies(aws) if bound else []


def replaced_boundary(aws: Aws, tasks: Sequence[Task]) -> str:
    """The ARN of the boundary that a role is about to lose for another one; empty if it loses none."""
    if not any(task.step.call == _BIND and task.state == "differs" for task in tasks):
        return ""
    return bound_by(_found(aws, "iam:GetRole", RoleName=aws.account).get("Role", {}))


def _refuse_foreign_role(aws: Aws) -> None:
    """The set-up policy lets its holder write the policies of the role that is named as the account."""
    found = _found(aws, "iam:GetRole", RoleName=aws.account).get("Role")
    if found:
        check_ours(aws, f"role ({aws.account})", tags.from_aws(found.get("Tags")), str(found["Arn"]))


def carry_out(aws: Aws, task: Task, number: str, partition: str) -> NewKey | None:
    """Make what is missing, and renew what differs. Returns the key, if it was one.

    Raises:
        AccessDeniedError: The credentials may not do it.
    """
    if task.state == "there":
        return None
    if task.state == "differs" and task.step.call != _BIND:
        arn = _arn(task.step, number, partition)
        _explained(lambda: _renew(aws, task.step, arn))
        return None
    what = f"making {task.step.what}"

    def call() -> dict[str, Any]:
        return aws.call(f"iam:{task.step.call}", what, **task.step.parameters)

    def make() -> dict[str, Any]:
        try:
            # IAM may not know a user or a policy yet that it has just made.
            # https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html
            return retry_while(aws, what, call, NotFoundError, timeout=VISIBLE)
        except AlreadyExistsError:  # made by somebody else at this moment
            return {}
        except UnavailableError as error:
            if task.step.call == _KEY:  # nobody can read its secret a second time
                raise error.told_as(
                    type(error), next_step=_lost_key(task.step.parameters["UserName"])
                ) from error
            # Whether it was made is not known: a look tells.
            with suppress(AwsError):
                if _state(aws, task.step, number, partition) == "there":
                    return {}
            raise

    key = _explained(make).get("AccessKey")
    return NewKey(str(key["AccessKeyId"]), SecretStr(key["SecretAccessKey"])) if key else None


def _lost_key(user: str) -> str:
    return (
        "AWS may have made a key whose secret nobody knows. Look with `aws iam list-access-keys --user-name "
        f"{user}`, delete it with `aws iam delete-access-key --user-name {user} --access-key-id ID`, then "
        "run again."
    )


def _state(aws: Aws, step: Step, number: str, partition: str) -> Literal["missing", "there", "differs"]:
    given = step.parameters
    if step.call == "CreatePolicy":
        return _state_of_policy(aws, step, _arn(step, number, partition))
    if step.call == _KEY:
        items = _pages(aws, "iam:ListAccessKeys", "AccessKeyMetadata", **given)
        return "there" if items else "missing"
    if step.call == _BIND:
        role = _found(aws, "iam:GetRole", RoleName=given["RoleName"]).get("Role", {})
        # Set-up makes the role with it.
        if not role or bound_by(role) == given["PermissionsBoundary"]:
            return "there"
        return "differs" if bound_by(role) else "missing"
    if step.call == "CreateUser":
        return "there" if _found(aws, "iam:GetUser", **given) else "missing"
    kind = step.call.removeprefix("Attach").removesuffix("Policy")
    whom = {f"{kind}Name": given[f"{kind}Name"]}
    if kind != "User" and not _found(aws, f"iam:Get{kind}", **whom):
        raise OptionsError(f"{kind.lower()} {given[f'{kind}Name']!r}", "is not there in this AWS account.")
    items = _pages(aws, f"iam:ListAttached{kind}Policies", "AttachedPolicies", **whom)
    return "there" if given["PolicyArn"] in [p["PolicyArn"] for p in items] else "missing"


def _state_of_policy(aws: Aws, step: Step, arn: str) -> Literal["missing", "there", "differs"]:
    found = _found(aws, "iam:GetPolicy", PolicyArn=arn)
    if not found:
        return "missing"
    version = found["Policy"]["DefaultVersionId"]
    read = aws.call("iam:GetPolicyVersion", f"reading {step.what}", PolicyArn=arn, VersionId=version)
    document = read["PolicyVersion"]["Document"]
    if isinstance(document, str):  # botocore decodes the URL-encoded JSON in most places
        document = json.loads(unquote(document))
    if document == json.loads(step.parameters["PolicyDocument"]):
        return "there"
    check_ours(aws, step.what, tags.from_aws(found["Policy"].get("Tags")), arn)
    return "differs"


def _renew(aws: Aws, step: Step, arn: str) -> None:
    """Give a policy a new version that holds; the oldest one goes where there are as many as AWS takes."""
    what = f"renewing {step.what}"
    versions = _pages(aws, "iam:ListPolicyVersions", "Versions", PolicyArn=arn)
    if len(versions) >= _MOST_VERSIONS:
        old = min((v for v in versions if not v["IsDefaultVersion"]), key=lambda v: v["CreateDate"])
        aws.call("iam:DeletePolicyVersion", what, PolicyArn=arn, VersionId=old["VersionId"])
    document = step.parameters["PolicyDocument"]
    aws.call("iam:CreatePolicyVersion", what, PolicyArn=arn, PolicyDocument=document, SetAsDefault=True)


def _arn(step: Step, number: str, partition: str) -> str:
    return f"arn:{partition}:iam::{number}:policy/{step.parameters['PolicyName']}"


def _found(aws: Aws, action: str, **parameters: Any) -> dict[str, Any]:
    try:
        return aws.call(action, "looking at what IAM has", **parameters)
    except NotFoundError:
        return {}


def _pages(aws: Aws, action: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
    try:
        return list(aws.pages(action, "looking at what IAM has", key, **parameters))
    except NotFoundError:  # the user that is about to be made
        return []


def _explained(action: Callable[[], T]) -> T:
    """Do it; where it is denied, the next step is an administrator's, not a policy of ours."""
    try:
        return action()
    except AccessDeniedError as error:
        if error.denied_by:  # nothing that is attached would help
            raise
        raise error.retold(_ADMINISTRATOR) from error
