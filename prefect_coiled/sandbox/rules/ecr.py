"""ECR's rules that its model does not hold."""

from __future__ import annotations

import json
import re

from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import kept, rule

__all__: list[str] = []

_API = "https://docs.aws.amazon.com/AmazonECR/latest/APIReference/API_{}.html"
_TAGS = "https://docs.aws.amazon.com/AmazonECR/latest/userguide/ecr-using-tags.html"
_POLICY = "https://docs.aws.amazon.com/AmazonECR/latest/userguide/lifecycle_policy_parameters.html"

kept(
    "once",
    "ecr",
    "CreateRepository",
    "RepositoryAlreadyExistsException",
    "A name is there once.",
    _API.format("CreateRepository"),
)
kept(
    "no-such",
    "ecr",
    "*",
    "RepositoryNotFoundException",
    "What is named is there.",
    _API.format("DescribeRepositories"),
)
kept(
    "not-empty",
    "ecr",
    "DeleteRepository",
    "RepositoryNotEmptyException",
    "A repository with images is deleted only by force.",
    _API.format("DeleteRepository"),
)


@rule(
    "ecr", "CreateRepository TagResource", "TooManyTagsException", "At most 50 tags on a repository.", _TAGS
)
def tag_count(asked: Asked) -> str | None:
    return "A repository can have at most 50 tags." if len(asked.all("tags")) > 50 else None


@rule(
    "ecr",
    "CreateRepository TagResource",
    "InvalidTagParameterException",
    "A tag has a key of 1 to 128 and a value of at most 256 letters, digits, spaces and _.:/=+-@; "
    "aws: is AWS's own.",
    _TAGS,
)
def tags(asked: Asked) -> str | None:
    for tag in asked.all("tags"):
        key, value = str(tag.get("Key") or ""), str(tag.get("Value") or "")
        if not re.fullmatch(r"[\w\s.:/=+\-@]{1,128}", key) or key.lower().startswith("aws:"):
            return f"Invalid parameter at 'tags' failed to satisfy constraint: 'Invalid tag key {key!r}'"
        if not re.fullmatch(r"[\w\s.:/=+\-@]{0,256}", value):
            return f"Invalid parameter at 'tags' failed to satisfy constraint: 'Invalid tag value {value!r}'"
    return None


@rule(
    "ecr",
    "DescribeRepositories DescribeImages",
    "InvalidParameterException",
    "What is named is not asked for by pages.",
    _API.format("DescribeImages"),
)
def names_or_pages(asked: Asked) -> str | None:
    if not (asked.all("repositoryNames") or asked.all("imageIds")):
        return None
    paged = [name for name in ("nextToken", "maxResults") if asked.get(name)]
    return f"Invalid parameter: {paged[0]} cannot be used with names or ids." if paged else None


@rule(
    "ecr",
    "PutLifecyclePolicy",
    "InvalidParameterException",
    "A lifecycle policy is JSON with rules, each with a priority of its own, a selection and an action.",
    _POLICY,
)
def lifecycle(asked: Asked) -> str | None:
    head = "Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: "
    try:
        rules = json.loads(asked.get("lifecyclePolicyText") or "")["rules"]
        priorities = [entry["rulePriority"] for entry in rules]
        whole = all(
            entry["selection"]["tagStatus"] and entry["action"]["type"] == "expire" for entry in rules
        )
    except (ValueError, KeyError, TypeError):
        return f"{head}'Lifecycle policy validation failure: it is not a policy'"
    if not whole or len(set(priorities)) < len(priorities) or not rules:
        return f"{head}'Lifecycle policy validation failure: its rules are not well-formed'"
    return None
