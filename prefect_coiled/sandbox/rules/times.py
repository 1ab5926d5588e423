"""What needs time on AWS: a new profile, a new policy, the name of a deleted bucket. Each by a setting.

Pending machines, NAT gateways and images are in the corrections; lists that lag are in `lag`.
"""

from __future__ import annotations

from prefect_coiled.sandbox.rules.account import Account, History, Launch
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import kept, rule
from prefect_coiled.sandbox.settings import Settings

__all__ = ["note", "role_works"]

_IAM = "https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html"
_CONSISTENCY = "https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html"

kept(
    "lag",
    "ec2",
    "*",
    "Invalid<Kind>.NotFound",
    "What was just made is not in lists yet, and not found by its id.",
    _CONSISTENCY,
    "time",
)
kept(
    "new-policy",
    "iam",
    "*",
    "AccessDenied, AccessDeniedException, UnauthorizedOperation",
    "A new role's policies count after a while: until then its machines' calls are denied.",
    _IAM,
    "time",
)


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "A new instance profile can be launched with after a while.",
    "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/iam-roles-for-amazon-ec2.html",
    when="time",
    needs="launch",
)
def new_profile(launch: Launch) -> str | None:
    profile = launch.params.get("IamInstanceProfile") or {}
    name = profile.get("Name") or str(profile.get("Arn") or "").rpartition("/")[2]
    account = launch.account
    if not name or account.history.age("profile", name) >= account.settings.profile_delay:
        return None
    field = "name" if profile.get("Name") else "arn"
    value = profile.get("Name") or profile.get("Arn")
    kind = "name" if field == "name" else "ARN"
    return (
        f"Value ({value}) for parameter iamInstanceProfile.{field} is invalid. "
        f"Invalid IAM Instance Profile {kind}"
    )


@rule(
    "s3",
    "CreateBucket",
    "OperationAborted",
    "The name of a deleted bucket stays taken for a while.",
    "https://docs.aws.amazon.com/AmazonS3/latest/userguide/delete-bucket.html",
    when="time",
    needs="account",
    status=409,
)
def kept_name(asked: Asked, account: Account) -> str | None:
    if account.history.age("bucket", str(asked.get("Bucket"))) >= account.settings.bucket_name_kept:
        return None
    return (
        "A conflicting conditional operation is currently in progress against this resource. Please "
        "try again."
    )


def note(asked: Asked, history: History) -> None:
    """A call was answered with success: remember what is young, or just gone.

    Args:
        asked: The call.
        history: Where it is remembered.
    """
    if asked.service == "s3" and asked.action == "DeleteBucket":
        history.note("bucket", str(asked.get("Bucket")))
    if asked.service != "iam":
        return
    if asked.action in ("CreateInstanceProfile", "AddRoleToInstanceProfile"):
        history.note("profile", str(asked.get("InstanceProfileName")))
    elif asked.action in ("PutRolePolicy", "AttachRolePolicy"):
        # Later changes of a role that works are not waited for.
        history.note_first("policy", str(asked.get("RoleName")))
    elif asked.action == "DeleteRole":
        history.forget("policy", str(asked.get("RoleName")))


def role_works(role_name: str, settings: Settings, history: History) -> bool:
    """Whether a role's first policy counts by now.

    Args:
        role_name: The role.
        settings: `policy_delay`.
        history: What happened when.
    """
    return history.age("policy", role_name) >= settings.policy_delay
