"""Which of our calls AWS would deny, before any is made: IAM's own simulator on our own table of permissions.

https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
"""

from __future__ import annotations

import re
from typing import Any

from prefect_coiled.aws.caller import Caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError, AwsError, CredentialsError, NotFoundError
from prefect_coiled.plan import questions
from prefect_coiled.plan.actions import Phase
from prefect_coiled.plan.questions import Question
from prefect_coiled.records import Record


class Denied(Record):
    """A permission that is missing.

    Attributes:
        resource: The ARN on which it is missing.
        phase: The policy that has it: "setup" or "ongoing".
    """

    action: str
    resource: str
    phase: Phase


def foresee(aws: Aws, caller: Caller, role_arn: str = "") -> tuple[Denied, ...]:
    """Ask IAM which of the permissions of both policies the caller lacks. Changes nothing.

    Args:
        role_arn: The role that is worked as, if it is known: a session's ARN lacks the role's path.

    Raises:
        AccessDeniedError: If the caller may not ask that; the ongoing policy lets an IAM user ask, and a role
            for which it was written.
    """
    if caller.arn.endswith(":root"):
        return ()
    partition = caller.arn.split(":")[1]
    source = _source(aws, caller, role_arn)
    missing: list[Denied] = []
    for phase in ("ongoing", "setup"):
        for question in questions.questions(
            phase, aws.account, caller.aws_account_id, aws.region, partition, aws.boundary
        ):
            refused = _refused(aws, source, question)
            missing += [Denied(action=action, resource=resource, phase=phase) for action, resource in refused]
    return tuple(missing)


def may_use_key(aws: Aws, caller: Caller, key: str, role_arn: str = "") -> bool | None:
    """Whether the caller's policies permit what EC2 asks for where a KMS key of one's own encrypts disks.

    A key's own policy, which IAM cannot be asked about here, may permit it too.

    Returns:
        None where IAM may not be asked, or does not answer.
    """
    if caller.arn.endswith(":root"):
        return True
    try:
        source = _source(aws, caller, role_arn)
        return not any(_refused(aws, source, one) for one in questions.key_questions(key, aws.region))
    except CredentialsError:
        raise
    except AwsError:
        return None


def _refused(aws: Aws, source: str, question: Question) -> list[tuple[str, str]]:
    """The actions of a question that are not allowed, each with its resource.

    Raises:
        AccessDeniedError: If the caller may not ask, or its role is not to be found by what is known of it.
    """
    entries = [
        {
            "ContextKeyName": key,
            "ContextKeyValues": [value],
            "ContextKeyType": "boolean" if value in ("true", "false") else "string",
        }
        for key, value in question.context.items()
    ]
    what = f"asking what {source} may do"
    try:
        results = list(
            aws.pages(
                "iam:SimulatePrincipalPolicy",
                what,
                "EvaluationResults",
                PolicySourceArn=source,
                ActionNames=list(question.actions),
                # Oneself by one's own ARN, which has the path that the policy leaves open.
                ResourceArns=[source if "${aws:username}" in question.resource else question.resource],
                ContextEntries=entries,
            )
        )
    except NotFoundError as error:
        raise error.told_as(
            AccessDeniedError,
            why=f"IAM knows none of that ARN ({error.diagnosis.why.rstrip('. ')}): a session's ARN lacks the "
            "path of its role, and iam:GetRole did not tell it.",
            next_step="Give the role's ARN, with its path, as role_arn of the account or to "
            "`prefect-coiled policies`.",
        ) from error
    return [
        (str(r["EvalActionName"]), str(r["EvalResourceName"]))
        for r in results
        if r["EvalDecision"] != "allowed"
    ]


def _source(aws: Aws, caller: Caller, role_arn: str) -> str:
    """The user, or the role behind a session: policies belong to these.

    A session's ARN has the role's name without its path
    (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html); the roles of IAM Identity
    Center all have one. Names are unique without it.
    """
    match: Any = re.fullmatch(r"arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/.*", caller.arn)
    if not match:
        return caller.arn
    if role_arn.rpartition("/")[2] == match[3]:
        return role_arn
    try:
        reply = aws.call("iam:GetRole", f"finding the role of {caller.arn}", RoleName=match[3])
        return str(reply["Role"]["Arn"])
    except AwsError:
        # It may be one without a path.
        return f"arn:{match[1]}:iam::{match[2]}:role/{match[3]}"
