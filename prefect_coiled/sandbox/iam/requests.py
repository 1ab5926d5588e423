"""From a call on the wire to all that it asks for: actions, resources and condition keys.

EC2 is in `ec2`, S3 in `s3`. Resources are spelt as AWS spells them in its own denials, which for log groups
is not what their ARN looks like.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_coiled.sandbox.calls import Call
from prefect_coiled.sandbox.iam.decide import Request, tag_keys
from prefect_coiled.sandbox.iam.ec2 import ec2_requests
from prefect_coiled.sandbox.iam.s3 import s3_requests
from prefect_coiled.sandbox.iam.table import action_row

__all__ = ["requests_of"]

# Services whose creating calls take another permission when they carry tags.
_TAGGING = {
    "iam:CreateInstanceProfile": "iam:TagInstanceProfile",
    "iam:CreatePolicy": "iam:TagPolicy",
    "iam:CreateRole": "iam:TagRole",
    "logs:CreateLogGroup": "logs:TagResource",
    "ssm:PutParameter": "ssm:AddTagsToResource",
    "ecr:CreateRepository": "ecr:TagResource",
}


def requests_of(call: Call, number: str, partition: str = "aws") -> list[Request]:
    """All that a call asks for.

    Args:
        call: The call.
        number: The number of the AWS account that is called.
        partition: Its partition.
    """
    base = {"aws:requestedregion": call.region}
    if call.service == "ec2":
        return ec2_requests(call, number, partition, base)
    if call.service == "s3":
        return list(s3_requests(call, number, partition, base))
    parts = {
        "ecr": _ecr,
        "iam": _iam,
        "logs": _logs,
        "ssm": _ssm,
    }
    find = parts.get(call.service)
    action = f"{call.service}:{call.action}"
    if find is None:
        return [Request(action, "*", base)]
    found = []
    for name, resource, context in find(call, number, partition):
        row = action_row(name)
        kinds = [*row.kinds, ""]
        known = {k: v for k, v in context.items() if any(row.knows(k, kind) for kind in kinds)}
        found.append(Request(name, resource, {**base, **known}))
    return found or [Request(action, "*", base)]


_Found = Iterator["tuple[str, str, dict[str, Any]]"]


def _logs(call: Call, number: str, partition: str) -> _Found:
    action, params = f"logs:{call.action}", call.params
    root = f"arn:{partition}:logs:{call.region}:{number}:log-group:"
    tags = _tag_context(params.get("tags") or {})
    if "resourceArn" in params:
        yield action, str(params["resourceArn"]), tags
    elif "logGroupName" in params and action_row(action).kinds:
        # Groups are spelt with an empty stream, as in AWS's own denials.
        group = f"{root}{params['logGroupName']}"
        yield action, f"{group}:log-stream:{params.get('logStreamName', '')}", tags
        if tags and action in _TAGGING:
            yield _TAGGING[action], group, tags


def _ssm(call: Call, number: str, partition: str) -> _Found:
    action, params = f"ssm:{call.action}", call.params
    names = [*params.get("Names", ()), *([params["Name"]] if "Name" in params else ())]
    names += [params["Path"].rstrip("/")] if "Path" in params else []
    tags = _tag_context({t["Key"]: t["Value"] for t in params.get("Tags", ())})
    for name in names:
        owner = "" if name.startswith("/aws/service/") else number
        arn = f"arn:{partition}:ssm:{call.region}:{owner}:parameter/{name.lstrip('/')}"
        yield action, arn, {**tags, **_resource_tags(_parameter_tags(number, call.region, name))}
        if tags and action in _TAGGING:
            yield _TAGGING[action], arn, tags


def _parameter_tags(number: str, region: str, name: str) -> Mapping[str, str]:
    from moto.ssm.models import ssm_backends

    tags: Mapping[str, str] = ssm_backends[number][region]._resource_tags.get("Parameter", {}).get(name, {})
    return tags


def _ecr(call: Call, number: str, partition: str) -> _Found:
    action, params = f"ecr:{call.action}", call.params
    names = [
        *params.get("repositoryNames", ()),
        *([params["repositoryName"]] if "repositoryName" in params else ()),
    ]
    names += [params["resourceArn"].partition(":repository/")[2]] if "resourceArn" in params else []
    tags = _tag_context({t["Key"]: t["Value"] for t in params.get("tags", ())})
    for name in names:
        arn = f"arn:{partition}:ecr:{call.region}:{number}:repository/{name}"
        yield action, arn, {**tags, **_resource_tags(_repository_tags(number, call.region, arn))}
        if tags and action in _TAGGING:
            yield _TAGGING[action], arn, tags


def _repository_tags(number: str, region: str, arn: str) -> Mapping[str, str]:
    from moto.ecr.models import ecr_backends

    tags: Mapping[str, str] = ecr_backends[number][region].tagger.get_tag_dict_for_resource(arn)
    return tags


def _iam(call: Call, number: str, partition: str) -> _Found:
    from moto.iam.models import iam_backends

    action, params = f"iam:{call.action}", call.params
    backend = iam_backends[number][partition]
    root = f"arn:{partition}:iam::{number}:"
    path = params.get("Path", "/")

    def role(name: str) -> str:
        found = (r.arn for r in backend.roles.values() if r.name == name)
        return str(next(found, f"{root}role{path}{name}"))

    context = _tag_context(
        {
            str(value): str(params.get(f"{key[:-4]}.Value", ""))
            for key, value in params.items()
            if re.fullmatch(r"Tags\.member\.\d+\.Key", key)
        }
    )
    if "PolicyArn" in params:
        context["iam:policyarn"] = params["PolicyArn"]
    # The boundary that a role gets, else the one that it has.
    boundary = params.get("PermissionsBoundary") or next(
        (r.permissions_boundary_arn for r in backend.roles.values() if r.name == params.get("RoleName")), None
    )
    if boundary:
        context["iam:permissionsboundary"] = str(boundary)
    if "AWSServiceName" in params:
        context["iam:awsservicename"] = params["AWSServiceName"]
        suffix = _LINKED.get(params["AWSServiceName"], "")
        yield action, f"{root}role/aws-service-role/{params['AWSServiceName']}/{suffix}", context
        return
    if "PolicySourceArn" in params:
        yield action, params["PolicySourceArn"], context
        return
    resource = ""
    if "InstanceProfileName" in params:
        resource = f"{root}instance-profile{path}{params['InstanceProfileName']}"
    elif "RoleName" in params:
        resource = role(params["RoleName"])
    elif "UserName" in params:
        resource = f"{root}user{path}{params['UserName']}"
    elif "PolicyArn" in params:
        resource = params["PolicyArn"]
    elif "PolicyName" in params:
        resource = f"{root}policy{path}{params['PolicyName']}"
    if not resource:
        return
    yield action, resource, context
    if action in _TAGGING and any(k.startswith("aws:requesttag/") for k in context):
        yield _TAGGING[action], resource, context
    if call.action == "AddRoleToInstanceProfile":
        yield "iam:PassRole", role(params["RoleName"]), {}


_LINKED = {"spot.amazonaws.com": "AWSServiceRoleForEC2Spot"}


def _tag_context(tags: Mapping[str, str]) -> dict[str, Any]:
    if not tags:
        return {}
    return {**tag_keys("aws:requesttag", tags), "aws:tagkeys": list(tags)}


def _resource_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return tag_keys("aws:resourcetag", tags)
