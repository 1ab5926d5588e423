"""EC2's rules for security groups."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.ec2_network import is_block
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"
_QUOTAS = "https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html"

kept(
    "group-rules",
    "ec2",
    "AuthorizeSecurityGroup*",
    "RulesPerSecurityGroupLimitExceeded",
    "At most 60 rules in a group, inbound and outbound each (the default quota).",
    _QUOTAS,
)
kept(
    "permission-once",
    "ec2",
    "AuthorizeSecurityGroup*",
    "InvalidPermission.Duplicate",
    "A rule is there once.",
    _API.format("AuthorizeSecurityGroupIngress"),
)


_SET = "a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*"
_GROUP_TEXT = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")


@rule(
    "ec2",
    "CreateSecurityGroup",
    "InvalidParameterValue",
    "A group's name has at most 255 characters of a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*, and does not begin "
    "with sg-.",
    _API.format("CreateSecurityGroup"),
)
def group_name(asked: Asked) -> Refusal | str | None:
    name = asked.get("GroupName") or ""
    if not name:
        return Refusal("MissingParameter", "The request must contain the parameter GroupName")
    if name.lower().startswith("sg-"):
        return (
            f"Value ({name}) for parameter GroupName is invalid. Group names may not be in the format sg-*."
        )
    return _text("GroupName", name, "group name")


@rule(
    "ec2",
    "CreateSecurityGroup",
    "InvalidParameterValue",
    "A group's description has at most 255 characters of the same set.",
    _API.format("CreateSecurityGroup"),
)
def group_description(asked: Asked) -> Refusal | str | None:
    if not asked.get("Description"):
        return Refusal("MissingParameter", "The request must contain the parameter GroupDescription")
    return _text("GroupDescription", asked.get("Description") or "", "security group description")


@rule(
    "ec2",
    "AuthorizeSecurityGroup* UpdateSecurityGroupRuleDescriptions*",
    "InvalidParameterValue",
    "A rule's description has at most 255 characters of the same set.",
    _API.format("IpRange"),
)
def rule_description(asked: Asked) -> str | None:
    for source in _sources(asked):
        text = source.get("Description")
        if text and not _GROUP_TEXT.fullmatch(text):
            return (
                f"Invalid rule description. Valid descriptions are strings less than 256 characters "
                f"from the following set: {_SET}"
            )
    return None


@rule(
    "ec2",
    "CreateSecurityGroup",
    "InvalidVpcID.NotFound",
    "The VPC that a group is for is there.",
    _ERRORS,
    needs="account",
)
def group_vpc(asked: Asked, account: Account) -> str | None:
    vpc = asked.get("VpcId")
    return None if not vpc or vpc in account.ec2.vpcs else f"The vpc ID '{vpc}' does not exist"


@rule(
    "ec2",
    "CreateSecurityGroup",
    "InvalidGroup.Duplicate",
    "A group's name is there once in a VPC, whatever its case.",
    _API.format("CreateSecurityGroup"),
    needs="account",
)
def group_once(asked: Asked, account: Account) -> str | None:
    name, vpc = str(asked.get("GroupName")), asked.get("VpcId")
    there = account.ec2.groups.get(vpc, {}).values() if vpc else ()
    if any(group.name.lower() == name.lower() for group in there):
        return f"The security group '{name}' already exists for VPC '{vpc}'"
    return None


@rule(
    "ec2",
    "RevokeSecurityGroup*",
    "InvalidPermission.NotFound",
    "A call that names a rule that is not there revokes none.",
    _API.format("RevokeSecurityGroupIngress"),
    needs="account",
)
def revoked_rules(asked: Asked, account: Account) -> str | None:
    group = account.ec2.get_security_group_from_id(asked.get("GroupId"))
    if group is None:
        return None
    rules = group.ingress_rules if asked.action.endswith("Ingress") else group.egress_rules
    there = {
        (
            rule.ip_protocol,
            rule.from_port,
            rule.to_port,
            rule.ip_range.get("CidrIp")
            or rule.ip_range.get("CidrIpv6")
            or rule.prefix_list_id
            or rule.source_group.get("GroupId"),
        )
        for rule in rules
    }
    for permission in asked.all("IpPermissions"):
        protocol = str(permission.get("IpProtocol")).lower()
        protocol = {"6": "tcp", "17": "udp", "1": "icmp"}.get(protocol, protocol)
        ports = (None, None) if protocol == "-1" else (permission.get("FromPort"), permission.get("ToPort"))
        for kind, key in _SOURCE_KEYS.items():
            for one in permission.get(kind) or ():
                if one.get(key) and (protocol, *ports, one[key]) not in there:
                    return "The specified rule does not exist in this security group."
    return None


_SOURCE_KEYS = {
    "IpRanges": "CidrIp",
    "Ipv6Ranges": "CidrIpv6",
    "PrefixListIds": "PrefixListId",
    "UserIdGroupPairs": "GroupId",
}


def _text(parameter: str, value: str, what: str) -> str | None:
    if not value or _GROUP_TEXT.fullmatch(value):
        return None
    if not value.isascii():
        return (
            f"Value ({value}) for parameter {parameter} is invalid. Character sets beyond ASCII are "
            f"not supported."
        )
    return (
        f"Invalid {what}. Valid {what}s are strings less than 256 characters from the following set: {_SET}"
    )


def _sources(asked: Asked) -> Iterator[Mapping[str, Any]]:
    for permission in asked.all("IpPermissions"):
        for kind in ("IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs"):
            yield from permission.get(kind) or ()


@rule(
    "ec2",
    "AuthorizeSecurityGroup*",
    "MissingParameter",
    "A rule says its protocol and at least one source; a call has at least one rule.",
    _API.format("AuthorizeSecurityGroupIngress"),
)
def rule_parts(asked: Asked) -> str | None:
    if asked.get("IpProtocol") or asked.get("SourceSecurityGroupName"):
        return None  # the older form, of one rule
    permissions = asked.all("IpPermissions")
    if not permissions:
        return "The request must contain the parameter ipPermissions"
    for permission in permissions:
        if permission.get("IpProtocol") is None:
            return "The request must contain the parameter ipProtocol"
        if not any(permission.get(kind) for kind in _SOURCE_KEYS):
            return "Source group, CIDR block or prefix list must be specified"
    return None


@rule(
    "ec2",
    "RevokeSecurityGroup*",
    "MissingParameter",
    "A call that revokes says which rules, by their ids or their parts.",
    _API.format("RevokeSecurityGroupIngress"),
)
def revoked_parts(asked: Asked) -> str | None:
    named = ("IpPermissions", "SecurityGroupRuleIds", "IpProtocol", "SourceSecurityGroupName")
    if any(asked.get(name) for name in named):
        return None
    return "Either 'ipPermissions' or 'securityGroupRuleIds' should be provided."


@rule(
    "ec2",
    "AuthorizeSecurityGroup* RevokeSecurityGroup* DeleteSecurityGroup",
    "MissingParameter",
    "A group is named, by its id where its VPC is not the default one.",
    _API.format("DeleteSecurityGroup"),
)
def group_named(asked: Asked) -> str | None:
    if asked.get("GroupId") or asked.get("GroupName"):
        return None
    return "The request must contain the parameter groupName or groupId"


@rule(
    "ec2",
    "AuthorizeSecurityGroup* RevokeSecurityGroup*",
    "InvalidParameterValue",
    "ICMP has a type and a code; all types have all codes.",
    _API.format("IpPermission"),
)
def icmp(asked: Asked) -> str | None:
    for permission in asked.all("IpPermissions"):
        if str(permission.get("IpProtocol")).lower() not in ("icmp", "1"):
            continue
        kind, code = permission.get("FromPort"), permission.get("ToPort")
        if kind is None or code is None:
            return "Invalid value 'Must specify ICMP type and code.' for portRange."
        if kind == -1 and code != -1:
            return f"ICMP code ({code}) must be -1 where its type is."
    return None


@rule(
    "ec2",
    "AuthorizeSecurityGroup* RevokeSecurityGroup*",
    "InvalidParameterValue",
    "TCP and UDP have a range of ports between 0 and 65535; a protocol is a name or a number to 255.",
    _API.format("IpPermission"),
)
def ports(asked: Asked) -> str | None:
    for permission in [*asked.all("IpPermissions"), asked.params if asked.get("IpProtocol") else {}]:
        protocol = str(permission.get("IpProtocol", "-1")).lower()
        first, last = permission.get("FromPort"), permission.get("ToPort")
        if protocol not in ("tcp", "udp", "icmp", "icmpv6", "all") and not re.fullmatch(
            r"-1|\d{1,3}", protocol
        ):
            return f"Invalid value '{protocol}' for IP protocol. Unknown protocol."
        if protocol not in ("tcp", "udp", "6", "17"):
            continue
        if first is None or last is None:
            return "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange."
        for port in (first, last):
            if not 0 <= port <= 65535:
                return f"TCP/UDP port ({port}) out of range"
        if first > last:
            return f"Invalid TCP/UDP port range ({first}:{last})"
    return None


@rule(
    "ec2",
    "AuthorizeSecurityGroup*",
    "InvalidParameterValue",
    "A source is a CIDR block.",
    _API.format("IpRange"),
)
def rule_block(asked: Asked) -> str | None:
    blocks = [source[key] for source in _sources(asked) for key in ("CidrIp", "CidrIpv6") if source.get(key)]
    for block in [*blocks, *([asked.get("CidrIp")] if asked.get("CidrIp") else [])]:
        if not is_block(block):
            return f"CIDR block {block} is malformed"
    return None


@rule(
    "ec2",
    "AuthorizeSecurityGroup*",
    "InvalidParameterValue",
    "A call names a rule once, however its block is spelt.",
    _API.format("AuthorizeSecurityGroupIngress"),
)
def rule_once(asked: Asked) -> str | None:
    seen = set()
    for permission in asked.all("IpPermissions"):
        head = [permission.get(key) for key in ("IpProtocol", "FromPort", "ToPort")]
        for kind in ("IpRanges", "Ipv6Ranges", "PrefixListIds", "UserIdGroupPairs"):
            for source in permission.get(kind) or ():
                said = {key: _plain(value) for key, value in source.items() if key != "Description"}
                known = json.dumps([head, said], sort_keys=True)
                if known in seen:
                    return "The same permission must not appear multiple times"
                seen.add(known)
    return None


@rule(
    "ec2",
    "DeleteSecurityGroup",
    "CannotDelete",
    "A VPC's default group goes with the VPC.",
    _ERRORS,
    needs="account",
)
def default_group(asked: Asked, account: Account) -> str | None:
    group = account.ec2.get_security_group_from_id(asked.get("GroupId")) if asked.get("GroupId") else None
    if group is None or group.name != "default":
        return None
    return f'the specified group: "{group.id}" name: "default" cannot be deleted by a user'


def _plain(source: Any) -> Any:
    """AWS takes a block by its network: 100.68.0.18/18 is 100.68.0.0/18."""
    is_known = isinstance(source, str) and is_block(source)
    return str(ipaddress.ip_network(source, strict=False)) if is_known else source
