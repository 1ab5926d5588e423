"""What can be set on a sandbox, at its start and while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prefect_coiled.errors import SandboxError

__all__ = ["PRESETS", "Capacity", "Settings"]

# What a profile and a kind of account stand for. AWS gives no numbers for most times: these are usual ones.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "profile": {
        "fast": {},
        "realistic": {
            "rates": "on",
            "api_delay": (0.05, 0.15),
            "boot_delay": 5.0,
            "boot_spread": 5.0,
            "nat_pending": 90.0,
            "nat_deleting": 60.0,
            "image_pending": 60.0,
            "profile_delay": 8.0,
            "policy_delay": 15.0,
            "list_lag": 1.0,
            "bucket_name_kept": 60.0,
        },
    },
    "account": {
        "used": {},
        "fresh": {
            "vpc_limit": 5,
            "address_limit": 5,
            "spot_role": False,
            "free_plan": True,
            "validation": 30.0,
            "vcpus": {"standard": 5, "g": 0, "p": 0, "x": 0, "f": 0, "inf": 0, "trn": 0, "dl": 0},
        },
    },
}


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
        profile: "fast", or "realistic" for the delays and rates of AWS; what else is set goes before it.
        account: "used", or "fresh" for an AWS account that is new; what else is set goes before it.
        boot_delay: From RunInstances to the start of the user data.
        boot_spread: Up to so much more of it, by chance.
        grace: What a machine gets between the power button and the pulled plug.
        nat_pending: How long a new NAT gateway is pending.
        nat_deleting: How long a deleted NAT gateway is deleting, and holds its address.
        image_pending: How long a new image is pending.
        rates: "on" refuses calls that come more often than AWS takes them.
        api_delay: What each call takes at least and at most.
        list_lag: How long what EC2 made is neither in lists nor found by its id.
        profile_delay: How long no machine can be launched with a new instance profile.
        policy_delay: How long a new role's first policy does not count for its machines.
        bucket_name_kept: How long the name of a deleted bucket stays taken.
        address_limit: Elastic addresses allowed in a region.
        vpc_limit: VPCs allowed in a region, and internet gateways.
        vcpus: vCPUs allowed in a region by family ("standard", "g", "p", ...), on demand and spot each; a
            family that is not named has no limit.
        spot_role: Whether the role for spot machines counts as being there.
        disk_key: ARN of a customer's KMS key that encrypts disks by default; empty for AWS's own. With
            `iam`, machines of those who may not use it end at once.
        free_plan: Whether only the types of the free plan can be launched.
        validation: How long a region is being validated, from the first launch in it on.
        image: "ready" for images that hold this very environment, as the machines are processes of this one;
            "bare" for images as AWS has them, on which everything has to be installed.
        disk: MiB of a bare machine's disk; None for as much as this machine has. Where machines have no
            namespaces of their own it is not held to.
        iam: "on" judges the calls of IAM users and roles by their policies, and refuses unknown keys; "off"
            allows everything.
        prices: US dollars an hour, by region and machine type, for AWS's price list; None for a type that is
            not sold there; those of the library's table where nothing is said.
        capacity: Machines that are left; what no entry matches is there without end.
        most_machines: Machines that boot and run here at once; None for as many as this computer's memory
            holds, at 256 MiB each, and 8 at least. More is beyond the account's limit.
        hub_images: The images that Docker Hub has, such as "user/image:tag".
        hub_tokens: Access tokens by Docker Hub user; images of a user with a token are private.
    """

    boot: Literal["process", "none"] = "process"
    plane: Literal["process", "netns", "nspawn", "qemu"] = "process"
    root_disk: str = ""
    profile: Literal["fast", "realistic"] = "fast"
    account: Literal["used", "fresh"] = "used"
    boot_delay: float = 0.0
    boot_spread: float = 0.0
    grace: float = 5.0
    nat_pending: float = 0.0
    nat_deleting: float = 0.0
    image_pending: float = 0.0
    rates: Literal["off", "on"] = "off"
    api_delay: tuple[float, float] = (0.0, 0.0)
    list_lag: float = 0.0
    profile_delay: float = 0.0
    policy_delay: float = 0.0
    bucket_name_kept: float = 0.0
    address_limit: int | None = None
    vpc_limit: int | None = None
    vcpus: dict[str, int] = field(default_factory=dict)
    spot_role: bool = True
    disk_key: str = ""
    free_plan: bool = False
    validation: float = 0.0
    image: Literal["ready", "bare"] = "ready"
    disk: int | None = None
    iam: Literal["off", "on"] = "off"
    prices: dict[str, dict[str, float | None]] = field(default_factory=dict)
    capacity: list[Capacity] = field(default_factory=list)
    most_machines: int | None = None
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
        for name, values in _CHOICES.items():
            if name in changes and changes[name] not in values:
                text = " or ".join(f'"{value}"' for value in values)
                raise SandboxError("changing sandbox settings", f"{name} is {text}")
        if running and changes.get("plane", self.plane) != self.plane:
            raise SandboxError(
                "changing sandbox settings",
                f'plane is "{self.plane}" since the start',
                "Stop the sandbox, and start it with the other plane.",
            )
        try:
            capacity = [Capacity(**entry) for entry in changes.get("capacity", [])]
        except TypeError as error:
            raise SandboxError("changing sandbox settings", f"capacity: {error}") from error
        for name, value in {**self._preset(changes), **changes}.items():
            setattr(self, name, capacity if name == "capacity" else value)

    @staticmethod
    def _preset(changes: Mapping[str, Any]) -> dict[str, Any]:
        """What a profile and an account in the changes stand for; what they do not name is default."""
        found: dict[str, Any] = {}
        default = Settings()
        for kind, choices in PRESETS.items():
            if kind in changes:
                touched = {name for choice in choices.values() for name in choice}
                found |= {name: getattr(default, name) for name in touched} | choices[changes[kind]]
        return found


_CHOICES: dict[str, tuple[str, ...]] = {
    "boot": ("process", "none"),
    "plane": ("process", "netns", "nspawn", "qemu"),
    "iam": ("off", "on"),
    "image": ("ready", "bare"),
    "rates": ("off", "on"),
    "profile": tuple(PRESETS["profile"]),
    "account": tuple(PRESETS["account"]),
}
