"""CreateFleet of type "instant": the overrides in turn, and what each failed with.

moto launches all on the first override, never fills Errors and drops most of the template.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response

from prefect_coiled.sandbox.corrections.errors import EC2ClientError
from prefect_coiled.sandbox.corrections.launch import launcher

__all__ = ["install"]

# Whether it is spot, and how a request calls it.
_MARKETS = {False: "OnDemand", True: "Spot"}
_PRIORITIZED = {"prioritized", "capacity-optimized-prioritized"}


def _candidates(params: Mapping[str, Any], options: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    pairs = [
        (config["LaunchTemplateSpecification"], override)
        for config in params["LaunchTemplateConfigs"]
        for override in (config.get("Overrides") or [{}])
    ]
    if options.get("AllocationStrategy") in _PRIORITIZED:
        pairs.sort(key=lambda pair: float(pair[1].get("Priority", 0)))
    return pairs


def _launch_params(params: Mapping[str, Any], template: Any, override: Any, spot: bool) -> dict[str, Any]:
    asked: dict[str, Any] = {"LaunchTemplate": dict(template), "MinCount": 1}
    asked.update({name: override[name] for name in ("InstanceType", "ImageId") if name in override})
    if "AvailabilityZone" in override:
        asked["Placement"] = {"AvailabilityZone": override["AvailabilityZone"]}
    asked["TagSpecifications"] = [
        copy.deepcopy(spec) for spec in params.get("TagSpecifications", []) if spec["ResourceType"] != "fleet"
    ]
    if spot:
        asked["InstanceMarketOptions"] = {"MarketType": "spot"}
    return asked


def _shares(target: Mapping[str, Any]) -> Iterator[tuple[bool, int]]:
    """Spot or not, and how many: what is asked for of each market, and the rest of the default one.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_TargetCapacitySpecificationRequest.html
    """
    by_default = target.get("DefaultTargetCapacityType", "on-demand") == "spot"
    asked = {spot: int(target.get(f"{name}TargetCapacity", 0)) for spot, name in _MARKETS.items()}
    asked[by_default] += max(int(target["TotalTargetCapacity"]) - sum(asked.values()), 0)
    yield from ((spot, count) for spot, count in asked.items() if count)


def _known(backend: Any, template: Mapping[str, Any]) -> dict[str, Any]:
    """A template as the answer names it: always by its id, and with the number of its version."""
    name, version = template.get("LaunchTemplateName"), template.get("Version", "$Default")
    found = (
        backend.get_launch_template_by_name(name)
        if name
        else backend.get_launch_template(template["LaunchTemplateId"])
    )
    numbers = {"$Latest": found.latest_version_number, "$Default": found.default_version_number}
    return {**template, "LaunchTemplateId": found.id, "Version": str(numbers.get(version, version))}


def _instant(response: Any) -> dict[str, Any]:
    params, backend = response.params, response.ec2_backend
    target = params["TargetCapacitySpecification"]
    # moto's record of it, by which it is described and deleted. Given the request, it would launch itself.
    fleet = backend.create_fleet(
        on_demand_options=params.get("OnDemandOptions") or {},
        spot_options=params.get("SpotOptions") or {},
        target_capacity_specification={"TotalTargetCapacity": 0},
        launch_template_configs=[],
        excess_capacity_termination_policy=None,
        replace_unhealthy_instances=False,
        terminate_instances_with_expiration=False,
        fleet_type="instant",
        valid_from=None,
        valid_until=None,
        tag_specifications=params.get("TagSpecifications", []),
    )
    fleet.target_capacity_specification = dict(target)
    fleet.launch_template_configs = params["LaunchTemplateConfigs"]
    launched: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for spot, wanted in _shares(target):
        options = params.get("SpotOptions" if spot else "OnDemandOptions") or {}
        got = _of_market(response, fleet, spot, wanted, options, errors)
        if sum(len(entry["InstanceIds"]) for entry in got) < int(options.get("MinTargetCapacity", 0)):
            for entry in got:
                backend.terminate_instances(entry["InstanceIds"])
            got = []
        launched += got
    ids = [one for entry in launched for one in entry["InstanceIds"]]
    fleet.target_capacity, fleet.fulfilled_capacity = int(target["TotalTargetCapacity"]), float(len(ids))
    if not ids:
        fleet.terminate_instances = lambda: None  # moto's would terminate none, which is an error
    fleet.on_demand_instances = [{"id": fleet.id, "instance": backend.get_instance(one)} for one in ids]
    return {"FleetId": fleet.id, "Instances": launched, "Errors": errors}


def _of_market(
    response: Any,
    fleet: Any,
    spot: bool,
    wanted: int,
    options: Mapping[str, Any],
    errors: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Launch in one market, on one override after the other; what fails is among the errors."""
    launched: list[dict[str, Any]] = []
    lifecycle = "spot" if spot else "on-demand"
    for template, override in _candidates(response.params, options):
        if wanted <= 0:
            break
        place: dict[str, Any] = {"LaunchTemplateSpecification": template}
        place |= {"Overrides": override} if override else {}
        asked = {**_launch_params(response.params, template, override, spot), "MaxCount": wanted}
        try:
            place["LaunchTemplateSpecification"] = _known(response.ec2_backend, template)
            reservation = launcher().launch(
                response,
                asked,
                subnet_override=override.get("SubnetId", ""),
                tags={"aws:ec2:fleet-id": fleet.id},
            )
        except EC2ClientError as error:
            entry = {"LaunchTemplateAndOverrides": place, "Lifecycle": lifecycle}
            errors.append({**entry, "ErrorCode": error.code, "ErrorMessage": error.message})
            continue
        instances = reservation.instances
        wanted -= len(instances)
        launched.append(
            {
                "LaunchTemplateAndOverrides": place,
                "Lifecycle": lifecycle,
                "InstanceIds": [instance.id for instance in instances],
                "InstanceType": instances[0].instance_type,
            }
        )
    return launched


def install() -> None:
    """Put this in front of moto's CreateFleet, for instant fleets."""
    moto_create_fleet = EC2Response.create_fleet

    def create_fleet(self: Any) -> Any:
        if self.params.get("Type") != "instant":
            return moto_create_fleet(self)
        return ActionResult(_instant(self))

    EC2Response.create_fleet = create_fleet
