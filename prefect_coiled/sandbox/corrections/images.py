"""Images of instances: pending for a while, names used once, tags on the snapshot."""

from __future__ import annotations

import time
from typing import Any

from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import Ami

from prefect_coiled.sandbox.corrections.errors import ec2_error
from prefect_coiled.sandbox.settings import Settings
from prefect_coiled.sandbox.supervisor import Supervisor

__all__ = ["install", "keep_disks"]


def keep_disks(supervisor: Supervisor) -> None:
    """Let an image hold the disk of the machine it is taken of, as long as it is registered."""
    create_image, deregister_image = EC2Backend.create_image, EC2Backend.deregister_image

    def create(self: Any, instance_id: str, *args: Any, **kwargs: Any) -> Any:
        image = create_image(self, instance_id, *args, **kwargs)
        supervisor.keep_image(image.id, instance_id)
        return image

    def deregister(self: Any, ami_id: str) -> None:
        deregister_image(self, ami_id)
        supervisor.drop_image(ami_id)

    EC2Backend.create_image, EC2Backend.deregister_image = create, deregister


def install(settings: Settings) -> None:
    """Correct CreateImage.

    Args:
        settings: `image_pending`, in seconds.
    """
    moto_create_image = EC2Backend.create_image

    def create_image(
        self: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
    ) -> Any:
        for known in self.amis.values():
            if known.name == name and known.owner_id == self.account_id:
                message = f"AMI name {name} is already in use by AMI {known.id}"
                raise ec2_error("InvalidAMIName.Duplicate", message)
        source = self.get_instance(instance_id)
        if source.state not in ("running", "stopped"):
            message = f"Instance '{instance_id}' is not 'running' or 'stopped'."
            raise ec2_error("IncorrectState", message)
        # moto raises NotImplementedError for tags on the snapshot.
        image = moto_create_image(
            self,
            instance_id,
            name,
            description,
            [spec for spec in tag_specifications if spec["ResourceType"] != "snapshot"],
        )
        for spec in tag_specifications:
            if spec["ResourceType"] == "snapshot":
                image.ebs_snapshot.add_tags({tag["Key"]: tag.get("Value", "") for tag in spec["Tags"]})
        image.available_at = time.monotonic() + settings.image_pending
        return image

    def state(self: Any) -> str:
        return "pending" if self.available_at > time.monotonic() else str(self._told)

    def set_state(self: Any, told: str) -> None:
        self._told = told

    Ami.available_at = 0.0
    Ami.state = property(state, set_state)
    EC2Backend.create_image = create_image
