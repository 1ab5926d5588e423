"""CreateFleet of type "instant": the overrides in turn, and what each failed with.

moto launches all on the first override, never fills Errors and drops most of the template.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.responses import EC2Response

from prefect_coiled.sandbox.corrections.errors import EC2ClientError
from prefect_coiled.sandbox.corrections.launch import launcher

__all__ = ["install"]

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


def _instant(response: Any) -> dict[str, Any]:
    params = response.params
    target = params["TargetCapacitySpecification"]
    wanted = int(target["TotalTargetCapacity"])
    spot = target.get("DefaultTargetCapacityType", "on-demand") == "spot"
    lifecycle = "spot" if spot else "on-demand"
    options = params.get("SpotOptions" if spot else "OnDemandOptions") or {}
    fleet_id = f"fleet-{uuid.uuid4()}"
    launched: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    count = 0
    for template, override in _candidates(params, options):
        if count >= wanted:
            break
        place = {"LaunchTemplateSpecification": template, "Overrides": override}
        asked = {**_launch_params(params, template, override, spot), "MaxCount": wanted - count}
        try:
            reservation = launcher().launch(
                response,
                asked,
                subnet_override=override.get("SubnetId", ""),
                tags={"aws:ec2:fleet-id": fleet_id},
            )
        except EC2ClientError as error:
            entry = {"LaunchTemplateAndOverrides": place, "Lifecycle": lifecycle}
            errors.append({**entry, "ErrorCode": error.code, "ErrorMessage": error.message})
            continue
        instances = reservation.instances
        count += len(instances)
        launched.append(
            {
                "LaunchTemplateAndOverrides": place,
                "Lifecycle": lifecycle,
                "InstanceIds": [instance.id for instance in instances],
                "InstanceType": instances[0].instance_type,
            }
        )
    if count < int(options.get("MinTargetCapacity", 0)):
        for entry in launched:
            response.ec2_backend.terminate_instances(entry["InstanceIds"])
        launched = []
    return {"FleetId": fleet_id, "Instances": launched, "Errors": errors}


def install() -> None:
    """Put this in front of moto's CreateFleet, for instant fleets."""
    moto_create_fleet = EC2Response.create_fleet

    def create_fleet(self: Any) -> Any:
        if self.params.get("Type") != "instant":
            return moto_create_fleet(self)
        return ActionResult(_instant(self))

    EC2Response.create_fleet = create_fleet
