"""How the policies come to whoever calls AWS: as steps, as commands, for CloudFormation, for Terraform.

Pure: from documents to text. `aws.iam_setup` takes the steps, for an administrator who uses this library.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan import tags

Principal = Literal["user", "group", "role"]
PRINCIPALS: tuple[Principal, ...] = get_args(Principal)
Format = Literal["json", "cloudformation", "terraform"]
FORMATS: tuple[Format, ...] = get_args(Format)

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_LONGEST = {"user": 64, "group": 128, "role": 64}


def policy_name(phase: str, account: str) -> str:
    """What a policy of an account is called in IAM."""
    return f"coiled-{phase}-{account}"


class Step(NamedTuple):
    """A call to IAM."""

    call: str
    parameters: Mapping[str, Any]

    @property
    def what(self) -> str:
        """What it makes, in words."""
        given = self.parameters
        if self.call == "CreatePolicy":
            return f"policy {given['PolicyName']}"
        kind = next(p for p in PRINCIPALS if f"{p.capitalize()}Name" in given)
        whom = f"{kind} {given[f'{kind.capitalize()}Name']}"
        if "PermissionsBoundary" in given:
            return f"permissions boundary of {whom}"
        if "PolicyArn" in given:
            return f"policy {given['PolicyArn'].rpartition('/')[2]} attached to {whom}"
        return f"access key of {whom}" if self.call == "CreateAccessKey" else whom


def steps(
    documents: Mapping[str, Mapping[str, Any]],
    account: str,
    principal: Principal,
    name: str,
    *,
    aws_account_id: str,
    partition: str = "aws",
    key: bool = True,
    boundary: Mapping[str, Any] | None = None,
    bound: str = "",
    attach: bool = True,
) -> list[Step]:
    """The calls that make the policies and attach them, in order.

    A user is made too. Groups and roles are there already: who is in them, or may assume them, is not this
    library's to say.

    Args:
        aws_account_id: 12 digits; they are in the ARNs of the policies.
        key: Whether a user gets an access key.
        boundary: The permissions boundary of the machines' role. It is made and attached to nobody; a role
            that is there already is given it.
        bound: The ARN of another one that is there, and that a role is given; no policy is made of it.
        attach: Whether the policies are attached; else they are made for somebody who does it elsewhere.

    Raises:
        OptionsError: If the name is none that IAM takes, or the AWS account's number is not one.
    """
    if not re.fullmatch(r"[\w+=,.@-]+", name, re.ASCII) or len(name) > _LONGEST[principal]:
        raise OptionsError(
            f"{principal} {name!r}",
            f"must be of letters, digits and _+=,.@-, at most {_LONGEST[principal]} characters.",
        )
    if not re.fullmatch(r"[0-9]{12}", aws_account_id):
        raise OptionsError(f"aws_account_id {aws_account_id!r}", "must have 12 digits.")
    kind = principal.capitalize()
    whom = {f"{kind}Name": name}
    found = [Step("CreateUser", whom)] if principal == "user" else []
    labels = tags.to_aws(tags.account_tags(account))
    if bound and boundary is None:
        found.append(Step("PutRolePermissionsBoundary", {"RoleName": account, "PermissionsBoundary": bound}))
    made = {"boundary": boundary, **documents} if boundary is not None else documents
    for phase, document in made.items():
        called = policy_name(phase, account)
        text = json.dumps(document, separators=(",", ":"))
        found.append(Step("CreatePolicy", {"PolicyName": called, "PolicyDocument": text, "Tags": labels}))
        arn = f"arn:{partition}:iam::{aws_account_id}:policy/{called}"
        if document is boundary:
            found.append(
                Step("PutRolePermissionsBoundary", {"RoleName": account, "PermissionsBoundary": arn})
            )
            continue
        if attach:
            found.append(Step(f"Attach{kind}Policy", {**whom, "PolicyArn": arn}))
    return [*found, Step("CreateAccessKey", whom)] if principal == "user" and key else found


def of_permission_set(role_arn: str) -> bool:
    """Whether a role is one that IAM Identity Center made, and that nobody else may change.

    https://docs.aws.amazon.com/singlesignon/latest/userguide/using-service-linked-roles.html
    """
    return ":role/aws-reserved/" in role_arn


def for_permission_set(phases: Iterable[str], account: str) -> str:
    """What is left to do where a role is of a permission set, which takes policies by their names.

    https://docs.aws.amazon.com/singlesignon/latest/userguide/howtocmp.html
    """
    names = " and ".join(policy_name(phase, account) for phase in phases)
    return (
        "The role is of IAM Identity Center, which alone changes it. Once the policies are there, add "
        f"{names} to its permission set as customer managed policies (IAM Identity Center console > "
        "Permission sets)."
    )


def command(step: Step) -> str:
    """A step as a command of AWS's own tool, as a line for a shell."""
    words = ["aws", "iam", _dashed(step.call)]
    for name, value in step.parameters.items():
        words.append(f"--{_dashed(name)}")
        if isinstance(value, str):
            words.append(value)
        else:
            words += [",".join(f"{k}={v}" for k, v in pair.items()) for pair in value]
    return shlex.join(words)


def _dashed(name: str) -> str:
    return re.sub(r"(?<=.)(?=[A-Z])", "-", name).lower()


def written(document: Mapping[str, Any], phase: str, account: str, form: Format) -> dict[str, Any]:
    """A policy as what a tool takes: IAM's own JSON, a CloudFormation template, or Terraform's JSON syntax.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-iam-managedpolicy.html,
    https://developer.hashicorp.com/terraform/language/syntax/json
    """
    called = policy_name(phase, account)
    if form == "cloudformation":
        resource = "".join(part.capitalize() for part in called.split("-"))
        return {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": f"What {account} may do for Dask clusters on EC2 ({phase}).",
            "Resources": {
                resource: {
                    "Type": "AWS::IAM::ManagedPolicy",
                    "Properties": {"ManagedPolicyName": called, "PolicyDocument": document},
                }
            },
            "Outputs": {"PolicyArn": {"Value": {"Ref": resource}}},
        }
    if form == "terraform":
        # IAM's own variables look like Terraform's.
        text = json.dumps(document).replace("${", "$${").replace("%{", "%%{")
        return {"resource": {"aws_iam_policy": {called: {"name": called, "policy": text}}}}
    return dict(document)
