"""The permissions boundary of the machines' role: looked for before anything is made, made where that may be.

The first set-up makes it, if `prefect-coiled setup iam` has not (see `plan.boundary`). One that is there is
never changed: an administrator may have widened or narrowed it.
"""

from __future__ import annotations

import json

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.ownership import is_ours
from prefect_coiled.errors import AccessDeniedError, AlreadyExistsError, NotFoundError, ProvisionError
from prefect_coiled.plan import boundary, machine_policies, tags
from prefect_coiled.plan.iam_setup import policy_name
from prefect_coiled.plan.kinds import Item, Kind, There


def wanted_arn(aws: Aws) -> str:
    """The ARN of the boundary that the account's role must have; empty if it needs none."""
    if aws.boundary == boundary.NO_BOUNDARY:
        return ""
    return boundary.effective_boundary(aws.boundary, aws.account, aws.number, _partition(aws))


def bound_by(role: Item) -> str:
    """The ARN of the boundary that a role has; empty if it has none."""
    return str((role.get("PermissionsBoundary") or {}).get("PermissionsBoundaryArn", ""))


def _partition(aws: Aws) -> str:
    return str(aws.session.get_partition_for_region(aws.region))


def ensure_boundary(aws: Aws) -> str:
    """See that the boundary is there. Returns its ARN; empty if none is needed.

    Raises:
        ProvisionError: If there is no policy of the ARN that the account names.
        AccessDeniedError: If it may not be looked at; or it is not there, and may not be made.
    """
    arn = wanted_arn(aws)
    if not arn:
        return ""
    what = f"looking for the permissions boundary ({arn.rpartition('/')[2]})"
    try:
        aws.call("iam:GetPolicy", what, PolicyArn=arn)
        return arn
    except NotFoundError as error:
        if arn.rpartition("/")[2] != policy_name("boundary", aws.account):
            # What is to be in another one, who named it knows.
            raise ProvisionError(
                what, "there is no such policy in this AWS account", _BY_HAND.format(aws.account)
            ) from error
    _create(aws)
    return arn


def _create(aws: Aws) -> None:
    _, document = machine_policies.boundary_of(aws.account, aws.number, _partition(aws))
    what = f"creating the permissions boundary ({policy_name('boundary', aws.account)})"
    try:
        aws.call(
            "iam:CreatePolicy",
            what,
            PolicyName=policy_name("boundary", aws.account),
            PolicyDocument=json.dumps(document),
            Description="The most that machines of Dask clusters made by prefect_coiled may do",
            Tags=tags.to_aws(tags.uncased(aws.labels())),
        )
    except AlreadyExistsError:  # made by somebody else at this moment
        pass
    except AccessDeniedError as error:
        raise error.retold(
            _next_step(aws.account),
            why=f"it is not there, and these credentials may not make it: {error.diagnosis.why}",
        ) from error


_BY_HAND = (
    "Let an administrator make it (`prefect-coiled policies boundary --account {0}`), or name another one: "
    "`prefect-coiled account edit {0} --permissions-boundary ARN`."
)


def _next_step(account: str) -> str:
    return (
        "An administrator makes it once, with the policies that want it: `prefect-coiled setup iam "
        f"--account {account} --user NAME --apply` (or `--group`, `--role`). To do without it: "
        f"`prefect-coiled account edit {account} --permissions-boundary none`; whoever may set up can then "
        "give the machines' role, and by it himself, everything."
    )


def unbound(aws: Aws, there: There) -> str:
    """What to say of a role from before the boundary, or of one with another; empty if it is as it should be.

    Machines of such a role go on as before. It is not bound in passing: what is attached to it may need more
    than the boundary allows.
    """
    wanted = wanted_arn(aws)
    for role in there.get("role", ()):
        found = bound_by(role)
        if wanted and found != wanted:
            has = f"with the permissions boundary {found}" if found else "without a permissions boundary"
            return (
                f"there, {has}. An administrator gives it that of the account: `prefect-coiled setup iam "
                f"--account {aws.account} --user NAME --apply`; or set up again after `prefect-coiled "
                f"account edit {aws.account} --permissions-boundary {wanted}`"
            )
    return ""


def find_boundary(aws: Aws) -> list[Item]:
    """The boundary that was made with the account's policies, if it is there, ours, and may be seen."""
    arn = boundary.boundary_arn(aws.account, aws.number, _partition(aws))
    try:
        found: Item = aws.call("iam:GetPolicy", "looking for the permissions boundary", PolicyArn=arn)[
            "Policy"
        ]
    except (NotFoundError, AccessDeniedError):
        return []
    return [found] if is_ours(aws, tags.from_aws(found.get("Tags")), arn) else []


def _delete(aws: Aws, items: list[Item]) -> None:
    """With its versions, which have to go before.

    https://docs.aws.amazon.com/IAM/latest/APIReference/API_DeletePolicy.html
    """
    (arn,) = (str(item["Arn"]) for item in items)
    what = f"deleting the permissions boundary ({arn.rpartition('/')[2]})"
    try:
        for version in list(aws.pages("iam:ListPolicyVersions", what, "Versions", PolicyArn=arn)):
            if not version["IsDefaultVersion"]:
                aws.call("iam:DeletePolicyVersion", what, PolicyArn=arn, VersionId=version["VersionId"])
        aws.call("iam:DeletePolicy", what, PolicyArn=arn)
    except AccessDeniedError as error:
        why = f"it is an administrator's, and costs nothing: `aws iam delete-policy --policy-arn {arn}`"
        raise error.retold(error.diagnosis.next_step, why=why) from error


# Looked for when a role is to be made, and when an account goes; else it is an administrator's.
BOUNDARY = Kind(
    name="permissions boundary",
    find=lambda aws, scope: (),
    id_of=lambda item: str(item.get("Arn", "")),
    listed=False,
    everywhere=True,
    part_of="role",
    administered=True,
    asked=lambda want: want.boundary != boundary.NO_BOUNDARY,
    places=lambda want, there: () if there["role"] else ("",),
    create=lambda aws, place, want, there: {"Arn": ensure_boundary(aws)},
    delete=_delete,
)
