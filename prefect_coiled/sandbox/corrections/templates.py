"""A launch template's data: what it says itself, and under the parameters of a call, as AWS merges them.

moto puts the tags of the template itself among those that it gives to what is launched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from moto.ec2.models import EC2Backend

from prefect_coiled.sandbox.corrections.errors import ec2_error

__all__ = ["install", "merge_template"]


def install() -> None:
    """Keep the tags of a template out of what it says."""
    moto_create = EC2Backend.create_launch_template

    def create_launch_template(
        self: Any, name: str, description: str, template_data: dict[str, Any], tag_spec: dict[str, Any]
    ) -> Any:
        given = template_data.pop("TagSpecifications", None) or []
        launched = [entry for entry in given if entry.get("ResourceType") != "launch-template"]
        data = {**template_data, "TagSpecifications": launched} if launched else template_data
        return moto_create(self, name, description, data, tag_spec)

    EC2Backend.create_launch_template = create_launch_template


def merge_template(
    backend: Any, asked: Mapping[str, Any], subnet_override: str = ""
) -> tuple[dict[str, Any], dict[str, str]]:
    """Merge the template that is named in the parameters, if any.

    Args:
        backend: moto's EC2 backend.
        asked: The parameters of the call.
        subnet_override: The subnet that a fleet's override asks for; other than in RunInstances it may
            come with a template that has interfaces, and goes into the first one.

    Returns:
        The merged parameters, and the tags that AWS puts on instances launched from a template.
    """
    params = copy.deepcopy(dict(asked))
    wanted = params.pop("LaunchTemplate", None)
    tags: dict[str, str] = {}
    if wanted:
        version = backend._get_template_from_args(wanted)
        data = copy.deepcopy(dict(version.data))
        tags = {
            "aws:ec2launchtemplate:id": version.template.id,
            "aws:ec2launchtemplate:version": str(version.number),
        }
        params["TagSpecifications"] = _merge_tags(
            data.pop("TagSpecifications", []), params.get("TagSpecifications", [])
        )
        if "UserData" in data:
            data["UserData"] = str(data["UserData"])
        params = {**data, **params}
    interfaces = params.get("NetworkInterfaces", [])
    if subnet_override:
        if interfaces:
            interfaces[0]["SubnetId"] = subnet_override
        else:
            params["SubnetId"] = subnet_override
    elif interfaces:
        _refuse_double(params)
    return params, tags


def _merge_tags(template: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[str, dict[str, str]] = {}
    for spec in [*template, *asked]:
        tags = merged.setdefault(spec["ResourceType"], {})
        tags.update({tag["Key"]: tag.get("Value", "") for tag in spec.get("Tags", [])})
    return [
        {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
        for kind, tags in merged.items()
    ]


def _refuse_double(params: Mapping[str, Any]) -> None:
    for field, words in (("SubnetId", "subnet ID"), ("SecurityGroupIds", "security groups")):
        if params.get(field):
            message = (
                f"Network interfaces and an instance-level {words} may not be specified on the same request"
            )
            raise ec2_error("InvalidParameterCombination", message)
