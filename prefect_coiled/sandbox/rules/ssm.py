"""Parameter Store's rules that its model does not hold."""

from __future__ import annotations

import re
from collections import Counter

from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_PUT = "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html"
_NAMES = "https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-paramstore-su-create.html"
_TIERS = (
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html"
)
_PATH = "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParametersByPath.html"
_TAGS = "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_AddTagsToResource.html"

kept(
    "once",
    "ssm",
    "PutParameter",
    "ParameterAlreadyExists",
    "A parameter that is there is overwritten only where the call says so.",
    _PUT,
)
kept("no-such", "ssm", "GetParameter DeleteParameter", "ParameterNotFound", "What is named is there.", _PUT)
kept(
    "versions",
    "ssm",
    "PutParameter",
    "ParameterMaxVersionLimitExceeded",
    "A parameter with a label on its oldest of 100 versions takes no new one.",
    _PUT,
)


@rule(
    "ssm",
    "PutParameter",
    "ValidationException",
    "A value has at most 4 KB in the standard tier, and 8 KB in the advanced one.",
    _TIERS,
)
def value_size(asked: Asked) -> str | None:
    size = len(str(asked.get("Value") or "").encode())
    tier = asked.get("Tier") or "Standard"
    if tier == "Standard" and size > 4096:
        return (
            "Standard tier parameters support a maximum parameter value of 4096 characters. To create "
            "a larger "
            "parameter value, upgrade the parameter to use the advanced-parameter tier."
        )
    return "Parameters support a maximum parameter value of 8192 characters." if size > 8192 else None


@rule(
    "ssm", "PutParameter", "ValidationException", "A value is not empty, and nests no other parameter.", _PUT
)
def value(asked: Asked) -> str | None:
    text = asked.get("Value")
    if text == "":
        return (
            "1 validation error detected: Value at 'value' failed to satisfy constraint: Member must "
            "have length greater than or equal to 1"
        )
    nested = "}}" in str(text or "").partition("{{")[2]
    return "Parameter value can't nest another parameter." if nested else None


@rule(
    "ssm",
    "PutParameter",
    "ValidationException",
    "Tags come with a new parameter, not with one overwritten.",
    _PUT,
)
def tags_or_overwrite(asked: Asked) -> str | None:
    if asked.get("Overwrite") and asked.all("Tags"):
        return (
            "Invalid request: tags and overwrite can't be used together. To create a parameter with "
            "tags, please "
            "remove overwrite flag. To update tags for an existing parameter, please use "
            "AddTagsToResource or "
            "RemoveTagsFromResource."
        )
    return None


@rule(
    "ssm",
    "PutParameter",
    "ValidationException",
    "A name has letters, digits and _.-/ and begins with a slash where it has one; aws and ssm are "
    "AWS's own.",
    _NAMES,
)
def name(asked: Asked) -> Refusal | str | None:
    given = str(asked.get("Name") or "")
    if re.match(r"/?(aws|ssm)", given, re.IGNORECASE):
        if re.match(r"/?aws(/|\Z)", given, re.IGNORECASE):
            return Refusal("AccessDeniedException", f"No access to reserved parameter name: {given}.")
        return 'Parameter name: can\'t be prefixed with "ssm" or "aws" (case-insensitive).'
    if not re.fullmatch(r"[a-zA-Z0-9_.\-/]+", given) or "//" in given or given.endswith("/"):
        return (
            "Invalid parameter name. Please use correct syntax for referencing a version/label <name>"
            " or only a mix of letters, numbers and the following 4 symbols .-_/"
        )
    if "/" in given and not given.startswith("/"):
        return "Parameter name must be a fully qualified name."
    if len(given) > 1011:
        return "Parameter name is too long: at most 1011 characters."
    return None


kept(
    "type",
    "ssm",
    "PutParameter",
    "ValidationException",
    "A new parameter has a type.",
    _PUT,
)


@rule(
    "ssm",
    "GetParameter",
    "ValidationException",
    "A name that is read has no spaces.",
    "https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html",
)
def read_name(asked: Asked) -> str | None:
    if not re.search(r"\s", str(asked.get("Name") or "")):
        return None
    return (
        "Invalid label or version format. Please use correct syntax for referencing a version/label "
        "<name>:<version/label>"
    )


@rule("ssm", "PutParameter", "HierarchyLevelLimitExceededException", "A name has at most 15 levels.", _NAMES)
def levels(asked: Asked) -> str | None:
    if str(asked.get("Name") or "").count("/") > 15:
        return "Hierarchy level exceeded the maximum allowed depth of 15."
    return None


@rule("ssm", "GetParametersByPath", "ValidationException", "A path begins with a slash.", _PATH)
def path(asked: Asked) -> str | None:
    given = str(asked.get("Path") or "/")
    if re.fullmatch(r"/[a-zA-Z0-9_.\-/]*", given):
        return None
    return (
        "The parameter doesn't meet the parameter name requirements. The parameter name must begin "
        "with a forward "
        'slash "/". It can\'t be prefixed with "aws" or "ssm" (case-insensitive) except for public '
        "parameters."
    )


@rule("ssm", "PutParameter AddTagsToResource", "TooManyTagsError", "At most 50 tags on a parameter.", _TAGS)
def tag_count(asked: Asked) -> Refusal | str | None:
    if len(asked.all("Tags")) <= 50:
        return None
    return "The maximum number of tags per resource is 50."


@rule(
    "ssm",
    "PutParameter AddTagsToResource",
    "ValidationException",
    "A tag's key is there once, and aws: is AWS's own.",
    _TAGS,
)
def tags(asked: Asked) -> str | None:
    keys = [str(tag.get("Key")) for tag in asked.all("Tags")]
    if any(key.lower().startswith("aws:") for key in keys):
        return "aws: prefixed tag key names are not allowed for external use."
    return "Tag keys must be unique." if any(many > 1 for many in Counter(keys).values()) else None
