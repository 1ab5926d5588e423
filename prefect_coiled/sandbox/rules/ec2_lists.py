"""EC2's rules for what is looked up: filters, pages, ids, tokens, tags. No model holds them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

from prefect_coiled.sandbox.rules.account import Account
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, rule

__all__: list[str] = []

_FILTERING = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html"
_TAGS = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html"
_IDEMPOTENCY = "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html"
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"
_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_{}.html"


# -- filters -------------------------------------------------------------------------------------------------


@rule("ec2", "*", "FilterLimitExceeded", "At most 200 filter values in a call.", _FILTERING)
def filter_values(asked: Asked) -> str | None:
    if sum(len(entry.get("Values") or ()) for entry in _filters(asked)) > 200:
        return "The maximum number of filter values specified on a single call is 200"
    return None


@rule("ec2", "*", "FilterLimitExceeded", "At most 50 filters in a call.", _FILTERING)
def filter_count(asked: Asked) -> str | None:
    return (
        "The maximum number of filters specified on a single call is 50"
        if len(_filters(asked)) > 50
        else None
    )


@rule("ec2", "*", "FilterLimitExceeded", "A filter's value has at most 255 characters.", _FILTERING)
def filter_length(asked: Asked) -> str | None:
    values = (value for entry in _filters(asked) for value in entry.get("Values") or ())
    return (
        "The maximum length for a filter value is 255 characters"
        if any(len(v) > 255 for v in values)
        else None
    )


@rule("ec2", "*", "InvalidParameterValue", "A filter without values, or without a name, is none.", _FILTERING)
def filter_whole(asked: Asked) -> str | None:
    for entry in _filters(asked):
        if not entry.get("Name") or not entry.get("Values"):
            return f"The filter '{entry.get('Name') or 'null'}' is invalid"
    return None


@rule(
    "ec2",
    "Describe*",
    "InvalidParameterValue",
    "Each call knows the filters of its reference, and no others.",
    _FILTERING,
)
def filter_names(asked: Asked) -> str | None:
    known = _known_filters(asked)
    for entry in _filters(asked) if known else ():
        name = str(entry.get("Name"))
        if _plain(name) not in known and not name.startswith("tag:"):
            return f"The filter '{name}' is invalid"
    return None


def _filters(asked: Asked) -> list[Any]:
    return [*asked.all("Filters"), *asked.all("Filter")]


_NAMED = re.compile(r"<li>\s*<p>\s*<code>([^<]+)</code>")
# Taken by AWS, and found in no list of the reference.
_UNLISTED = {
    "DescribeInstances": {"group-id", "group-name"},
    "DescribeSubnets": {"cidr"},
}


def _known_filters(asked: Asked) -> frozenset[str]:
    members = asked.operation.input_shape.members
    shape = members.get("Filters") or members.get("Filter")
    return _listed(asked.action, shape.documentation) if shape is not None else frozenset()


def _plain(name: str) -> str:
    """AWS takes vpcId for vpc-id."""
    return name.replace("-", "").lower()


@functools.lru_cache(maxsize=256)
def _listed(action: str, text: str) -> frozenset[str]:
    """The names that the documentation of a call's filters lists."""
    found = frozenset(_NAMED.findall(text)) - {"tag", "tag:&lt;key&gt;"}
    found |= _UNLISTED.get(action, set()) | {"tag-key", "tag-value"} if found else set()
    return frozenset(_plain(name) for name in found)


# -- pages and ids -------------------------------------------------------------------------------------------

# Ranges that the reference says in words only, or not at all, and AWS keeps; the others are in the model.
_PAGE_SIZES = {
    "DescribeAvailabilityZones": (5, 1000),
    "DescribeImages": (1, 1000),
    "DescribeInstances": (5, 1000),
    "DescribeInstanceStatus": (5, 1000),
    "DescribeNetworkInterfaces": (5, 1000),
    "DescribeSnapshots": (5, 1000),
    "DescribeSpotInstanceRequests": (5, 1000),
    "DescribeTags": (5, 1000),
    "DescribeVolumes": (5, 1000),
}
# Ids that a page size does not go with.
_NOT_PAGED = {
    "DescribeInstances": ("InstanceIds", "instancesSet"),
    "DescribeInstanceStatus": ("InstanceIds", "instanceId"),
    "DescribeNetworkInterfaces": ("NetworkInterfaceIds", "networkInterfaceIdSet"),
    "DescribeSecurityGroups": ("GroupIds", "groupId"),
    "DescribeSnapshots": ("SnapshotIds", "snapshotSet"),
    "DescribeVolumes": ("VolumeIds", "volumeSet"),
    "DescribeInstanceTypes": ("InstanceTypes", "instanceTypes"),
}


@rule(
    "ec2",
    " ".join(_PAGE_SIZES),
    "InvalidParameterValue",
    "MaxResults is between 5 and 1000 (DescribeImages: 1 and 1000).",
    _API.format("DescribeInstances"),
)
def page_size(asked: Asked) -> str | None:
    asked_for, (least, most) = asked.get("MaxResults"), _PAGE_SIZES[asked.action]
    if asked_for is None or least <= asked_for <= most:
        return None
    bound = f"greater than or equal to {least}" if asked_for < least else f"less than or equal to {most}"
    return f"Value ( {asked_for} ) for parameter maxResults is invalid. Expecting a value {bound}."


@rule(
    "ec2",
    " ".join(_NOT_PAGED),
    "InvalidParameterCombination",
    "MaxResults does not go with ids.",
    _API.format("DescribeInstances"),
)
def page_of_ids(asked: Asked) -> str | None:
    ids, spelt = _NOT_PAGED[asked.action]
    if asked.get("MaxResults") is None or not asked.all(ids):
        return None
    return f"The parameter {spelt} cannot be used with the parameter maxResults"


@rule(
    "ec2",
    "DescribeInstances",
    "InvalidNextToken",
    "A token of a page is one that AWS gave.",
    _ERRORS,
    needs="account",
)
def page_token(asked: Asked, account: Account) -> str | None:
    token = asked.get("NextToken")
    if not token or any(one.id == token for one in account.ec2.reservations.values()):
        return None
    return "The specified NextToken is not valid."


# Parameters with one id or several, the prefix of the ids, and the code for one that is spelt wrong.
_IDS = {
    "ImageId": ("ami", "InvalidAMIID.Malformed"),
    "ImageIds": ("ami", "InvalidAMIID.Malformed"),
    "InstanceId": ("i", "InvalidInstanceID.Malformed"),
    "InstanceIds": ("i", "InvalidInstanceID.Malformed"),
    "GroupId": ("sg", "InvalidGroupId.Malformed"),
    "GroupIds": ("sg", "InvalidGroupId.Malformed"),
    "SecurityGroupIds": ("sg", "InvalidGroupId.Malformed"),
    "SubnetId": ("subnet", "InvalidSubnetID.Malformed"),
    "SubnetIds": ("subnet", "InvalidSubnetID.Malformed"),
    "VpcId": ("vpc", "InvalidVpcID.Malformed"),
    "VpcIds": ("vpc", "InvalidVpcID.Malformed"),
    "LaunchTemplateId": ("lt", "InvalidLaunchTemplateId.Malformed"),
    "LaunchTemplateIds": ("lt", "InvalidLaunchTemplateId.Malformed"),
    "VolumeIds": ("vol", "InvalidVolumeID.Malformed"),
    "SnapshotId": ("snap", "InvalidSnapshotID.Malformed"),
    "SnapshotIds": ("snap", "InvalidSnapshotID.Malformed"),
    "RouteTableId": ("rtb", "InvalidRouteTableId.Malformed"),
    "RouteTableIds": ("rtb", "InvalidRouteTableId.Malformed"),
    "InternetGatewayId": ("igw", "InvalidInternetGatewayId.Malformed"),
    "InternetGatewayIds": ("igw", "InvalidInternetGatewayId.Malformed"),
    "NatGatewayId": ("nat", "NatGatewayMalformed"),
    "NatGatewayIds": ("nat", "NatGatewayMalformed"),
    "VpcEndpointId": ("vpce", "InvalidVpcEndpointId.Malformed"),
    "VpcEndpointIds": ("vpce", "InvalidVpcEndpointId.Malformed"),
}
_ID = re.compile(r"([a-z]+)-([0-9a-f]{8}|[0-9a-f]{17})")


@rule(
    "ec2",
    "*",
    "Invalid<Kind>.Malformed",
    "An id is its kind, a dash and 8 or 17 hexadecimal digits.",
    _ERRORS,
)
def id_form(asked: Asked) -> Refusal | None:
    for name, (kind, code) in _IDS.items():
        given = asked.get(name)
        for value in given if isinstance(given, list) else [given]:
            if not isinstance(value, str) or (name == "ImageId" and value.startswith("resolve:ssm:")):
                continue
            match = _ID.fullmatch(value)
            if match is None or match[1] != kind:
                return Refusal(code, f'Invalid id: "{value}" (expecting "{kind}-...")')
    return None


@rule(
    "ec2",
    "TerminateInstances CreateTags",
    "InvalidParameterValue",
    "At most 1000 ids in a call.",
    _API.format("TerminateInstances"),
)
def id_count(asked: Asked) -> str | None:
    many = len(asked.all("InstanceIds" if asked.action == "TerminateInstances" else "Resources"))
    return f"The maximum number of ids in a call is 1000; there are {many}." if many > 1000 else None


@rule(
    "ec2",
    "*",
    "InvalidParameterValue",
    "A client token has at most 64 ASCII characters (128 for launch templates).",
    _IDEMPOTENCY,
)
def token(asked: Asked) -> str | None:
    value = asked.get("ClientToken")
    most = 128 if "LaunchTemplate" in asked.action else 64
    if not isinstance(value, str) or (len(value) <= most and value.isascii()):
        return None
    return f"Value ({value}) for parameter clientToken is invalid. It has at most {most} ASCII characters."


# -- tags ----------------------------------------------------------------------------------------------------

# What moto tags though it is not there, by the beginning of its id: where moto has it, and AWS's answer.
_TAGGED_IDS = {
    "eipalloc": ("addresses", "InvalidAllocationID.NotFound", "The allocation ID '{}' does not exist"),
    "eni": ("enis", "InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '{}' does not exist"),
    "i": ("reservations", "InvalidInstanceID.NotFound", "The instance ID '{}' does not exist"),
    "nat": ("nat_gateways", "NatGatewayNotFound", "The Nat Gateway {} was not found"),
    "vpce": ("vpc_end_points", "InvalidVpcEndpointId.NotFound", "The Vpc Endpoint Id '{}' does not exist"),
}


@rule(
    "ec2",
    "CreateTags",
    "InvalidInstanceID.NotFound",
    "What is tagged is there: instances, interfaces, gateways, addresses and endpoints as all else.",
    _ERRORS,
    needs="account",
)
def tagged_there(asked: Asked, account: Account) -> Refusal | None:
    for one in map(str, asked.all("Resources")):
        held, code, words = _TAGGED_IDS.get(one.partition("-")[0], ("", "", ""))
        if held and not _is_there(one, getattr(account.ec2, held)):
            return Refusal(code, words.format(one))
    return None


def _is_there(one: str, held: Any) -> bool:
    if one.startswith("eipalloc-"):
        return any(address.allocation_id == one for address in held)
    if one.startswith("i-"):
        return any(machine.id == one for group in held.values() for machine in group.instances)
    return one in held


_TAGGED = {
    "AllocateAddress": {"elastic-ip"},
    "AuthorizeSecurityGroupEgress": {"security-group-rule"},
    "AuthorizeSecurityGroupIngress": {"security-group-rule"},
    "CreateImage": {"image", "snapshot"},
    "CreateInternetGateway": {"internet-gateway"},
    "CreateLaunchTemplate": {"launch-template"},
    "CreateNatGateway": {"natgateway"},
    "CreateRouteTable": {"route-table"},
    "CreateSecurityGroup": {"security-group"},
    "CreateSubnet": {"subnet"},
    "CreateVolume": {"volume"},
    "CreateVpc": {"vpc"},
    "CreateVpcEndpoint": {"vpc-endpoint"},
    "RunInstances": {"instance", "network-interface", "spot-instances-request", "volume", "elastic-gpu"},
}


def _tag_lists(asked: Asked) -> list[list[dict[str, str]]]:
    found = [spec.get("Tags") or [] for spec in asked.all("TagSpecifications")]
    found += [s.get("Tags") or [] for s in asked.get("LaunchTemplateData", "TagSpecifications") or ()]
    return [*found, asked.all("Tags")] if asked.action == "CreateTags" else found


@rule("ec2", "*", "TagLimitExceeded", "At most 50 tags on a resource.", _TAGS)
def tag_count(asked: Asked) -> str | None:
    if any(len(tags) > 50 for tags in _tag_lists(asked)):
        return "The maximum number of tags per resource is 50."
    return None


@rule(
    "ec2",
    "*",
    "InvalidParameterValue",
    "A tag's key has 1 to 127 characters, its value at most 256.",
    _API.format("Tag"),
)
def tag_length(asked: Asked) -> str | None:
    for tag in (tag for tags in _tag_lists(asked) for tag in tags):
        if not tag.get("Key"):
            return "Tag key cannot be null or empty"
        if len(tag["Key"]) > 127:
            return f"Tag key exceeds the maximum length of 127 characters: '{tag['Key']}'"
        if len(tag.get("Value") or "") > 256:
            return f"Tag value exceeds the maximum length of 256 characters: '{tag['Value']}'"
    return None


@rule("ec2", "*", "InvalidParameterValue", "Keys that begin with aws: are AWS's own.", _TAGS)
def tag_reserved(asked: Asked) -> str | None:
    for tag in (tag for tags in _tag_lists(asked) for tag in tags):
        if str(tag.get("Key")).lower().startswith("aws:"):
            return f"Tag keys starting with 'aws:' are reserved for internal use: '{tag['Key']}'"
    return None


@rule("ec2", "*", "InvalidParameterValue", "A key is there once.", _TAGS)
def tag_once(asked: Asked) -> str | None:
    for tags in _tag_lists(asked):
        twice = [key for key, many in Counter(tag.get("Key") for tag in tags).items() if many > 1]
        if twice:
            return f"Duplicate tag key '{twice[0]}' specified."
    return None


@rule(
    "ec2",
    "*",
    "InvalidParameterValue",
    "A call tags what it makes, and names each kind once.",
    _API.format("TagSpecification"),
)
def tag_kinds(asked: Asked) -> str | None:
    kinds = [str(spec.get("ResourceType")) for spec in asked.all("TagSpecifications")]
    for kind in kinds:
        if kind not in _TAGGED.get(asked.action, {kind}):
            return f"'{kind}' is not a valid taggable resource type for this operation."
        if kinds.count(kind) > 1:
            return (
                f"The same resource type may not be specified more than once in tag specifications: '{kind}'"
            )
    return None
