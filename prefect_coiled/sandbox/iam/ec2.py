"""What an EC2 call asks for: the action on every resource it names, makes or takes from a launch template.

https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from prefect_coiled.sandbox.calls import Call
from prefect_coiled.sandbox.iam.decide import Request, tag_keys
from prefect_coiled.sandbox.iam.launch import (
    from_template,
    ids_of_template,
    launched,
    tags_of_template,
    template_of,
)
from prefect_coiled.sandbox.iam.table import action_row

__all__ = ["ec2_requests"]

_KINDS = {
    "ami": "image",
    "eipalloc": "elastic-ip",
    "eni": "network-interface",
    "i": "instance",
    "igw": "internet-gateway",
    "lt": "launch-template",
    "nat": "natgateway",
    "rtb": "route-table",
    "sg": "security-group",
    "sgr": "security-group-rule",
    "snap": "snapshot",
    "subnet": "subnet",
    "vol": "volume",
    "vpc": "vpc",
    "vpce": "vpc-endpoint",
}
_ID = re.compile(r"([a-z]+)-[0-9a-f]{8,}")
_MAKING = ("Allocate", "Copy", "Create", "Import", "Register", "Run")
# Those that name a kind of resource that they take from elsewhere, not make.
_SERVICE_ARNS = {"image", "snapshot"}


def ec2_requests(call: Call, number: str, partition: str, base: Mapping[str, str]) -> list[Request]:
    """All that an EC2 call asks for.

    Args:
        call: The call.
        number: The AWS account's number.
        partition: The partition of the region.
        base: Condition keys that hold for the whole call.
    """
    from moto.ec2.models import ec2_backends

    backend = ec2_backends[number][call.region]
    action = f"ec2:{call.action}"
    row = action_row(action)
    named = _named(call.params, backend)
    template = template_of(call.params, backend)
    made = _made_tags(call.params)
    for kind, tags in tags_of_template(call.params, backend).items():
        made[kind] = {**tags, **made.get(kind, {})}
    of_launch = launched(call.params, template)
    if call.action in ("CreateTags", "DeleteTags"):
        made.update(dict.fromkeys(named, _tags(call.params, "Tag")))

    def arn(kind: str, name: str) -> str:
        owner = "" if kind in _SERVICE_ARNS else number
        return f"arn:{partition}:ec2:{call.region}:{owner}:{kind}/{name}"

    by_template = from_template(call.params, backend, arn)

    def request(kind: str, name: str, context: Mapping[str, Any]) -> Request:
        told = {**context, **by_template(kind, name)}
        known = {k: v for k, v in told.items() if row.knows(k, kind)}
        return Request(action, arn(kind, name), {**base, **known})

    found: list[Request] = []
    for kind, entry in row.kinds.items():
        wanted = _requested(made.get(kind, {}))
        found += [
            request(kind, name, {**_existing(backend, kind, name), **wanted})
            for name in sorted(named.get(kind, ()))
        ]
        makes = call.action.startswith(_MAKING) and "aws:requesttag" in entry.keys
        if kind not in named and makes and (entry.required or kind in made or kind in of_launch):
            found.append(request(kind, "*", {**wanted, **of_launch.get(kind, {})}))
    found = found or [Request(action, "*", base)]
    if call.action not in ("CreateTags", "DeleteTags"):
        found += _tagging(call, made, arn, base)
    profile = call.params.get("IamInstanceProfile.Name") or template.get("IamInstanceProfile", {}).get("Name")
    return found + _passing(profile, number, base)


def _named(params: Mapping[str, Any], backend: Any) -> dict[str, set[str]]:
    """The existing resources that the call names, by kind; also those behind names and templates."""
    named: dict[str, set[str]] = {}

    def add(value: object) -> None:
        match = _ID.fullmatch(str(value))
        if match and match[1] in _KINDS:
            named.setdefault(_KINDS[match[1]], set()).add(str(value))

    for key, value in params.items():
        # What a filter or a client token says is not a resource of the call.
        if not key.startswith(("Filter", "TagSpecification", "ClientToken")):
            add(value)
    for value in ids_of_template(params, backend):
        add(value)
    key_name = params.get("KeyName") or template_of(params, backend).get("KeyName")
    if key_name:
        named.setdefault("key-pair", set()).add(str(key_name))
    association = params.get("AssociationId", "")
    for table in backend.route_tables.values() if association.startswith("rtbassoc-") else ():
        if association in table._associations:
            add(table.id)
            add(table._associations[association])
    return named


def _made_tags(params: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The tags that the call puts on what it makes, by kind."""
    made = {}
    for key, kind in params.items():
        match = re.fullmatch(r"(TagSpecification\.\d+)\.ResourceType", key)
        if match:
            made[str(kind)] = _tags(params, f"{match[1]}.Tag")
    return made


def _tags(params: Mapping[str, Any], prefix: str) -> dict[str, str]:
    pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.Key")
    return {
        str(value): str(params.get(f"{prefix}.{match[1]}.Value", ""))
        for key, value in params.items()
        if (match := pattern.fullmatch(key))
    }


def _requested(tags: Mapping[str, str]) -> dict[str, Any]:
    if not tags:
        return {}
    return {**tag_keys("aws:requesttag", tags), "aws:tagkeys": list(tags)}


def _existing(backend: Any, kind: str, name: str) -> dict[str, str]:
    """The condition keys of a resource that is there."""
    tags = dict(backend.tags.get(name, {}))
    context = {**tag_keys("aws:resourcetag", tags), **tag_keys("ec2:resourcetag", tags)}
    if kind == "image":
        image = backend.amis.get(name)
        alias = getattr(image, "owner_alias", None)
        context["ec2:owner"] = str(alias or getattr(image, "owner_id", ""))
    return context


def _tagging(
    call: Call, made: Mapping[str, Mapping[str, str]], arn: Any, base: Mapping[str, str]
) -> list[Request]:
    """Tags inside a creating call take ec2:CreateTags besides."""
    row = action_row("ec2:CreateTags")
    found = []
    for kind, tags in made.items():
        if tags:
            context = {k: v for k, v in _requested(tags).items() if row.knows(k, kind)}
            extra = {"ec2:createaction": call.action}
            found.append(Request("ec2:CreateTags", arn(kind, "*"), {**base, **context, **extra}))
    return found


def _passing(profile: str | None, number: str, base: Mapping[str, str]) -> list[Request]:
    """A machine with a profile is given the profile's role, which takes iam:PassRole."""
    from moto.iam.models import iam_backends

    if not profile:
        return []
    roles: Iterable[Any] = (
        role
        for found in iam_backends[number]["aws"].instance_profiles.values()
        if found.name == profile
        for role in found.roles
    )
    extra = {"iam:passedtoservice": "ec2.amazonaws.com"}
    return [Request("iam:PassRole", role.arn, {**base, **extra}) for role in roles]
