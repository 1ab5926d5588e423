"""The IAM role of the account's machines, its policy, and the instance profile of the same name."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from urllib.parse import unquote

from prefect_coiled.aws.boundary import bound_by, wanted_arn
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.ownership import check_ours
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import (
    AccessDeniedError,
    NotFoundError,
    OptionsError,
    ProvisionError,
    QuotaError,
)
from prefect_coiled.plan import machine_policies, tags
from prefect_coiled.plan.boundary import NO_BOUNDARY
from prefect_coiled.plan.kinds import ALL, Item, Kind, Scope, There, Wanted

_POLICY_ARN = re.compile(r"arn:aws[a-z-]*:iam::(aws|\d{12}):policy/[\w+=,.@/-]+", re.ASCII)
POLICY_NAME = "coiled-instance"


def find_role(aws: Aws) -> Item | None:
    """The role named as the account, if there is one, with the text of its policy as "Policy".

    Raises:
        ProvisionError: If a role of that name exists that is not ours.
    """
    found = _find_role(aws, ALL)
    for role in found:
        check_ours(aws, f"role ({aws.account})", tags.from_aws(role.get("Tags")), role["Arn"])
    return found[0] if found else None


def _find_role(aws: Aws, scope: Scope) -> list[Item]:
    what = f"finding role ({aws.account})"
    try:
        role: Item = aws.call("iam:GetRole", what, RoleName=aws.account)["Role"]
    except NotFoundError:
        return []
    return [{**role, "Policy": _policy(aws)}]


def _create_role(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    bound = wanted_arn(aws)
    what = f"creating role ({aws.account})"

    def make() -> Item:
        made: Item = aws.call(
            "iam:CreateRole",
            what,
            RoleName=aws.account,
            AssumeRolePolicyDocument=machine_policies.trust_policy(
                aws.session.get_partition_for_region(aws.region)
            ),
            Description="Machines of Dask clusters made by prefect_coiled",
            Tags=tags.to_aws(tags.uncased(tags.named(aws.labels(), aws.account))),
            **({"PermissionsBoundary": bound} if bound else {}),
        )["Role"]
        return made

    # IAM may not know a boundary yet that was made a moment ago.
    return retry_while(aws, what, make, NotFoundError, timeout=VISIBLE) if bound else make()


def _role_lacks(item: Item, want: Wanted, there: There) -> str:
    """The boundary is the named one, and the policy that which machines of this version need.

    Where none is named, a role keeps the boundary that it has, or has not; see `boundary.unbound`.
    """
    if _is_to_be_bound(item, want):
        return f"its permissions boundary is {bound_by(item) or 'missing'}"
    found = item.get("Policy")
    if found is None:
        return "it has no policy"
    current = json.loads(found) == json.loads(_wanted(str(item["Arn"])))
    return "" if current else "its policy is not that of this version"


def _is_to_be_bound(item: Item, want: Wanted) -> bool:
    return want.boundary not in ("", NO_BOUNDARY, bound_by(item))


def _write_policy(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    if _is_to_be_bound(item, want):
        aws.call(
            "iam:PutRolePermissionsBoundary",
            f"bounding role ({aws.account})",
            RoleName=aws.account,
            PermissionsBoundary=want.boundary,
        )
    document = _wanted(str(item["Arn"]))
    aws.call(
        "iam:PutRolePolicy",
        f"writing the policy of role ({aws.account})",
        RoleName=aws.account,
        PolicyName=POLICY_NAME,
        PolicyDocument=document,
    )
    return {**item, "Policy": document}


def _wanted(arn: str) -> str:
    """The policy of the role of that ARN."""
    parts = arn.split(":")
    return machine_policies.instance_policy(parts[-1].removeprefix("role/"), parts[4], parts[1])


def _find_profile(aws: Aws, scope: Scope) -> list[Item]:
    what = f"finding instance profile ({aws.account})"
    try:
        return [aws.call("iam:GetInstanceProfile", what, InstanceProfileName=aws.account)["InstanceProfile"]]
    except NotFoundError:
        return []


def _create_profile(aws: Aws, place: str, want: Wanted, there: There) -> Item:
    made: Item = aws.call(
        "iam:CreateInstanceProfile",
        f"creating instance profile ({aws.account})",
        InstanceProfileName=aws.account,
        Tags=tags.to_aws(tags.uncased(tags.named(aws.labels(), aws.account))),
    )["InstanceProfile"]
    return made


def _add_role(aws: Aws, item: Item, want: Wanted, there: There) -> Item:
    what = f"putting role ({aws.account}) into its instance profile"
    try:
        aws.call("iam:AddRoleToInstanceProfile", what, InstanceProfileName=aws.account, RoleName=aws.account)
    except QuotaError:
        # A profile holds one role: a second set-up was faster (IAM says LimitExceeded).
        if not any(profile.get("Roles") for profile in _find_profile(aws, ALL)):
            raise
    return {**item, "Roles": [{"RoleName": aws.account}]}


def attached_policies(aws: Aws) -> list[str]:
    """The ARNs of the managed policies that the role has.

    Raises:
        ProvisionError: If the account has no role yet.
    """
    try:
        return _attached(aws)
    except NotFoundError as error:
        raise _not_set_up(aws) from error


def _attached(aws: Aws) -> list[str]:
    what = f"listing policies of role ({aws.account})"
    items = aws.pages("iam:ListAttachedRolePolicies", what, "AttachedPolicies", RoleName=aws.account)
    return sorted(str(p["PolicyArn"]) for p in items)


def check_policy_arn(arn: str) -> str:
    """Check the form of a managed policy's ARN.

    Raises:
        OptionsError: If it is none, or the policy would open the whole AWS account to the machines.
    """
    _check_form(arn)
    if arn.rsplit("/", 1)[-1] in machine_policies.NEVER_ATTACHED:
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
        if machine_policies.attachable(arn, aws.number):
            raise
        raise error.retold(
            "The set-up policy lets AWS's policies for reading and for S3 be attached, and those of your own "
            f"under the path /{machine_policies.OWN_PATH}/. Somebody who may can attach this, or put what is "
            "needed into such a policy."
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
    with suppress(NotFoundError):
        what = f"detaching {arn} from role ({aws.account})"
        aws.call("iam:DetachRolePolicy", what, RoleName=aws.account, PolicyArn=arn)
    return True


def _known(aws: Aws) -> None:
    if find_role(aws) is None:
        raise _not_set_up(aws)


def _not_set_up(aws: Aws) -> ProvisionError:
    return ProvisionError(
        f"finding role ({aws.account})",
        "the account is not set up yet",
        f"Run `prefect-coiled setup aws --account {aws.account}` first.",
    )


def _delete_profile(aws: Aws, items: list[Item]) -> None:
    (item,) = items
    what = f"deleting instance profile ({aws.account})"
    for role in item.get("Roles", ()):
        named = {"InstanceProfileName": aws.account, "RoleName": role["RoleName"]}
        with suppress(NotFoundError):
            aws.call("iam:RemoveRoleFromInstanceProfile", what, **named)
    aws.call("iam:DeleteInstanceProfile", what, InstanceProfileName=aws.account)


def _delete_role(aws: Aws, items: list[Item]) -> None:
    what, role = f"deleting role ({aws.account})", {"RoleName": aws.account}
    if not bound_by(items[0]) and (bound := wanted_arn(aws)):
        # From a role from before its boundary the set-up policy of this version lets no policy be taken.
        with suppress(AccessDeniedError, NotFoundError):
            aws.call("iam:PutRolePermissionsBoundary", what, PermissionsBoundary=bound, **role)
    for name in aws.pages("iam:ListRolePolicies", what, "PolicyNames", **role):
        with suppress(NotFoundError):
            aws.call("iam:DeleteRolePolicy", what, PolicyName=name, **role)
    for arn in _attached(aws):
        with suppress(NotFoundError):
            aws.call("iam:DetachRolePolicy", what, PolicyArn=arn, **role)
    aws.call("iam:DeleteRole", what, **role)


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


ROLE = Kind(
    name="IAM role",
    find=_find_role,
    id_of=lambda item: str(item["RoleName"]),
    owner=lambda item: str(item["Arn"]),
    note=lambda item: "all regions",
    everywhere=True,
    prefix="role/",
    asked=lambda want: True,
    lacks=_role_lacks,
    create=_create_role,
    update=_write_policy,
    delete=_delete_role,
    waits_for=("boundary",),
)

INSTANCE_PROFILE = Kind(
    name="instance profile",
    find=_find_profile,
    id_of=lambda item: str(item["InstanceProfileName"]),
    owner=lambda item: str(item["Arn"]),
    note=lambda item: "all regions",
    everywhere=True,
    part_of="role",
    prefix="instance-profile/",
    waits_for=("role",),
    asked=lambda want: True,
    lacks=lambda item, want, there: "" if item.get("Roles") else "the role is not in it",
    create=_create_profile,
    update=_add_role,
    delete=_delete_profile,
)
