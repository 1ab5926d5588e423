"""Launch templates: everything about a machine of a cluster but its number, type and zone."""

from __future__ import annotations

from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.tagged import ec2_kind
from prefect_coiled.aws.waits import VISIBLE, retry_while
from prefect_coiled.errors import AlreadyExistsError, NotFoundError
from prefect_coiled.plan import tags


def ensure_launch_template(
    aws: Aws, name: str, data: dict[str, Any], labels: dict[str, str], token: str, *, wait: bool = True
) -> str:
    """Find the template of that name or make it. Returns its id.

    Args:
        wait: Whether EC2 must know it before something else is done.

    Names are unique in a region, and a cluster's uid is part of the name, so that a template found by name
    always has the content that was planned.
    """
    try:
        reply = aws.call(
            "ec2:CreateLaunchTemplate",
            f"creating launch template ({name})",
            LaunchTemplateName=name,
            LaunchTemplateData=data,
            ClientToken=token,
            TagSpecifications=tags.specifications(labels, "launch-template"),
        )
        found = str(reply["LaunchTemplate"]["LaunchTemplateId"])
    except AlreadyExistsError:
        reply = _described(aws, name, LaunchTemplateNames=[name])
        return str(reply["LaunchTemplates"][0]["LaunchTemplateId"])
    if wait:
        # A launch with a template that EC2 does not know yet is refused, and counts against the rate of
        # launches.
        _described(aws, name, LaunchTemplateIds=[found])
    return found


def _described(aws: Aws, name: str, **wanted: Any) -> dict[str, Any]:
    """Wait until EC2 knows a template, and give what it says of it."""
    return retry_while(
        aws,
        f"waiting for launch template ({name}) to be visible",
        lambda: aws.call("ec2:DescribeLaunchTemplates", f"finding launch template ({name})", **wanted),
        NotFoundError,
        timeout=VISIBLE,
    )


LAUNCH_TEMPLATE = ec2_kind(
    "launch template",
    "ec2:DescribeLaunchTemplates",
    "LaunchTemplates",
    "LaunchTemplateId",
    "ec2:DeleteLaunchTemplate",
    note=lambda item: str(item["LaunchTemplateName"]),
    of_clusters=True,
    waits_for=("intent",),
)
