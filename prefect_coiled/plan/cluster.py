"""Plan of a cluster: from a `ClusterSpec` to rules, launch templates, launch attempts and client tokens.

Everything that a launch sends is fixed here, before the first call: a call that has to be sent again is sent
with the same token and the same parameters.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import Field

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import Egress, IngressRule, NetworkIds, RegistryKind, SpotPolicy
from prefect_coiled.options.ingress import held_rules
from prefect_coiled.plan import tags
from prefect_coiled.plan.containers import ContainerImage
from prefect_coiled.plan.names import fitted
from prefect_coiled.plan.node_config import Billed, NodeConfig
from prefect_coiled.plan.prices import GP3_MIBPS, Prices, iops, shipped
from prefect_coiled.records import MachineImage, Network, Record, Role, Tier

# Dask picks its worker and nanny ports from these.
INSIDE_PORTS = (1024, 65535)

# Characters of a launch template's name, which has a slug of up to 64 and a cluster's name of up to 63.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateLaunchTemplate.html
_TEMPLATE_NAME = 128
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


class ClusterSpec(Record):
    """All that a cluster shall be; no secret, so that it can be a flow's parameter and be shown.

    Attributes:
        name: Unique in account and region while the cluster lives.
        uid: Random, fixed when the cluster is planned; part of every client token.
        other_zones: Whether a zone without capacity may be left for another one of the region.
        min_workers: With fewer than that the launch has failed.
        scheduler_types: Instance types for the scheduler, in order of preference.
        worker_types: Instance types for the workers, in order of preference.
        worker_disk: Size of a worker's disk in GiB; `scheduler_disk` likewise.
        worker_disk_throughput: What a worker's disk reads and writes, in MiB a second.
        container: The image that nodes run in; None for the client's own packages.
        registry: Where the account keeps images.
        ingress: Who may reach which ports of the scheduler; every CIDR is concrete.
        allow_ssh: Whether port 22 may be opened without a key pair.
        most_workers: So many workers it may have at most, by what it may cost an hour; None for any number.
        scheduler_node: What the scheduler is told, but for where it is.
        worker_node: What a worker is told, but for the scheduler's address.
        image_ready: Whether the image holds the node and all packages, so that nothing is installed.
        flow: The flow that asked for it; empty where none did.
        package_sync_ignore: Packages of the client that the machines do not get.
        package_sync_strict: Whether what the machines cannot have is an error rather than left out.
        software: Path of a file on the client that says what the machines get instead.
    """

    name: str
    uid: str
    account: str
    region: str
    zone: str
    other_zones: bool = True
    n_workers: int = Field(ge=0)
    most_workers: int | None = None
    min_workers: int = Field(ge=0)
    scheduler_types: tuple[str, ...]
    worker_types: tuple[str, ...]
    architecture: str = "x86_64"
    scheduler_disk: int = Field(default=30, ge=8, le=16384)
    worker_disk: int = Field(default=30, ge=8, le=16384)
    worker_disk_throughput: int = Field(default=GP3_MIBPS, ge=GP3_MIBPS, le=2000)
    spot_policy: SpotPolicy = "on-demand"
    ingress: tuple[IngressRule, ...]
    egress: Egress = "nat"
    network: NetworkIds | None = None
    key_name: str = ""
    allow_ssh: bool = False
    use_public_ip: bool = True
    image_ready: bool = False
    container: ContainerImage | None = None
    registry: RegistryKind = "ecr"
    gpu: bool = False
    package_sync_ignore: tuple[str, ...] = ()
    package_sync_strict: bool = False
    software: str = ""
    tags: dict[str, str] = {}
    flow: str = ""
    creator: str
    created_at: datetime
    scheduler_node: NodeConfig
    worker_node: NodeConfig

    @property
    def works(self) -> bool:
        """Whether one of the workers is on the scheduler's machine."""
        return self.scheduler_node.works

    @property
    def worker_machines(self) -> int:
        """How many machines are launched for workers alone."""
        return self.n_workers - self.works

    def has_public_address(self, role: Role) -> bool:
        """Whether machines of the role get one: then it is paid for."""
        return has_public_address(role, self.network, self.egress, scheduler=self.use_public_ip)

    def encode(self) -> str:
        """The spec as short text, for the parameter that holds the cluster's intent."""
        raw = self.model_dump_json(exclude_defaults=True).encode()
        return base64.b64encode(zlib.compress(raw, 9)).decode()

    @classmethod
    def decode(cls, text: str) -> ClusterSpec:
        """Read what `encode` wrote."""
        return cls.model_validate_json(zlib.decompress(base64.b64decode(text)))

    @property
    def ssh(self) -> bool:
        """Whether port 22 opens where the rules name it."""
        return self.allow_ssh or bool(self.key_name)

    @property
    def installs(self) -> bool:
        """Whether the machines install the client's environment themselves."""
        return not self.image_ready and self.container is None

    def node(self, role: Role) -> NodeConfig:
        """What a machine of that role is told."""
        return self.scheduler_node if role == "scheduler" else self.worker_node


def billed_of(spec: ClusterSpec, prices: Prices | None) -> Billed:
    """What the scheduler is told so that it can write down what the cluster costs."""
    region = (prices or shipped()).region
    return Billed(
        uid=spec.uid,
        flow=spec.flow,
        creator=spec.creator,
        scheduler_disk=spec.scheduler_disk,
        worker_disk=spec.worker_disk,
        worker_throughput=spec.worker_disk_throughput,
        nat=spec.egress == "nat" and spec.network is None,
        prices=prices and prices.of({*spec.scheduler_types, *spec.worker_types}),
        prices_of=region if region != spec.region else "",
    )


def uid_of(text: str) -> str:
    """The uid in what `ClusterSpec.encode` wrote, in this version or another; empty if there is none."""
    try:
        return str(json.loads(zlib.decompress(base64.b64decode(text)))["uid"])
    except (KeyError, TypeError, ValueError, zlib.error):
        return ""


class Attempt(Record):
    """One way to get machines: a type, a zone, a market."""

    instance_type: str
    zone: str
    spot: bool

    def __str__(self) -> str:
        return f"{self.instance_type} in {self.zone} ({'spot' if self.spot else 'on demand'})"


def check_name(name: str, what: str = "name") -> str:
    """Check a cluster's name.

    Raises:
        OptionsError: If it has other characters than letters, digits and inner dashes, or is over 63 long.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionsError(f"{what} {name!r}", "1 to 63 letters, digits and inner dashes are allowed")
    return name


def cluster_tags(spec: ClusterSpec, role: Role | None = None, name: str | None = None) -> dict[str, str]:
    """The tags of what belongs to the cluster; the user's own cannot replace ours."""
    labels = {
        **spec.tags,
        **tags.account_tags(spec.account, cluster=spec.name, cluster_uid=spec.uid, creator=spec.creator),
    }
    if spec.flow:
        labels[tags.FLOW] = spec.flow
    if role is not None:
        labels[tags.ROLE] = role
    if role == "scheduler" and spec.works:
        labels[tags.ALSO] = "worker"
    return tags.named(labels, name or f"coiled-{spec.name}{f'-{role}' if role else ''}")


def group_name(spec: ClusterSpec, which: str) -> str:
    """Name of a security group; the uid keeps a new cluster from meeting the group of an old one."""
    return f"coiled-{spec.account}-{spec.name}-{which}-{spec.uid[:8]}"


def template_name(spec: ClusterSpec, role: Role, way: int = 0) -> str:
    """Name of a launch template.

    Args:
        way: Which of those by which the scheduler launches workers itself, from 1.
    """
    name = f"coiled-{spec.account}-{spec.name}-{role}-{spec.uid[:8]}{f'-{way}' if way else ''}"
    return fitted(name, _TEMPLATE_NAME)


class Held(NamedTuple):
    """What a security group lets in from one source.

    Attributes:
        ports: TCP ports; as text a range, "all", or with another protocol.
        source: A network, or the id of a prefix list.
    """

    ports: tuple[int | str, ...]
    source: str


def client_token(uid: str, *parts: object) -> str:
    """A client token: the same for the same cluster and parts, 64 ASCII characters."""
    return hashlib.sha256("/".join(map(str, (uid, *parts))).encode()).hexdigest()


def scheduler_permissions(ingress: Iterable[IngressRule], *, ssh: bool) -> list[dict[str, Any]]:
    """EC2 `IpPermissions` of the scheduler's group: what the options let in, and port 22 only with a key."""
    permissions: list[dict[str, Any]] = []
    for rule in held_rules(tuple(ingress), ssh=ssh):
        network = ipaddress.ip_network(rule.cidr, strict=False)
        ranges = (
            {"IpRanges": [{"CidrIp": str(network), "Description": "clients"}]}
            if network.version == 4
            else {"Ipv6Ranges": [{"CidrIpv6": str(network), "Description": "clients"}]}
        )
        ports = sorted(set(rule.ports))
        permissions += [{"IpProtocol": "tcp", "FromPort": p, "ToPort": p, **ranges} for p in ports]
    return permissions


def rules_of(permissions: Iterable[Mapping[str, Any]]) -> tuple[Held, ...]:
    """What EC2 `IpPermissions` let in from outside, by source; groups among themselves are left out.

    A rule of somebody else's group may be for a range, for another protocol, or for everything.
    """
    found: dict[str, dict[int | str, None]] = {}
    for permission in permissions:
        low, high = permission.get("FromPort"), permission.get("ToPort")
        protocol = str(permission.get("IpProtocol"))
        ports: int | str = "all"
        if protocol != "-1" and low is not None:
            ports = int(low) if low == high else f"{low}-{high}"
        if protocol not in ("tcp", "-1"):
            ports = f"{ports}/{protocol}"
        for kind, key in (
            ("IpRanges", "CidrIp"),
            ("Ipv6Ranges", "CidrIpv6"),
            ("PrefixListIds", "PrefixListId"),
        ):
            for source in permission.get(kind, ()):
                found.setdefault(str(source[key]), {})[ports] = None
    return tuple(
        Held(tuple(sorted(ports, key=_by_number)), source) for source, ports in sorted(found.items())
    )


def _by_number(ports: int | str) -> tuple[int, str]:
    return (ports, "") if isinstance(ports, int) else (1 << 16, ports)


def cluster_permissions() -> list[dict[str, Any]]:
    """EC2 `IpPermissions` of the cluster-wide group: its members reach each other, nobody else does."""
    low, high = INSIDE_PORTS
    pair = [{"GroupId": "SELF", "Description": "inside the cluster"}]
    return [{"IpProtocol": "tcp", "FromPort": low, "ToPort": high, "UserIdGroupPairs": pair}]


def launch_template(
    spec: ClusterSpec, role: Role, *, image: MachineImage, profile: str, user_data: str
) -> dict[str, Any]:
    """`LaunchTemplateData`: all about a machine but its type, its place and its number.

    IMDSv2 only with one hop, an encrypted disk as large as the image needs, and shutting down means
    terminating.
    """
    size = max(image.disk, spec.scheduler_disk if role == "scheduler" else spec.worker_disk)
    data: dict[str, Any] = {
        "ImageId": image.image_id,
        "IamInstanceProfile": {"Name": profile},
        "UserData": base64.b64encode(user_data.encode()).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpEndpoint": "enabled",
            "HttpPutResponseHopLimit": 1,
            # Where they are shown, keys may hold neither spaces nor slashes, and an AWS account may show
            # them by default: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/work-with-tags-in-IMDS.html
            "InstanceMetadataTags": "disabled",
        },
        "BlockDeviceMappings": [
            {
                "DeviceName": image.root_device,
                "Ebs": {
                    "VolumeSize": size,
                    "VolumeType": "gp3",
                    **(_faster(spec.worker_disk_throughput) if role == "worker" else {}),
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
    }
    if spec.key_name:
        data["KeyName"] = spec.key_name
    return data


def _faster(throughput: int) -> dict[str, int]:
    """What is asked of a gp3 disk for so many MiB a second."""
    return {} if throughput == GP3_MIBPS else {"Throughput": throughput, "Iops": iops(throughput)}


def launch_attempts(
    spec: ClusterSpec, role: Role, zones: Iterable[str], first_zone: str | None = None
) -> tuple[Attempt, ...]:
    """The ways to get machines, in order: next type, next zone, then on demand where spot may fall back.

    Args:
        role: Schedulers are never spot machines.
        first_zone: The zone to begin with: workers start where their scheduler is.
    """
    types = spec.scheduler_types if role == "scheduler" else spec.worker_types
    first = first_zone or spec.zone
    others = tuple(z for z in sorted(set(zones)) if z != first) if spec.other_zones else ()
    policy = "on-demand" if role == "scheduler" else spec.spot_policy
    markets = {"on-demand": (False,), "spot": (True,), "spot_with_fallback": (True, False)}[policy]
    return tuple(
        Attempt(instance_type=t, zone=z, spot=spot)
        for spot in markets
        for z in (first, *others)
        for t in types
    )


def has_public_address(role: Role, own: NetworkIds | None, egress: str, *, scheduler: bool) -> bool:
    """Whether machines of a role get a public address.

    Args:
        own: A network of the user's own.
        scheduler: Whether clients come to the scheduler by its public address.
    """
    if role == "scheduler" and scheduler:
        return True
    if own is not None:
        return role == "worker" and own.give_workers_public_ip
    return egress == "public-ip"


def placement(spec: ClusterSpec, network: Network | None, role: Role, zone: str) -> tuple[str, bool] | None:
    """The subnet for a machine and whether it gets a public address; None if the zone has no such subnet.

    Workers sit in private subnets, or with `egress="public-ip"` in public ones, closed to the outside either
    way. The scheduler sits in a public one when its clients come by its public address.
    """
    public = spec.has_public_address(role)
    if spec.network is not None:
        own = spec.network
        return (own.scheduler_subnet_id if role == "scheduler" else own.effective_worker_subnet_id), public
    tier: Tier = "public" if public else "private"
    subnet = network.subnet(zone, tier) if network is not None else None
    return None if subnet is None else (subnet.subnet_id, public)


def min_workers(wait_for: bool | int | float | None, n_workers: int, default: float = 0.3) -> int:
    """How many workers must be there: all, none, a number or a fraction of `n_workers` (0.3 when not said).

    Raises:
        OptionsError: If it is no bool, no whole number from 0 to n_workers and no fraction from 0 to 1.
    """
    if wait_for is None:
        wait_for = default
    if isinstance(wait_for, bool):
        return n_workers if wait_for else 0
    if isinstance(wait_for, int) and 0 <= wait_for <= n_workers:
        return wait_for
    if isinstance(wait_for, float) and 0.0 <= wait_for <= 1.0:
        return -int(-wait_for * n_workers // 1)
    raise OptionsError(
        f"wait_for_workers {wait_for!r}",
        f"it is True, False, a number of workers from 0 to {n_workers}, or a fraction from 0.0 to 1.0",
    )
