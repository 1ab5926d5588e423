"""EC2's rules for a launch: what may not go together, in a call and its template; volumes; interfaces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefect_coiled.sandbox.rules.account import Launch
from prefect_coiled.sandbox.rules.asked import Asked
from prefect_coiled.sandbox.rules.table import Refusal, kept, rule

__all__: list[str] = []

_RUN = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RunInstances.html"
_INTERFACE = (
    "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceNetworkInterfaceSpecification.html"
)
_VOLUME = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html"
_GP3 = "https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html"
_TEMPLATE = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_LaunchTemplateSpecification.html"
_SPOT = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SpotMarketOptions.html"
_METADATA = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceMetadataOptionsRequest.html"
_SHOWN_TAGS = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/work-with-tags-in-IMDS.html"
_QUOTAS = "https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html"
_USER_DATA = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html"
_ERRORS = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"

kept(
    "launch-count",
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "MinCount is at least 1 and at most MaxCount.",
    _RUN,
)
kept(
    "launch-user-data",
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "User data is base64 and at most 16 KB before it.",
    _USER_DATA,
)
kept(
    "launch-double",
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "Interfaces go with neither a subnet nor groups of the call, also where a template has them.",
    _RUN,
)
kept(
    "launch-networks", "ec2", "RunInstances", "InvalidParameter", "Subnet and groups are of one VPC.", _ERRORS
)
kept(
    "launch-addresses",
    "ec2",
    "RunInstances",
    "InsufficientFreeAddressesInSubnet",
    "The subnet has as many free addresses as there are instances.",
    _ERRORS,
)
kept(
    "launch-type",
    "ec2",
    "RunInstances",
    "InvalidParameterValue, Unsupported",
    "The type exists, is offered in the zone, and has the image's architecture.",
    _ERRORS,
)
kept("launch-image", "ec2", "RunInstances", "InvalidAMIID.NotFound", "The image is there.", _ERRORS)
kept(
    "launch-profile",
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "The instance profile is there.",
    _ERRORS,
)
kept(
    "launch-token",
    "ec2",
    "RunInstances",
    "IdempotentParameterMismatch, IdempotentInstanceTerminated",
    "A client token belongs to one set of parameters and to live instances.",
    "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html",
)


def _interfaces(params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(params.get("NetworkInterfaces") or ())


@rule(
    "ec2",
    "RunInstances",
    "SecurityGroupsPerInterfaceLimitExceeded",
    "At most 5 groups on an interface.",
    _QUOTAS,
    needs="launch",
)
def groups_of_interface(launch: Launch) -> str | None:
    params = launch.params
    given = [params.get("SecurityGroupIds") or ()] + [
        entry.get("Groups") or () for entry in _interfaces(params)
    ]
    if any(len(groups) > 5 for groups in given):
        return "The maximum number of security groups per interface has been reached."
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "A public address is for one new interface, the first.",
    _INTERFACE,
    needs="launch",
)
def public_address(launch: Launch) -> str | None:
    params = launch.params
    entries = _interfaces(params)
    name = "The associatePublicIPAddress parameter"
    for entry in entries:
        if entry.get("AssociatePublicIpAddress") is None:
            continue
        if entry.get("NetworkInterfaceId"):
            return f"{name} cannot be specified for a network interface with an ID."
        if len(entries) > 1:
            return f"{name} cannot be specified when launching with multiple network interfaces."
        if entry.get("DeviceIndex"):
            return f"{name} is only supported for the network interface with DeviceIndex=0."
    return None


@rule(
    "ec2",
    "RunInstances",
    "MissingParameter",
    "An interface says its device index.",
    _INTERFACE,
    needs="launch",
)
def device_index(launch: Launch) -> Refusal | str | None:
    params = launch.params
    given = [entry.get("DeviceIndex") for entry in _interfaces(params)]
    if None in given:
        return "Each network interface requires a device index."
    if len(set(given)) < len(given):
        return Refusal("InvalidParameterValue", "Each network interface requires a unique device index.")
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "A private address is for one instance, and not beside interfaces.",
    _RUN,
    needs="launch",
)
def private_address(launch: Launch) -> str | None:
    params = launch.params
    entries = _interfaces(params)
    plain = params.get("PrivateIpAddress")
    if plain and entries:
        return (
            "Network interfaces and an instance-level private IP address may not be specified on the "
            "same request"
        )
    wanted = plain or any(e.get("PrivateIpAddress") or e.get("PrivateIpAddresses") for e in entries)
    if wanted and int(params.get("MaxCount", 1)) > 1:
        return "The private IP address cannot be specified when launching more than one instance."
    if any(e.get("NetworkInterfaceId") for e in entries) and int(params.get("MaxCount", 1)) > 1:
        return "A network interface cannot be attached to more than one instance."
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "A profile is named, or its ARN given, not both.",
    "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IamInstanceProfileSpecification.html",
    needs="launch",
)
def profile_once(launch: Launch) -> str | None:
    params = launch.params
    profile = params.get("IamInstanceProfile") or {}
    if profile.get("Name") and profile.get("Arn"):
        return (
            "The parameter 'iamInstanceProfile.name' may not be used in combination with "
            "'iamInstanceProfile.arn'"
        )
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "The hop limit is between 1 and 64.",
    _METADATA,
    needs="launch",
)
def hop_limit(launch: Launch) -> str | None:
    params = launch.params
    hops = (params.get("MetadataOptions") or {}).get("HttpPutResponseHopLimit")
    if hops is None or 1 <= int(hops) <= 64:
        return None
    return f"Value ({hops}) for parameter httpPutResponseHopLimit is invalid. It must be between 1 and 64."


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "Where a machine shows its tags in its metadata, keys hold letters, digits and +-=.,_:@ only.",
    _SHOWN_TAGS,
    needs="launch",
)
def shown_tags(launch: Launch) -> str | None:
    if (launch.params.get("MetadataOptions") or {}).get("InstanceMetadataTags") != "enabled":
        return None
    for entry in launch.params.get("TagSpecifications") or ():
        for tag in entry.get("Tags") or () if entry.get("ResourceType") == "instance" else ():
            key = str(tag.get("Key"))
            if not re.fullmatch(r"[\w+=.,:@-]+", key, re.ASCII) or key in (".", "..", "_index"):
                return f"'{key}' is not a valid tag key."
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "Spot requests are tagged only where there are some.",
    "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_LaunchTemplateTagSpecificationRequest.html",
    needs="launch",
)
def spot_tags(launch: Launch) -> str | None:
    tagged = {spec.get("ResourceType") for spec in launch.params.get("TagSpecifications") or ()}
    spot = (launch.params.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
    if spot or "spot-instances-request" not in tagged:
        return None
    return (
        "You cannot specify tags for Spot instances requests if there are no Spot instances requests being "
        "created by the request."
    )


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "A persistent spot request stops or hibernates, and only it has an end.",
    _SPOT,
    needs="launch",
)
def spot_options(launch: Launch) -> str | None:
    params = launch.params
    market = params.get("InstanceMarketOptions") or {}
    options = market.get("SpotOptions") or {}
    kind = options.get("SpotInstanceType", "one-time")
    behavior = options.get("InstanceInterruptionBehavior", "terminate")
    if kind == "persistent" and behavior == "terminate":
        return "Persistent Spot Instance requests require the interruption behavior stop or hibernate."
    if kind == "one-time" and (behavior != "terminate" or options.get("ValidUntil")):
        return "One-time Spot Instance requests only terminate, and have no end."
    return None


# Sizes in GiB.
_SMALLEST_IMAGE = 8
_SIZES = {
    "gp2": (1, 16384),
    "gp3": (1, 65536),
    "io1": (4, 16384),
    "io2": (4, 65536),
    "st1": (125, 16384),
    "sc1": (125, 16384),
    "standard": (1, 1024),
}
_IOPS = {"gp3": (3000, 80000), "io1": (100, 64000), "io2": (100, 256000)}
_IOPS_PER_GIB = {"gp3": 500, "io1": 50, "io2": 1000}


def _volumes(params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for mapping in params.get("BlockDeviceMappings") or ():
        if mapping.get("Ebs"):
            yield mapping["Ebs"]


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "A volume's size is in the range of its type.",
    _VOLUME,
    needs="launch",
)
def volume_size(launch: Launch) -> str | None:
    params = launch.params
    for volume in _volumes(params):
        kind, size = volume.get("VolumeType", "gp2"), volume.get("VolumeSize")
        least, most = _SIZES.get(kind, (1, 65536))
        if size is not None and not least <= int(size) <= most:
            return (
                f"Volume of {size} GiB is invalid; {kind} must be at least {least} GiB and at most "
                f"{most} GiB."
            )
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterCombination",
    "Only gp3, io1 and io2 take IOPS, io1 and io2 need them, and only gp3 takes a throughput.",
    _VOLUME,
    needs="launch",
)
def volume_speed(launch: Launch) -> Refusal | str | None:
    params = launch.params
    for volume in _volumes(params):
        kind, iops, throughput = volume.get("VolumeType", "gp2"), volume.get("Iops"), volume.get("Throughput")
        if iops is not None and kind not in _IOPS:
            return f"The parameter iops is not supported for {kind} volumes."
        if throughput is not None and kind != "gp3":
            return f"The parameter throughput is not supported for {kind} volumes."
        if iops is None and kind in ("io1", "io2"):
            return Refusal("MissingParameter", "The request must contain the parameter iops")
        least, most = _IOPS.get(kind, (0, 0))
        if iops is not None and not least <= int(iops) <= most:
            return Refusal(
                "InvalidParameterValue", f"Volume iops of {iops} is not between {least} and {most}."
            )
        if throughput is not None and not 125 <= int(throughput) <= 2000:
            message = f"Volume throughput of {throughput} MiB/s is not between 125 and 2000."
            return Refusal("InvalidParameterValue", message)
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidParameterValue",
    "A GiB is good for so many IOPS (gp3 500, beyond 3,000; io1 50; io2 1,000), one of gp3 for 0.25 MiB/s.",
    _GP3,
    needs="launch",
)
def volume_ratio(launch: Launch) -> str | None:
    for volume in _volumes(launch.params):
        kind, size = volume.get("VolumeType", "gp2"), volume.get("VolumeSize")
        iops, most = int(volume.get("Iops") or 3000), _IOPS_PER_GIB.get(kind)
        free = 3000 if kind == "gp3" else 0
        if most and size and iops > free and iops > most * int(size):
            return f"Iops to volume size ratio of {iops / int(size):f} is too high; maximum is {most}"
        if kind == "gp3" and int(volume.get("Throughput") or 125) > iops / 4:
            ratio = int(volume["Throughput"]) / iops
            limit = "maximum is 0.250000 MiBps per iops"
            return f"Throughput (MiBps) to iops ratio of {ratio:f} is too high; {limit}"
    return None


@rule(
    "ec2",
    "RunInstances DeleteLaunchTemplate",
    "InvalidParameterCombination",
    "A launch template is named by its id or by its name, not by both.",
    _TEMPLATE,
)
def template_once(asked: Asked) -> Refusal | str | None:
    named = asked.get("LaunchTemplate") if asked.action == "RunInstances" else asked.params
    if named is None:
        return None
    both = [named.get("LaunchTemplateId"), named.get("LaunchTemplateName")]
    if all(both):
        return "The launch template is named by LaunchTemplateId or by LaunchTemplateName, not by both."
    if not any(both):
        message = "Either LaunchTemplateId or LaunchTemplateName must be specified."
        return Refusal("MissingParameter", message)
    return None


@rule("ec2", "RunInstances", "InvalidKeyPair.NotFound", "The key pair is there.", _ERRORS, needs="launch")
def key_pair(launch: Launch) -> str | None:
    name = launch.params.get("KeyName")
    if name and name not in launch.account.ec2.key_pairs:
        return f"The key pair '{name}' does not exist"
    return None


@rule(
    "ec2",
    "RunInstances",
    "InvalidBlockDeviceMapping",
    "The first volume is no smaller than the image's: Amazon Linux's has 8 GiB.",
    _VOLUME,
    needs="launch",
)
def volume_of_image(launch: Launch) -> str | None:
    image = launch.account.ec2.amis.get(launch.params.get("ImageId"))
    if image is None:
        return None
    own = image.owner_id == launch.account.number
    least = int(image.ebs_snapshot.volume.size) if own else _SMALLEST_IMAGE
    for mapping in launch.params.get("BlockDeviceMappings") or ():
        size = (mapping.get("Ebs") or {}).get("VolumeSize")
        if mapping.get("DeviceName") == image.root_device_name and size is not None and int(size) < least:
            return f"Volume of size {size}GB is smaller than snapshot, expect size >= {least}GB"
    return None
