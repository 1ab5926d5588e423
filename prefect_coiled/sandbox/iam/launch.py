"""What a launch asks for, itself or by its launch template: resources, tags, condition keys.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ExamplePolicies_EC2.html#iam-example-runinstances-launch-templates:
`ec2:LaunchTemplate` is the template's ARN. `ec2:IsLaunchTemplateResource` is true of what the template says
and the call does not: with it "users cannot override any of the launch template parameters". It is true of
the template itself, too: the page's examples demand it of all resources.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["from_template", "ids_of_template", "launched", "tags_of_template", "template_of"]

_NUMBERED = r"\.\d+(\.|\Z)"
# Which parameters of a call say something of a resource that the launch makes.
_SAYS = {
    "volume": re.compile(rf"BlockDeviceMapping{_NUMBERED}"),
    "network-interface": re.compile(
        rf"(NetworkInterface|SecondaryInterface|SecurityGroupId|SecurityGroup|Ipv6Address){_NUMBERED}"
        r"|SubnetId|PrivateIpAddress|Ipv6AddressCount|EnablePrimaryIpv6"
    ),
}
# What a call has to say, and what is judged as a resource of its own.
_NEEDED = re.compile(
    r"Action|Version|DryRun|ClientToken|MinCount|MaxCount|ImageId|KeyName"
    rf"|LaunchTemplate\..*|TagSpecification{_NUMBERED}.*"
)


def template_of(params: Mapping[str, Any], backend: Any) -> Mapping[str, Any]:
    """What the launch template of a RunInstances call says."""
    found = _template(params, backend)
    if found is None:
        return {}
    data: Mapping[str, Any] = found.get_version(params.get("LaunchTemplate.Version", "$Default")).data
    return data


def _template(params: Mapping[str, Any], backend: Any) -> Any:
    if params.get("Action") != "RunInstances":
        return None
    found = backend.launch_templates.get(params.get("LaunchTemplate.LaunchTemplateId"))
    name = params.get("LaunchTemplate.LaunchTemplateName")
    if found is None and name in backend.launch_template_name_to_ids:
        found = backend.launch_templates.get(backend.launch_template_name_to_ids[name])
    return found


def ids_of_template(params: Mapping[str, Any], backend: Any) -> Iterator[str]:
    """The ids of what a call uses because its template says so, and of the template that it names."""
    template = _template(params, backend)
    if template is None:
        return
    yield str(template.id)
    data = template_of(params, backend)
    if "ImageId" not in params:
        yield str(data.get("ImageId", ""))
    if any(_SAYS["network-interface"].match(key) for key in params):
        return
    yield from map(str, data.get("SecurityGroupIds") or ())
    for interface in data.get("NetworkInterfaces") or ():
        yield str(interface.get("SubnetId", ""))
        yield from map(str, interface.get("Groups") or ())


def tags_of_template(params: Mapping[str, Any], backend: Any) -> dict[str, dict[str, str]]:
    """The tags that a template puts on what is launched, by kind."""
    return {
        str(entry["ResourceType"]): {tag["Key"]: tag.get("Value", "") for tag in entry.get("Tags", ())}
        for entry in template_of(params, backend).get("TagSpecifications") or ()
    }


def from_template(
    params: Mapping[str, Any], backend: Any, arn: Callable[[str, str], str]
) -> Callable[[str, str], dict[str, str]]:
    """Gives the keys that tell of the template, by the kind and the id of a resource of the call.

    Args:
        arn: The ARN of a kind and an id.
    """
    template = _template(params, backend)
    said = {str(v) for k, v in params.items() if not k.startswith(("LaunchTemplate.", "ClientToken"))}

    def keys(kind: str, name: str) -> dict[str, str]:
        if template is None:
            return {}
        if kind == "instance":
            overridden = any(not _NEEDED.fullmatch(key) and not _is_other(key) for key in params)
        else:
            overridden = kind in _SAYS and any(_SAYS[kind].match(key) for key in params)
        overridden = overridden or (name != template.id and name in said)
        return {
            "ec2:launchtemplate": arn("launch-template", template.id),
            "ec2:islaunchtemplateresource": "false" if overridden or _tagged(params, kind) else "true",
        }

    return keys


def _is_other(key: str) -> bool:
    return any(pattern.match(key) for pattern in _SAYS.values())


def _tagged(params: Mapping[str, Any], kind: str) -> bool:
    """Whether the call itself says tags of a kind."""
    return any(
        value == kind and re.fullmatch(r"TagSpecification\.\d+\.ResourceType", key)
        for key, value in params.items()
    )


def launched(params: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What a launch says of its machines and of their disks, itself or by its template, as condition keys.

    Every machine here has a disk. Where a launch says nothing of the metadata's tokens there is no key: which
    default will hold, IAM does not know.
    """
    if params.get("Action") != "RunInstances":
        return {}
    tokens = params.get("MetadataOptions.HttpTokens") or template.get("MetadataOptions", {}).get("HttpTokens")
    kind = params.get("InstanceType") or template.get("InstanceType")
    said = {str(v).lower() for k, v in params.items() if re.fullmatch(r"BlockDeviceMapping.*\.Encrypted", k)}
    if not any(key.startswith("BlockDeviceMapping") for key in params):
        disks = [disk.get("Ebs", {}) for disk in template.get("BlockDeviceMappings") or ()]
        said = {str(disk.get("Encrypted", False)).lower() for disk in disks}
    return {
        "instance": {
            **({"ec2:metadatahttptokens": str(tokens)} if tokens else {}),
            **({"ec2:instancetype": str(kind)} if kind else {}),
        },
        "volume": {"ec2:encrypted": "true" if said == {"true"} else "false"},
    }
