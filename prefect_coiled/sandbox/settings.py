"""What can be set on a sandbox, at its start and while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prefect_coiled.errors import SandboxError

__all__ = ["Capacity", "Settings"]


@dataclass
class Capacity:
    """How many more machines AWS has of a type in a zone.

    Attributes:
        free: Machines left.
        instance_type: A glob over instance types, such as "m6i.*".
        zone: A glob over zones, such as "us-east-1a".
    """

    free: int
    instance_type: str = "*"
    zone: str = "*"


@dataclass
class Settings:
    """The delays and limits of a sandbox; times in seconds.

    Attributes:
        boot: "process" runs the user data; "none" lets instances be running without any process.
        plane: What instances are made of: "process" (process trees on loopback addresses), "netns" (the same
            in network namespaces, with a real firewall), "nspawn" (whole Linux machines on such a network)
            or "qemu" (the same as virtual machines, with a kernel of their own). Settled at the start.
        root_disk: With "nspawn" and "qemu", what new machines boot from: folders with a root file system, the
            upper first, with colons between them. With "qemu" one of them has the kernel, as boot/vmlinuz-*.
        boot_delay: From RunInstances to the start of the user data.
        grace: What a machine gets between the power button and the pulled plug.
        nat_pending: How long a new NAT gateway is pending.
        nat_deleting: How long a deleted NAT gateway is deleting, and holds its address.
        image_pending: How long a new image is pending.
        address_limit: Elastic addresses allowed in a region.
        vpc_limit: VPCs allowed in a region.
        image: "ready" for images that hold this very environment, as the machines are processes of this one;
            "bare" for images as AWS has them, on which everything has to be installed.
        disk: MiB of a bare machine's disk; None for as much as this machine has. Where machines have no
            namespaces of their own it is not held to.
        iam: "on" judges the calls of IAM users and roles by their policies, and refuses unknown keys; "off"
            allows everything.
        capacity: Machines that are left; what no entry matches is there without end.
        hub_images: The images that Docker Hub has, such as "user/image:tag".
        hub_tokens: Access tokens by Docker Hub user; images of a user with a token are private.
    """

    boot: Literal["process", "none"] = "process"
    plane: Literal["process", "netns", "nspawn", "qemu"] = "process"
    root_disk: str = ""
    boot_delay: float = 0.0
    grace: float = 5.0
    nat_pending: float = 0.0
    nat_deleting: float = 0.0
    image_pending: float = 0.0
    address_limit: int | None = None
    vpc_limit: int | None = None
    image: Literal["ready", "bare"] = "ready"
    disk: int | None = None
    iam: Literal["off", "on"] = "off"
    capacity: list[Capacity] = field(default_factory=list)
    hub_images: list[str] = field(default_factory=list)
    hub_tokens: dict[str, str] = field(default_factory=dict)

    def update(self, changes: Mapping[str, Any], *, running: bool = False) -> None:
        """Change some settings.

        Args:
            changes: Names and values; `capacity` as a list of mappings.
            running: Whether the sandbox runs already.

        Raises:
            SandboxError: A name or a value is not known, or cannot be changed any more.
        """
        known = {spec.name for spec in dataclasses.fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise SandboxError("changing sandbox settings", f"no such setting: {', '.join(unknown)}")
        if changes.get("boot", "none") not in ("process", "none"):
            raise SandboxError("changing sandbox settings", 'boot is "process" or "none"')
        if changes.get("plane", "process") not in ("process", "netns", "nspawn", "qemu"):
            raise SandboxError("changing sandbox settings", 'plane is "process", "netns", "nspawn" or "qemu"')
        if running and changes.get("plane", self.plane) != self.plane:
            raise SandboxError(
                "changing sandbox settings",
                f'plane is "{self.plane}" since the start',
                "Stop the sandbox, and start it with the other plane.",
            )
        if changes.get("iam", "off") not in ("off", "on"):
            raise SandboxError("changing sandbox settings", 'iam is "off" or "on"')
        if changes.get("image", "bare") not in ("ready", "bare"):
            raise SandboxError("changing sandbox settings", 'image is "ready" or "bare"')
        try:
            capacity = [Capacity(**entry) for entry in changes.get("capacity", [])]
        except TypeError as error:
            raise SandboxError("changing sandbox settings", f"capacity: {error}") from error
        for name, value in changes.items():
            setattr(self, name, capacity if name == "capacity" else value)
