"""RunInstances as AWS does it; one path for it and for CreateFleet.

What moto does otherwise: one instance when MinCount < MaxCount; of a launch template only some fields, and
a stray volume; the profile on the first instance of a batch only; security groups given in a network
interface missing; no tags on interfaces; 20 KB user data, another VPC's groups, another architecture's
image and a type that the zone does not have accepted; an unknown profile answered with 404.
"""

from __future__ import annotations

import fnmatch
import functools
import uuid
from collections.abc import Mapping
from typing import Any

import psutil
from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.responses import EC2Response
from moto.iam.models import iam_backends

from prefect_coiled.sandbox.corrections.checks import check_network, check_user_data
from prefect_coiled.sandbox.corrections.disk_key import unreadable
from prefect_coiled.sandbox.corrections.errors import ec2_error
from prefect_coiled.sandbox.corrections.templates import merge_template
from prefect_coiled.sandbox.rules.account import Account, History, Launch
from prefect_coiled.sandbox.rules.fresh import room
from prefect_coiled.sandbox.rules.judge import refused_launch
from prefect_coiled.sandbox.settings import Settings

__all__ = ["Launcher", "install", "launcher"]

# Bytes of memory that a machine's processes take, with a Dask worker; and machines that any computer has.
_MACHINE, _FEWEST = 256 * 2**20, 8


class Launcher:
    """Launches instances for RunInstances and CreateFleet.

    Args:
        settings: For the capacity that is left, and for the rules.
        history: For the rules.
        moto_run: moto's own RunInstances.
    """

    def __init__(self, settings: Settings, history: History, moto_run: Any) -> None:
        self._settings = settings
        self._history = history
        self._moto_run = moto_run

    def launch(
        self,
        response: Any,
        asked: Mapping[str, Any],
        *,
        subnet_override: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Any:
        """Launch; gives moto's reservation.

        Args:
            response: moto's response object, for its backend and its parameters.
            asked: The parameters of RunInstances.
            subnet_override: The subnet of a fleet's override; it goes into a template's interface.
            tags: Further tags of the instances, from AWS itself.
        """
        backend = response.ec2_backend
        params, template_tags = merge_template(backend, asked, subnet_override)
        least, most = int(params.get("MinCount", 1)), int(params.get("MaxCount", params.get("MinCount", 1)))
        if least > most or least < 1:
            message = f"minCount must be at least 1 and at most maxCount ({least}, {most})"
            raise ec2_error("InvalidParameterValue", message)
        _image_by_parameter(backend, params)
        check_user_data(params)
        account = Account(backend.account_id, backend.region_name, self._settings, self._history)
        refusal = refused_launch(params, account)
        if refusal is not None:
            raise ec2_error(refusal.code, refusal.message)
        fits = room(Launch(params, account))
        most = most if fits is None else min(most, fits)
        _primary_interface(params)
        _volumes(backend, params)
        zone = check_network(backend, params, least)
        _check_type(backend, params, zone)
        profile = _profile(backend, params.pop("IamInstanceProfile", None))
        most = self._held_by_this_computer(least, most)
        count = self._take_capacity(str(params.get("InstanceType", "m1.small")), zone, least, most)

        before = response.params
        response.params = {**params, "MinCount": count, "MaxCount": count}
        try:
            reservation = self._moto_run(response).result
        finally:
            response.params = before
        if unreadable(self._settings, str(response.access_key), backend.region_name, params):
            for instance in reservation.instances:
                instance.unreadable = True
                instance.terminate()
        spot = params.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        interface_tags = _tags_for(params, "network-interface")
        for instance in reservation.instances:
            instance.reservation_id = reservation.id
            instance.add_tags({**template_tags, **(tags or {})})
            for nic in instance.nics.values():
                nic.add_tags(interface_tags)
            if not instance.security_groups:
                instance.security_groups = list(instance.nics[0]._group_set)
            if profile is not None:
                backend.associate_iam_instance_profile(
                    instance_id=instance.id, iam_instance_profile_arn=profile.arn
                )
            if spot:
                instance.lifecycle = "spot"
                instance.spot_instance_request_id = f"sir-{uuid.uuid4().hex[:8]}"
        return reservation

    def _held_by_this_computer(self, least: int, most: int) -> int:
        """How many of so many machines there is room for, where machines are processes."""
        if self._settings.boot == "none":
            return most
        limit = self._settings.most_machines
        if limit is None:
            limit = max(_FEWEST, psutil.virtual_memory().total // _MACHINE)
        run = sum(
            instance.state in ("pending", "running")
            for regions in list(ec2_backends.values())
            for backend in list(regions.values())
            for reservation in list(backend.reservations.values())
            for instance in reservation.instances
        )
        if limit - run < least:
            message = (
                f"You have requested more instances ({run + least}) than your current instance limit of "
                f"{limit} allows: the sandbox's machines are processes of this computer (its setting "
                "most_machines)"
            )
            raise ec2_error("InstanceLimitExceeded", message)
        return min(most, limit - run)

    def _take_capacity(self, instance_type: str, zone: str, least: int, most: int) -> int:
        for capacity in self._settings.capacity:
            if not fnmatch.fnmatch(instance_type, capacity.instance_type):
                continue
            if not fnmatch.fnmatch(zone, capacity.zone):
                continue
            if capacity.free < least:
                message = (
                    f"We currently do not have sufficient {instance_type} capacity in the Availability "
                    f"Zone you requested ({zone})."
                )
                raise ec2_error("InsufficientInstanceCapacity", message)
            taken = min(most, capacity.free)
            capacity.free -= taken
            return taken
        return most


def _tags_for(params: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {
        tag["Key"]: tag.get("Value", "")
        for spec in params.get("TagSpecifications", [])
        if spec.get("ResourceType") == kind
        for tag in spec.get("Tags", [])
    }


def _image_by_parameter(backend: Any, params: dict[str, Any]) -> None:
    image = str(params.get("ImageId", ""))
    if image.startswith("resolve:ssm:"):
        from moto.ssm.models import ssm_backends

        ssm = ssm_backends[backend.account_id][backend.region_name]
        params["ImageId"] = ssm.get_parameter(image.removeprefix("resolve:ssm:")).value
    elif not image:
        raise ec2_error("MissingParameter", "The request must contain the parameter ImageId")


def _primary_interface(params: dict[str, Any]) -> None:
    """Interfaces made at launch go with the instance; a plain subnet becomes the first interface."""
    subnet = params.pop("SubnetId", None)
    if subnet and not params.get("NetworkInterfaces"):
        interface: dict[str, Any] = {"DeviceIndex": 0, "SubnetId": subnet}
        groups = params.pop("SecurityGroupIds", None)
        if groups:
            interface["Groups"] = groups
        params["NetworkInterfaces"] = [interface]
    for interface in params.get("NetworkInterfaces", []):
        if "NetworkInterfaceId" not in interface:
            interface.setdefault("DeleteOnTermination", True)


def _volumes(backend: Any, params: dict[str, Any]) -> None:
    """The volume that an image brings has its size there; of others moto asks for it, as AWS does."""
    known = backend.describe_images(ami_ids=[params["ImageId"]])
    root = known[0].root_device_name if known else None
    for mapping in params.get("BlockDeviceMappings", []):
        if mapping.get("DeviceName") == root:
            volume = mapping.setdefault("Ebs", {})
            if "SnapshotId" not in volume:
                volume.setdefault("VolumeSize", 8)
        if "Ebs" in mapping:
            mapping["Ebs"].setdefault("DeleteOnTermination", True)


@functools.lru_cache(maxsize=4096)
def _offered(location: str, region: str, instance_type: str) -> frozenset[str]:
    offerings = INSTANCE_TYPE_OFFERINGS[location].get(region, [])
    return frozenset(entry["Location"] for entry in offerings if entry["InstanceType"] == instance_type)


def _check_type(backend: Any, params: Mapping[str, Any], zone: str) -> None:
    asked = params.get("InstanceType")
    if asked is None:
        return
    if asked not in INSTANCE_TYPES:
        raise ec2_error("InvalidParameterValue", f"Invalid value '{asked}' for InstanceType.")
    zones = _offered("availability-zone", backend.region_name, asked)
    if zones and zone not in zones:
        message = (
            f"Your requested instance type ({asked}) is not supported in your requested Availability Zone "
            f"({zone}). Please retry your request by choosing {', '.join(sorted(zones))}."
        )
        raise ec2_error("Unsupported", message)
    image = backend.describe_images(ami_ids=[params["ImageId"]])[0]
    supported = INSTANCE_TYPES[asked]["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture and image.architecture not in supported:
        message = (
            f"The architecture '{','.join(supported)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI."
        )
        raise ec2_error("InvalidParameterValue", message)


def _profile(backend: Any, asked: Mapping[str, str] | None) -> Any:
    if not asked:
        return None
    field = "arn" if "Arn" in asked else "name"
    value = asked["Arn" if field == "arn" else "Name"]
    for profile in iam_backends[backend.account_id]["aws"].get_instance_profiles():
        if getattr(profile, field) == value:
            return profile
    kind = "ARN" if field == "arn" else "name"
    message = (
        f"Value ({value}) for parameter iamInstanceProfile.{field} is invalid. "
        f"Invalid IAM Instance Profile {kind}"
    )
    raise ec2_error("InvalidParameterValue", message)


_installed: list[Launcher] = []


def launcher() -> Launcher:
    """The launcher that `install` made."""
    return _installed[-1]


def install(settings: Settings, history: History) -> None:
    """Put the one launch path in front of moto's RunInstances."""
    made = Launcher(settings, history, EC2Response.run_instances)
    _installed.append(made)
    Instance.spot_instance_request_id = None
    Instance.reservation_id = None

    def run_instances(self: Any) -> Any:
        return ActionResult(made.launch(self, self.params))

    EC2Response.run_instances = run_instances
    moto_modify = EC2Backend.modify_instance_security_groups

    def modify_instance_security_groups(self: Any, instance_id: str, new_group_id_list: list[str]) -> Any:
        instance = moto_modify(self, instance_id, new_group_id_list)
        # They are those of its interface, which moto leaves as it was, and replace what that had.
        for nic in instance.nics.values():
            nic._group_set = list(instance.security_groups)
        return instance

    EC2Backend.modify_instance_security_groups = modify_instance_security_groups
