"""How the policies come to whoever calls AWS: as commands for a shell, for CloudFormation, for Terraform.

Pure: from documents to text. Nothing here calls AWS, whose administrator need not be who uses this library.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal, get_args

from prefect_coiled.errors import OptionsError

__all__ = ["FORMATS", "PRINCIPALS", "Format", "Principal", "commands", "policy_name", "written"]

Principal = Literal["user", "group", "role"]
PRINCIPALS: tuple[Principal, ...] = get_args(Principal)
Format = Literal["json", "cloudformation", "terraform"]
FORMATS: tuple[Format, ...] = get_args(Format)

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_LONGEST = {"user": 64, "group": 128, "role": 64}


def policy_name(phase: str, account: str) -> str:
    """What a policy of an account is called in IAM."""
    return f"coiled-{phase}-{account}"


def commands(
    documents: Mapping[str, Mapping[str, Any]],
    account: str,
    principal: Principal,
    name: str,
    *,
    aws_account_id: str,
    partition: str = "aws",
    make: bool = True,
) -> list[str]:
    """Commands of AWS's own tool that make the policies and attach them; each a line for a shell.

    Args:
        documents: The policies by phase.
        account: The account's slug.
        principal: What they are attached to.
        name: Its name.
        aws_account_id: 12 digits; they are in the ARNs of the policies.
        partition: "aws", or that of China or GovCloud.
        make: Whether a user is to be made, with a key. Groups and roles are there already: who is in them, or
            may assume them, is not this library's to say.

    Raises:
        OptionsError: If the name is none that IAM takes, or the AWS account's number is not one.
    """
    if not re.fullmatch(r"[\w+=,.@-]+", name, re.ASCII) or len(name) > _LONGEST[principal]:
        raise OptionsError(
            f"{principal} {name!r}",
            f"must be of letters, digits and _+=,.@-, at most {_LONGEST[principal]} characters.",
        )
    if not re.fullmatch(r"\d{12}", aws_account_id):
        raise OptionsError(f"aws_account_id {aws_account_id!r}", "must have 12 digits.")
    whom = (f"--{principal}-name", name)
    lines: list[tuple[str, ...]] = []
    if principal == "user" and make:
        lines.append(("create-user", *whom))
    for phase, document in documents.items():
        called = policy_name(phase, account)
        text = json.dumps(document, separators=(",", ":"))
        lines.append(("create-policy", "--policy-name", called, "--policy-document", text))
        arn = f"arn:{partition}:iam::{aws_account_id}:policy/{called}"
        lines.append((f"attach-{principal}-policy", *whom, "--policy-arn", arn))
    if principal == "user" and make:
        lines.append(("create-access-key", *whom))
    return [shlex.join(("aws", "iam", *line)) for line in lines]


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
