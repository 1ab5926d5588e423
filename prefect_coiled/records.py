"""Frozen records of what was found or made in AWS. Each goes through JSON and back unchanged.

A record holds ids, names and addresses; never a secret, never a live handle.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Tier = Literal["public", "private"]
Role = Literal["scheduler", "worker"]


class Record(BaseModel):
    """Base of all records: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Subnet(Record):
    """A subnet of the account's network.

    Attributes:
        zone: Availability zone, such as "us-east-1a".
        tier: "public" (routes to the internet gateway) or "private".
        cidr: IPv4 block, such as "10.77.0.0/20".
        blocked: How VPC Block Public Access closes its way to the internet, such as "block-ingress"; empty if
            it does not.
    """

    subnet_id: str
    zone: str
    tier: Tier
    cidr: str
    blocked: str = ""


class Network(Record):
    """What an account has in a region for its clusters to share.

    Attributes:
        private_route_tables: Route table id by zone.
        nat_gateways: NAT gateway id by zone; empty unless `egress` is "nat" and a cluster needed it.
    """

    vpc_id: str
    cidr: str
    subnets: tuple[Subnet, ...]
    internet_gateway_id: str
    public_route_table_id: str
    private_route_tables: dict[str, str]
    s3_endpoint_id: str
    nat_gateways: dict[str, str] = {}

    def subnet(self, zone: str, tier: Tier) -> Subnet | None:
        """The subnet of that zone and tier, if there is one."""
        return next((s for s in self.subnets if s.zone == zone and s.tier == tier), None)


class OwnNetwork(Record):
    """A network of the user's own, as it was found.

    Attributes:
        dedicated: Whether its machines are dedicated instances, which not all types can be.
    """

    scheduler_zone: str
    worker_zone: str
    dedicated: bool = False


class AccountRecord(Record):
    """The outcome of setting an account up in one region.

    Attributes:
        creator: Who set it up: the last part of the caller's ARN.
        network: The account's own network; None where a cluster brings its own.
        role_arn: IAM role of the machines, named as the account.
        instance_profile_arn: Instance profile of the same name.
        log_group: CloudWatch log group, named as the account.
        repository: URI of the account's repository of container images in ECR; empty where its registry is
            another one, and where nobody looked.
    """

    account: str
    region: str
    aws_account_id: str
    creator: str
    network: Network | None
    role_arn: str
    instance_profile_arn: str
    log_group: str
    repository: str = ""


class MachineImage(Record):
    """An image that machines start from.

    Attributes:
        root_device: Name of its root device, such as "/dev/xvda".
        disk: GiB that its root disk has at least.
    """

    image_id: str
    root_device: str
    disk: int


class InstanceRecord(Record):
    """One machine of a cluster.

    Attributes:
        private_ip: Address inside the VPC.
        public_ip: Public address, once AWS has given one.
        works: Whether it has workers.
        state: EC2's word: pending, running, shutting-down, terminated, stopping or stopped.
        state_reason: AWS's reason for the last change of state; empty while all is well.
    """

    instance_id: str
    role: Role
    instance_type: str
    zone: str
    subnet_id: str = ""
    private_ip: str = ""
    public_ip: str = ""
    spot: bool = False
    works: bool = True
    state: str = "pending"
    state_reason: str = ""
    launched_at: datetime | None = None
    cluster: str = ""
    cluster_uid: str = ""
    creator: str = ""


class ClusterRecord(Record):
    """A cluster as it was launched.

    Attributes:
        name: The cluster's name, unique in its account and region while it lives.
        uid: Distinguishes this cluster from earlier ones of the same name.
        workers: The workers that were launched; scaling changes the truth in AWS, not this record.
        scheduler_port: TLS port by which clients reach the Dask scheduler.
        dashboard_port: HTTPS port of the dashboard; it may be the same one.
    """

    name: str
    uid: str
    account: str
    region: str
    zone: str
    created_at: datetime
    creator: str
    scheduler: InstanceRecord
    workers: tuple[InstanceRecord, ...]
    scheduler_port: int
    dashboard_port: int
    use_public_ip: bool
    log_group: str

    @property
    def scheduler_host(self) -> str:
        """The address that a client of this record connects to."""
        return (self.scheduler.public_ip if self.use_public_ip else "") or self.scheduler.private_ip


class BakedImage(Record):
    """An image that the account has baked.

    Attributes:
        name: Unique in a region: the account and the environment's hash.
        environment: The hash of the packages that it holds.
        python: Minor version of Python, such as "3.11".
        state: EC2's word: pending, available or failed.
    """

    image_id: str
    name: str
    environment: str
    python: str
    architecture: str
    state: str
    created_at: datetime
    snapshot_ids: tuple[str, ...] = ()
    root_device: str = "/dev/xvda"
    disk: int = 8

    @property
    def machine_image(self) -> MachineImage:
        """What a machine needs to know of it."""
        return MachineImage(image_id=self.image_id, root_device=self.root_device, disk=self.disk)

    @property
    def alike(self) -> tuple[str, str]:
        """What images have in common of which one replaces the other."""
        return self.python, self.architecture

    @property
    def note(self) -> str:
        """What it is, in a few words."""
        return f"Python {self.python}, {self.architecture}, {self.state}"

    @staticmethod
    def lock_key_of(environment: str) -> str:
        """Where the list of an image's packages is kept in the account's bucket."""
        return f"images/{environment}/pylock.toml"

    @property
    def lock_key(self) -> str:
        """See `lock_key_of`."""
        return self.lock_key_of(self.environment)


class Removal(Record):
    """What a deletion or sweep removed, by kind, and what it had to leave.

    Attributes:
        removed: Ids by kind, such as {"instance": ("i-1", "i-2")}.
        left: Reasons by id, for what could not be removed now; `sweep` tries again.
        needed: Those of `left` that stay because something else needs them.
    """

    removed: dict[str, tuple[str, ...]] = {}
    left: dict[str, str] = {}
    needed: tuple[str, ...] = ()

    def __add__(self, other: Removal) -> Removal:
        merged = dict(self.removed)
        for kind, ids in other.removed.items():
            merged[kind] = tuple(dict.fromkeys((*merged.get(kind, ()), *ids)))
        needed = tuple(dict.fromkeys((*self.needed, *other.needed)))
        return Removal(removed=merged, left={**self.left, **other.left}, needed=needed)

    def then(self, later: Removal) -> Removal:
        """This one and what was tried again afterwards: what is left then is left."""
        return (self + later).model_copy(update={"left": later.left, "needed": later.needed})

    @property
    def is_done(self) -> bool:
        """Whether nothing is left that should be gone."""
        return not set(self.left) - set(self.needed)

    @property
    def counts(self) -> str:
        """How much of each kind was removed."""

        def count(kind: str, n: int) -> str:
            return f"{n} {kind}{'' if n == 1 else 's'}"

        parts = [count(kind, len(ids)) for kind, ids in self.removed.items() if ids]
        return ", ".join(parts) if parts else "nothing"

    def __str__(self) -> str:
        text = self.counts
        return f"{text}; left for sweep: {', '.join(self.left)}" if self.left else text
