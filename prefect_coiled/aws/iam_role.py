"""The IAM role of the account's machines, its policy, and the instance profile of the same name."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.ownership import check_ours
from prefect_coiled.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    OptionsError,
    ProvisionError,
    QuotaError,
)
from prefect_coiled.plan import policies, tags

_POLICY_ARN = re.compile(r"arn:aws[a-z-]*:iam::(aws|\d{12}):policy/[\w+=,.@/-]+")
POLICY_NAME = "coiled-instance"


def find_role(aws: Aws) -> dict[str, Any] | None:
    """The role named as the account, if there is one.

    Raises:
        ProvisionError: If a role of that name exists that is not ours.
    """
    try:
        role: dict[str, Any] = aws.call("iam:GetRole", f"finding role ({aws.account})", RoleName=aws.account)[
            "Role"
        ]
    except NotFoundError:
        return None
    check_ours(aws, f"role ({aws.account})", tags.from_aws(role.get("Tags")), role["Arn"])
    return role


def ensure_role(aws: Aws) -> str:
    """Find or make the role and see that its policy is the current one. Returns its ARN."""
    role = find_role(aws)
    if role is None:
        try:
            role = aws.call(
                "iam:CreateRole",
                f"creating role ({aws.account})",
                RoleName=aws.account,
                AssumeRolePolicyDocument=policies.trust_policy(
                    aws.session.get_partition_for_region(aws.region)
                ),
                Description="Machines of Dask clusters made by prefect_coiled",
                Tags=tags.to_aws(tags.named(tags.account_tags(aws.account), aws.account)),
            )["Role"]
        except AlreadyExistsError:  # made by another set-up at this moment
            role = find_role(aws) or {}
    arn = str(role["Arn"])
    if not has_policy(aws, arn):
        aws.call(
            "iam:PutRolePolicy",
            f"writing the policy of role ({aws.account})",
            RoleName=aws.account,
            PolicyName=POLICY_NAME,
            PolicyDocument=_wanted(arn),
        )
    return arn


def has_policy(aws: Aws, arn: str) -> bool:
    """Whether the role's policy is the one that machines of this version need.

    Args:
        aws: The door.
        arn: The role's ARN.
    """
    found = _policy(aws)
    return found is not None and json.loads(found) == json.loads(_wanted(arn))


def _wanted(arn: str) -> str:
    """The policy of the role of that ARN."""
    parts = arn.split(":")
    return policies.instance_policy(parts[-1].removeprefix("role/"), parts[4], parts[1])


def find_instance_profile(aws: Aws) -> dict[str, Any] | None:
    """The instance profile named as the account, if there is one."""
    try:
        reply = aws.call(
            "iam:GetInstanceProfile",
            f"finding instance profile ({aws.account})",
            InstanceProfileName=aws.account,
        )
    except NotFoundError:
        return None
    profile: dict[str, Any] = reply["InstanceProfile"]
    labels = tags.from_aws(profile.get("Tags"))
    check_ours(aws, f"instance profile ({aws.account})", labels, profile["Arn"])
    return profile


def ensure_instance_profile(aws: Aws) -> str:
    """Find or make the instance profile and put the role into it. Returns its ARN."""
    profile = find_instance_profile(aws)
    if profile is None:
        try:
            profile = aws.call(
                "iam:CreateInstanceProfile",
                f"creating instance profile ({aws.account})",
                InstanceProfileName=aws.account,
                Tags=tags.to_aws(tags.named(tags.account_tags(aws.account), aws.account)),
            )["InstanceProfile"]
        except AlreadyExistsError:
            profile = find_instance_profile(aws) or {}
    if not profile.get("Roles"):
        try:
            aws.call(
                "iam:AddRoleToInstanceProfile",
                f"putting role ({aws.account}) into its instance profile",
                InstanceProfileName=aws.account,
                RoleName=aws.account,
            )
        except QuotaError:
            # A profile holds one role: a second set-up was faster (IAM says LimitExceeded).
            profile = find_instance_profile(aws) or {}
            if not profile.get("Roles"):
                raise
    return str(profile["Arn"])


def attached_policies(aws: Aws) -> list[str]:
    """The ARNs of the managed policies that the role has.

    Raises:
        NotFoundError: If the account has no role yet.
    """
    what = f"listing policies of role ({aws.account})"
    items = aws.pages("iam:ListAttachedRolePolicies", what, "AttachedPolicies", RoleName=aws.account)
    return sorted(str(p["PolicyArn"]) for p in items)


def check_policy_arn(arn: str) -> str:
    """Check the form of a managed policy's ARN.

    Raises:
        OptionsError: If it is none, or the policy would open the whole AWS account to the machines.
    """
    _check_form(arn)
    if arn.rsplit("/", 1)[-1] in policies.NEVER_ATTACHED:
        raise OptionsError(
            f"policy {arn!r}",
            "would open the whole AWS account to everything that runs on a machine.",
            "Attach what the work needs, such as arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess.",
        )
    return arn


def _check_form(arn: str) -> None:
    if not _POLICY_ARN.fullmatch(arn):
        raise OptionsError(
            f"policy {arn!r}", "must look like arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess."
        )


def attach_policy(aws: Aws, arn: str) -> bool:
    """Attach a managed policy to the role. Returns whether it was not there yet.

    Raises:
        OptionsError: As `check_policy_arn` does, or if AWS has no such policy.
        ProvisionError: If the account has no role yet.
    """
    check_policy_arn(arn)
    _known(aws)
    if arn in attached_policies(aws):
        return False
    what = f"attaching {arn} to role ({aws.account})"
    try:
        aws.call("iam:AttachRolePolicy", what, RoleName=aws.account, PolicyArn=arn)
    except NotFoundError as error:
        raise OptionsError(f"policy {arn!r}", "AWS has no policy of that ARN.") from error
    except AccessDeniedError as error:
        if policies.attachable(arn, aws.number):
            raise
        raise AccessDeniedError(
            error.diagnosis.what,
            error.diagnosis.why,
            "The set-up policy lets AWS's policies for reading and for S3 be attached, and those of your own "
            f"under the path /{policies.OWN_PATH}/. Somebody who may can attach this one, or put what is "
            "needed into such a policy.",
            operation=error.operation,
            code=error.code,
            request_id=error.request_id,
        ) from error
    return True


def detach_policy(aws: Aws, arn: str) -> bool:
    """Take a managed policy from the role. Returns whether it was there.

    Raises:
        ProvisionError: If the account has no role yet.
    """
    _check_form(arn)
    _known(aws)
    if arn not in attached_policies(aws):
        return False
    _gone_is_fine(aws, "iam:DetachRolePolicy", RoleName=aws.account, PolicyArn=arn)
    return True


def _known(aws: Aws) -> None:
    if find_role(aws) is None:
        raise ProvisionError(
            f"finding role ({aws.account})",
            "the account is not set up yet",
            f"Run `prefect-coiled setup aws --account {aws.account}` first.",
        )


def delete_role(aws: Aws) -> list[str]:
    """Delete the instance profile and the role with its policies. Returns what was there."""
    removed = []
    profile = find_instance_profile(aws)
    if profile is not None:
        for role in profile.get("Roles", ()):
            _gone_is_fine(
                aws,
                "iam:RemoveRoleFromInstanceProfile",
                InstanceProfileName=aws.account,
                RoleName=role["RoleName"],
            )
        _gone_is_fine(aws, "iam:DeleteInstanceProfile", InstanceProfileName=aws.account)
        removed.append(f"instance-profile/{aws.account}")
    if find_role(aws) is not None:
        what = f"listing policies of role ({aws.account})"
        for name in aws.pages("iam:ListRolePolicies", what, "PolicyNames", RoleName=aws.account):
            _gone_is_fine(aws, "iam:DeleteRolePolicy", RoleName=aws.account, PolicyName=name)
        for policy in aws.pages(
            "iam:ListAttachedRolePolicies", what, "AttachedPolicies", RoleName=aws.account
        ):
            _gone_is_fine(aws, "iam:DetachRolePolicy", RoleName=aws.account, PolicyArn=policy["PolicyArn"])
        _gone_is_fine(aws, "iam:DeleteRole", RoleName=aws.account)
        removed.append(f"role/{aws.account}")
    return removed


def _gone_is_fine(aws: Aws, action: str, **parameters: Any) -> None:
    try:
        aws.call(action, f"deleting role ({aws.account})", **parameters)
    except NotFoundError:
        return


def _policy(aws: Aws) -> str | None:
    try:
        reply = aws.call(
            "iam:GetRolePolicy",
            f"reading the policy of role ({aws.account})",
            RoleName=aws.account,
            PolicyName=POLICY_NAME,
        )
    except NotFoundError:
        return None
    document = reply["PolicyDocument"]
    if isinstance(document, dict):  # botocore decodes the URL-encoded JSON
        return json.dumps(document, indent=1)
    return unquote(document)
