"""The key that encrypts disks: moto does not tell it, and lets everybody use it.

Where it is a customer's, EC2 starts a machine for whoever may not use it, and ends it at once.
https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html#ebs-encryption-permissions
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response

from prefect_coiled.sandbox.iam.decide import Request, decide
from prefect_coiled.sandbox.iam.evaluator import ADMINISTRATOR
from prefect_coiled.sandbox.iam.principals import principal_of
from prefect_coiled.sandbox.settings import Settings

__all__ = ["install", "unreadable"]

_OWN = "alias/aws/ebs"
_USES = ("kms:CreateGrant", "kms:Decrypt", "kms:GenerateDataKeyWithoutPlaintext")


def install(settings: Settings) -> None:
    """Answer GetEbsDefaultKmsKeyId by the setting `disk_key`."""

    def get_ebs_default_kms_key_id(self: Any) -> ActionResult:
        return ActionResult({"KmsKeyId": settings.disk_key or _OWN})

    EC2Response.get_ebs_default_kms_key_id = get_ebs_default_kms_key_id


def unreadable(settings: Settings, access_key: str, region: str, params: Mapping[str, Any]) -> bool:
    """Whether the disks of a launch are encrypted with a key that the caller may not use.

    Args:
        settings: `disk_key`, and `iam`, by which policies count at all.
        access_key: Who launches.
        region: The region.
        params: The parameters of RunInstances, with those of the template.
    """
    disks = [mapping.get("Ebs") or {} for mapping in params.get("BlockDeviceMappings") or ()]
    if not settings.disk_key or settings.iam != "on" or access_key == ADMINISTRATOR:
        return False
    principal = principal_of(access_key)
    if principal is None or not any(disk.get("Encrypted") for disk in disks):
        return False
    context = {
        **principal.context,
        "kms:viaservice": f"ec2.{region}.amazonaws.com",
        "kms:grantisforawsresource": "true",
    }
    requests = (Request(action, settings.disk_key, context) for action in _USES)
    return not all(decide(principal.documents, request).allowed for request in requests)
