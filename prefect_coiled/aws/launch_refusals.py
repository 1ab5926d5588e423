"""Refusals of RunInstances that AWS has no code of their own for: which one it is, and what to do next."""

from __future__ import annotations

from prefect_coiled.aws import quotas
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccountStateError, AwsError, InvalidRequestError
from prefect_coiled.plan.aws_codes import CODES


def explained(aws: Aws, instance_type: str, error: AwsError) -> AwsError:
    """The refusal as what it is; as it came if it is none of these.

    Args:
        instance_type: Of the machines that were asked for.
    """
    return (
        _profile_not_ready(error)
        or _no_such_image(error)
        or _other_architecture(error)
        or _no_such_disk(error)
        or _free_plan(aws, instance_type, error)
        or error
    )


class ProfileNotReadyError(AwsError):
    """EC2 does not know the instance profile yet; it may take two minutes after its creation."""


def _profile_not_ready(error: AwsError) -> AwsError | None:
    # AWS has no code of its own: InvalidParameterValue names the parameter, or says that the profile "has no
    # associated IAM Roles", which a new one has only after a while.
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_general.html (eventual consistency)
    said = error.diagnosis.why.lower().replace(" ", "")
    if error.code == "InvalidParameterValue" and "iaminstanceprofile" in said:
        return error.told_as(ProfileNotReadyError)
    return None


def _no_such_image(error: AwsError) -> AwsError | None:
    # An image that was made private, or is withdrawn, has the code of credentials that are no good.
    # https://github.com/DataBiosphere/toil/issues/3512
    if error.code != "AuthFailure" or "not authorized for images" not in error.diagnosis.why.lower():
        return None
    return error.told_as(
        InvalidRequestError,
        why=f"{error.diagnosis.why.rstrip('. ')} (it was withdrawn, or is not this AWS account's to use)",
        next_step="Make a cluster anew: the newest image is looked up. One that runs keeps the image that it "
        "began with.",
    )


def _other_architecture(error: AwsError) -> AwsError | None:
    # The code is that of any value that does not fit: https://github.com/skypilot-org/skypilot/issues/6315
    if error.code != "InvalidParameterValue" or "does not match the architecture" not in error.diagnosis.why:
        return None
    return error.told_as(
        InvalidRequestError,
        next_step="Give worker_vm_types and scheduler_vm_types of one architecture, x86_64 or arm64.",
    )


def _no_such_disk(error: AwsError) -> AwsError | None:
    # Local and Wavelength Zones may lack a kind of disks; the code is that of any value that does not fit.
    # https://github.com/awslabs/amazon-eks-ami/pull/1295
    if error.code not in ("InvalidParameterValue", "InvalidParameterCombination") or (
        "gp3" not in error.diagnosis.why
    ):
        return None
    row = CODES["VolumeTypeNotAvailableInZone"]
    why = f"{error.diagnosis.why.rstrip('. ')} ({row.gloss})"
    return error.told_as(row.cls, why=why, next_step=row.next_step)


def _free_plan(aws: Aws, instance_type: str, error: AwsError) -> AwsError | None:
    # Nor has AWS a code for this: the code is that of any parameters that do not go together.
    if error.code != "InvalidParameterCombination":
        return None
    allowed = quotas.free_plan_types(aws)
    said = "free tier" in error.diagnosis.why.lower()
    if not said and (instance_type in allowed or not quotas.on_free_plan(aws)):
        return None
    return error.told_as(
        AccountStateError,
        why=f"{error.diagnosis.why.rstrip('. ')}: the AWS account is on AWS's free plan, which launches "
        f"{', '.join(allowed)} only",
        next_step=f'Use worker_vm_types="{allowed[0]}" and scheduler_vm_types="{allowed[0]}", or upgrade the '
        "plan (Billing and Cost Management console).",
    )
