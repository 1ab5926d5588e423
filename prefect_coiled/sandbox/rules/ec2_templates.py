"""EC2's rules for images and launch templates."""

from __future__ import annotations

import base64
import re

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"

kept(
    "template-name-once",
    "ec2",
    "CreateLaunchTemplate",
    "InvalidLaunchTemplateName.AlreadyExistsException",
    "A launch template's name is there once.",
    _API.format("CreateLaunchTemplate"),
)
kept(
    "image-name-once",
    "ec2",
    "CreateImage",
    "InvalidAMIName.Duplicate",
    "An image's name is there once.",
    _API.format("CreateImage"),
)
kept(
    "snapshot-in-use",
    "ec2",
    "DeleteSnapshot",
    "InvalidSnapshot.InUse",
    "An image's snapshot stays as long as the image.",
    _API.format("DeleteSnapshot"),
)


# -- images --------------------------------------------------------------------------------------------------


@rule(
    "ec2",
    "CreateImage RegisterImage CopyImage",
    "InvalidAMIName.Malformed",
    "An image's name has 3 to 128 characters: letters, digits and ()[] ./-'@_",
    _API.format("CreateImage"),
)
def image_name(asked: Asked) -> str | None:
    name = asked.get("Name") or ""
    if re.fullmatch(r"[a-zA-Z0-9()\[\] ./\-'@_]{3,128}", name):
        return None
    return (
        "AMI names must be between 3 and 128 characters long, and may contain letters, numbers, "
        "'(', ')', '.', '-', '/' and '_'"
    )


# -- launch templates ----------------------------------------------------------------------------------------


@rule(
    "ec2",
    "CreateLaunchTemplate",
    "InvalidLaunchTemplateName.MalformedException",
    "A launch template's name has 3 to 128 characters: letters, digits and ().-/_",
    _API.format("CreateLaunchTemplate"),
)
def template_name(asked: Asked) -> str | None:
    name = asked.get("LaunchTemplateName") or ""
    if re.fullmatch(r"[a-zA-Z0-9().\-/_]{3,128}", name):
        return None
    return f"A launch template name must be between 3 and 128 characters of a-zA-Z0-9().-/_; '{name}' is not."


@rule(
    "ec2",
    "CreateLaunchTemplate",
    "InvalidUserData.Malformed",
    "A template's user data is base64, and has at most 16 KB before it.",
    _API.format("RequestLaunchTemplateData"),
)
def template_user_data(asked: Asked) -> str | None:
    text = str(asked.get("LaunchTemplateData", "UserData") or "")
    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError:
        return "Invalid BASE64 encoding of user data."
    return "User data is limited to 16384 bytes" if size > 16384 else None


@rule(
    "ec2",
    "CreateLaunchTemplate",
    "InvalidParameterValue",
    "A template tags instances, volumes, network interfaces and spot requests, each kind once.",
    _API.format("LaunchTemplateTagSpecificationRequest"),
)
def template_kinds(asked: Asked) -> str | None:
    listed = asked.get("LaunchTemplateData", "TagSpecifications") or ()
    kinds = [str(spec.get("ResourceType")) for spec in listed]
    for kind in kinds:
        if kind not in _LAUNCHED:
            return f"'{kind}' is not a valid taggable resource type for this operation."
        if kinds.count(kind) > 1:
            return f"'{kind}' may not be specified more than once in tag specifications."
    return None


_LAUNCHED = ("instance", "volume", "network-interface", "spot-instances-request")


@rule(
    "ec2",
    "DescribeLaunchTemplates DeleteLaunchTemplate DescribeLaunchTemplateVersions CreateLaunchTemplateVersion "
    "ModifyLaunchTemplate DeleteLaunchTemplateVersions RunInstances",
    "InvalidLaunchTemplateId.NotFound",
    "The launch template is there, by its id or (InvalidLaunchTemplateName.NotFoundException) its name.",
    _ERRORS,
    needs="account",
)
def template_there(asked: Asked, account: Account) -> Refusal | str | None:
    of_launch = ("LaunchTemplate",) if asked.action == "RunInstances" else ()
    ids = [*asked.all("LaunchTemplateIds"), asked.get(*of_launch, "LaunchTemplateId")]
    names = [*asked.all("LaunchTemplateNames"), asked.get(*of_launch, "LaunchTemplateName")]
    for one in ids:
        if one and one not in account.ec2.launch_templates:
            return f"The launch template ID '{one}' does not exist"
    for one in names:
        if one and one not in account.ec2.launch_template_name_to_ids:
            message = "At least one of the launch templates specified in the request does not exist."
            return Refusal("InvalidLaunchTemplateName.NotFoundException", message)
    return None
