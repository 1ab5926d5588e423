"""Which of our calls AWS would deny, before any is made: IAM's own simulator on our own table of permissions.

https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html
"""

from __future__ import annotations

import re
from typing import Any

from prefect_coiled.aws.caller import Caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.plan import policies
from prefect_coiled.plan.actions import Phase
from prefect_coiled.records import Record


class Denied(Record):
    """A permission that is missing.

    Attributes:
        action: Such as "ec2:CreateVpc".
        resource: The ARN on which it is missing.
        phase: The policy that has it: "setup" or "ongoing".
    """

    action: str
    resource: str
    phase: Phase


def foresee(aws: Aws, caller: Caller, role_arn: str = "") -> tuple[Denied, ...]:
    """Ask IAM which of the permissions of both policies the caller lacks. Changes nothing.

    Args:
        aws: The door.
        caller: Who would make the calls.
        role_arn: The role that is worked as, if it is known: a session's ARN lacks the role's path.

    Raises:
        AccessDeniedError: If the caller may not ask that; the ongoing policy lets an IAM user ask, and a role
            for which it was written.
    """
    if caller.arn.endswith(":root"):
        return ()
    source = _source(caller.arn, role_arn)
    missing: list[Denied] = []
    for phase in ("ongoing", "setup"):
        for question in policies.questions(phase, aws.account, caller.aws_account_id, aws.region):
            entries = [
                {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
                for key, value in question.context.items()
            ]
            results = aws.pages(
                "iam:SimulatePrincipalPolicy",
                f"asking what {source} may do",
                "EvaluationResults",
                PolicySourceArn=source,
                ActionNames=list(question.actions),
                ResourceArns=[_resource(question.resource, source)],
                ContextEntries=entries,
            )
            missing += [
                Denied(action=r["EvalActionName"], resource=r["EvalResourceName"], phase=phase)
                for r in results
                if r["EvalDecision"] != "allowed"
            ]
    return tuple(missing)


def _resource(resource: str, source: str) -> str:
    """What is asked about; of oneself by one's own ARN, which has the path that the policy leaves open."""
    return source if "${aws:username}" in resource else resource


def _source(arn: str, role_arn: str) -> str:
    """The user, or the role behind a session: policies belong to these."""
    match: Any = re.fullmatch(r"arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/.*", arn)
    if not match:
        return arn
    if role_arn.rpartition("/")[2] == match[3]:
        return role_arn
    return f"arn:{match[1]}:iam::{match[2]}:role/{match[3]}"
