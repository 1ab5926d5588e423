"""IAM's rules that its model does not hold: sizes, names without case, documents that are policies."""

from __future__ import annotations

import json
import re
from collections import Counter

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_QUOTAS = "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html"
_NAMES = "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"
_GRAMMAR = "https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html"
_TAGS = "https://docs.aws.amazon.com/IAM/latest/UserGuide/id_tags.html"
_API = "https://docs.aws.amazon.com/IAM/latest/APIReference/API_{}.html"

kept(
    "delete-conflict",
    "iam",
    "DeleteRole DeleteInstanceProfile DeletePolicy DeleteUser",
    "DeleteConflict",
    "What still has policies, roles or profiles is not deleted.",
    _API.format("DeleteRole"),
)
kept("no-such", "iam", "*", "NoSuchEntity", "What is named is there.", _API.format("GetRole"))

# Characters, without white space where AWS does not count it.
_TRUST = 2048
_INLINE = {"Role": 10240, "User": 2048, "Group": 5120}
_MANAGED = 6144
_ATTACHED = 10


def _without_space(text: str) -> int:
    return len(re.sub(r"\s", "", text))


@rule(
    "iam",
    "CreateRole UpdateAssumeRolePolicy",
    "LimitExceeded",
    f"A trust policy has at most {_TRUST} characters.",
    _QUOTAS,
    status=409,
)
def trust_size(asked: Asked) -> str | None:
    text = asked.get("AssumeRolePolicyDocument") or asked.get("PolicyDocument") or ""
    return f"Cannot exceed quota for ACLSizePerRole: {_TRUST}" if _without_space(text) > _TRUST else None


@rule(
    "iam",
    "CreatePolicy CreatePolicyVersion",
    "LimitExceeded",
    f"A managed policy has at most {_MANAGED} characters.",
    _QUOTAS,
    status=409,
)
def policy_size(asked: Asked) -> str | None:
    size = _without_space(asked.get("PolicyDocument") or "")
    return f"Cannot exceed quota for PolicySize: {_MANAGED}" if size > _MANAGED else None


@rule(
    "iam",
    "PutRolePolicy PutUserPolicy PutGroupPolicy",
    "LimitExceeded",
    "The inline policies of a role have 10,240 characters together, a user's 2,048, a group's 5,120.",
    _QUOTAS,
    needs="account",
    status=409,
)
def inline_size(asked: Asked, account: Account) -> str | None:
    kind = asked.action.removeprefix("Put").removesuffix("Policy")
    name = asked.get(f"{kind}Name")
    holders = {"Role": account.iam.roles, "User": account.iam.users, "Group": account.iam.groups}[kind]
    holder = next((one for one in holders.values() if one.name == name), None)
    others = dict(holder.policies) if holder is not None else {}
    others[asked.get("PolicyName")] = asked.get("PolicyDocument") or ""
    total = sum(_without_space(t if isinstance(t, str) else json.dumps(t)) for t in others.values())
    if total <= _INLINE[kind]:
        return None
    return f"Maximum policy size of {_INLINE[kind]} bytes exceeded for {kind.lower()} {name}"


@rule(
    "iam",
    "AttachRolePolicy AttachUserPolicy AttachGroupPolicy",
    "LimitExceeded",
    f"At most {_ATTACHED} managed policies on a role, a user or a group.",
    _QUOTAS,
    needs="account",
    status=409,
)
def attached(asked: Asked, account: Account) -> str | None:
    kind = asked.action.removeprefix("Attach").removesuffix("Policy")
    holders = {"Role": account.iam.roles, "User": account.iam.users, "Group": account.iam.groups}[kind]
    holder = next((one for one in holders.values() if one.name == asked.get(f"{kind}Name")), None)
    if holder is None or asked.get("PolicyArn") in holder.managed_policies:
        return None
    full = len(holder.managed_policies) >= _ATTACHED
    return f"Cannot exceed quota for PoliciesPer{kind}: {_ATTACHED}" if full else None


@rule(
    "iam",
    "AddRoleToInstanceProfile",
    "LimitExceeded",
    "An instance profile has one role.",
    _API.format("AddRoleToInstanceProfile"),
    needs="account",
    status=409,
)
def profile_role(asked: Asked, account: Account) -> str | None:
    profile = account.iam.instance_profiles.get(asked.get("InstanceProfileName"))
    if profile is None:
        profiles = account.iam.instance_profiles.values()
        profile = next((p for p in profiles if p.name == asked.get("InstanceProfileName")), None)
    if profile is not None and profile.roles:
        return "Cannot exceed quota for InstanceSessionsPerInstanceProfile: 1"
    return None


@rule(
    "iam",
    "RemoveRoleFromInstanceProfile",
    "NoSuchEntity",
    "A role that is taken out of an instance profile is in it.",
    _API.format("RemoveRoleFromInstanceProfile"),
    needs="account",
    status=404,
)
def role_in_profile(asked: Asked, account: Account) -> str | None:
    wanted = asked.get("InstanceProfileName")
    for profile in account.iam.instance_profiles.values():
        if profile.name == wanted and all(r.name != asked.get("RoleName") for r in profile.roles):
            return f"Role with name {asked.get('RoleName')} cannot be found in instance profile {wanted}."
    return None


@rule(
    "iam",
    "CreateRole CreateInstanceProfile CreateUser CreateGroup",
    "EntityAlreadyExists",
    "Names are there once in an account, whatever their case and path.",
    _NAMES,
    needs="account",
    status=409,
)
def name_once(asked: Asked, account: Account) -> str | None:
    kind = asked.action.removeprefix("Create")
    holders = {
        "Role": account.iam.roles,
        "InstanceProfile": account.iam.instance_profiles,
        "User": account.iam.users,
        "Group": account.iam.groups,
    }[kind]
    name = str(asked.get(f"{kind}Name"))
    if any(one.name.lower() == name.lower() for one in holders.values()):
        words = "Instance Profile" if kind == "InstanceProfile" else kind
        return f"{words} with name {name} already exists."
    return None


@rule(
    "iam",
    "CreateRole PutRolePermissionsBoundary",
    "NoSuchEntity",
    "A permissions boundary is a policy that is there.",
    _API.format("PutRolePermissionsBoundary"),
    needs="account",
    status=404,
)
def boundary_there(asked: Asked, account: Account) -> str | None:
    arn = asked.get("PermissionsBoundary")
    if not arn or arn in account.iam.managed_policies:
        return None
    return f"Scope ARN: {arn} does not exist or is not attachable."


@rule(
    "iam",
    "CreateRole UpdateAssumeRolePolicy",
    "MalformedPolicyDocument",
    "A trust policy has statements with an effect, a principal and an action, and no resource.",
    _GRAMMAR,
)
def trust_document(asked: Asked) -> str | None:
    text = asked.get("AssumeRolePolicyDocument") or asked.get("PolicyDocument") or ""
    return _malformed(text, needed=("Effect", "Principal", "Action"), prohibited="Resource")


@rule(
    "iam",
    "PutRolePolicy PutUserPolicy PutGroupPolicy CreatePolicy CreatePolicyVersion",
    "MalformedPolicyDocument",
    "A policy has statements with an effect, actions and resources, and no principal.",
    _GRAMMAR,
)
def document(asked: Asked) -> str | None:
    return _malformed(
        asked.get("PolicyDocument") or "", needed=("Effect", "Action", "Resource"), prohibited="Principal"
    )


def _malformed(text: str, *, needed: tuple[str, ...], prohibited: str) -> str | None:
    try:
        found = json.loads(text)
    except ValueError:
        return "This policy contains invalid Json"
    if not isinstance(found, dict):
        return "Syntax errors in policy."
    if "Statement" not in found:
        return "Missing required field Statement"
    statements = found["Statement"] if isinstance(found["Statement"], list) else [found["Statement"]]
    if not all(isinstance(statement, dict) for statement in statements):
        return "Syntax errors in policy."
    for statement in statements:
        for name in needed:
            if name not in statement and f"Not{name}" not in statement:
                return f"Missing required field {name}"
        if statement.get("Effect") not in ("Allow", "Deny"):
            return "Invalid effect: an effect is Allow or Deny"
        if prohibited in statement:
            return f"Has prohibited field {prohibited}"
    return None


@rule(
    "iam",
    "Create* Tag*",
    "InvalidInput",
    "Tags are there once, whatever their case, and aws: is AWS's own.",
    _TAGS,
)
def tags(asked: Asked) -> str | None:
    keys = [str(tag.get("Key")).lower() for tag in asked.all("Tags")]
    if any(key.startswith("aws:") for key in keys):
        return "Tag keys that start with aws: are reserved for system use."
    if any(many > 1 for many in Counter(keys).values()):
        return "Duplicate tag keys found. Please note that Tag keys are case insensitive."
    return None


@rule(
    "iam",
    "CreateServiceLinkedRole",
    "InvalidInput",
    "A service-linked role is there once.",
    _API.format("CreateServiceLinkedRole"),
    needs="account",
)
def linked_role(asked: Asked, account: Account) -> Refusal | str | None:
    service = str(asked.get("AWSServiceName"))
    path = f"/aws-service-role/{service}/"
    for role in account.iam.roles.values():
        if role.path == path and not asked.get("CustomSuffix"):
            return (
                f"Service role name {role.name} has been taken in this account, please try a different "
                f"suffix."
            )
    return None
