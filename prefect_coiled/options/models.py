"""The backend options as frozen models that refuse whatever is wrong, in one clear line.

May not call AWS: whether a zone or a network really exists is for the provisioning to find out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from pydantic import SecretStr, model_validator

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import OptionsModel, renamed, unset
from prefect_coiled.options.ingress import IngressRule, ingress_rules
from prefect_coiled.options.kinds import as_bool, plain, shown

Region = Literal[
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-south-1",
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "sa-east-1",
]
REGIONS: tuple[str, ...] = get_args(Region)
SpotPolicy = Literal["on-demand", "spot", "spot_with_fallback"]
SPOT_POLICIES: tuple[str, ...] = get_args(SpotPolicy)
Egress = Literal["nat", "public-ip", "none"]
RegistryKind = Literal["ecr", "docker_hub"]

# The names that there are, and the option that each is about: saying one hides the others of lower places.
OPTIONS = {
    "region": "region",
    "region_name": "region",
    "zone": "zone",
    "zone_name": "zone",
    "spot": "spot",
    "spot_policy": "spot",
    "ingress": "ingress",
    "firewall": "ingress",
    "registry": "registry",
    "egress": "egress",
    "network": "network",
}
_ALIASES = {"region_name": "region", "zone_name": "zone"}
# A part of the name of an image: https://pkg.go.dev/github.com/distribution/reference
_PATH = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
_REGISTRY_ALIASES = {"type": "kind", "user": "username", "token": "access_token"}


class RegistryOptions(OptionsModel):
    """Where images are kept.

    Attributes:
        kind: "ecr" (in the same AWS account) or "docker_hub".
        uri: Host of the registry, Docker Hub only.
        username: Docker Hub user, lower case.
        access_token: Docker Hub access token.
        namespace: Docker Hub namespace; the user name when not given.
    """

    label: ClassVar[str] = "registry"

    kind: RegistryKind = "ecr"
    uri: str = "docker.io"
    username: str = ""
    access_token: SecretStr | None = None
    namespace: str = ""

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        named = renamed(data, _REGISTRY_ALIASES)
        if isinstance(named.get("access_token"), str):
            named["access_token"] = SecretStr(named["access_token"])
        return named

    @model_validator(mode="after")
    def _complete(self) -> RegistryOptions:
        hub = "registry 'docker_hub'"
        if self.kind == "ecr":
            if self.username or self.access_token or self.namespace:
                raise OptionsError(
                    "registry 'ecr'", "takes no user, token or namespace.", 'Did you mean kind="docker_hub"?'
                )
            return self
        if not self.username:
            raise OptionsError(hub, "needs a username.")
        if self.username != self.username.lower():
            # Not shown: tokens are pasted into the wrong field.
            raise OptionsError("registry username", "must be lower case.")
        # What registries call their users: "me", "org+robot", "$oauthtoken", "_json_key".
        if not re.fullmatch(r"[a-z0-9_$][a-z0-9._+@$-]{0,254}", self.username):
            raise OptionsError("registry username", "is the name of no user.")
        if self.namespace and not re.fullmatch(rf"{_PATH}(/{_PATH})*", self.namespace):
            raise OptionsError(
                "registry namespace", "is no name of images: lower-case letters, digits and ._- between them."
            )
        if self.access_token is None or not self.access_token.get_secret_value().strip():
            raise OptionsError(
                hub, "needs an access token.", "Make one under Account settings > Personal access tokens."
            )
        if not re.fullmatch(rf"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{{1,5}})?(/{_PATH})*/?", self.uri):
            raise OptionsError("registry uri", 'must be a host such as "docker.io", without "https://".')
        return self

    @property
    def effective_namespace(self) -> str:
        """The namespace, or the user name where none was given."""
        return self.namespace or self.username

    def __str__(self) -> str:
        if self.kind == "ecr":
            return "ecr"
        return f"docker_hub {self.uri}/{self.effective_namespace} as {self.username}"


class NetworkIds(OptionsModel):
    """A network of one's own, instead of the one that account set-up makes.

    Attributes:
        network_id: The VPC.
        scheduler_subnet_id: Subnet of the scheduler.
        worker_subnet_id: Subnet of the workers; the scheduler's when not given.
        scheduler_firewall_id: Security group of the scheduler; made for each cluster when not given.
        firewall_id: Security group of all machines of the cluster; made for each cluster when not given.
        give_workers_public_ip: Whether workers get a public address.
    """

    label: ClassVar[str] = "network"

    network_id: str
    scheduler_subnet_id: str
    worker_subnet_id: str = ""
    scheduler_firewall_id: str = ""
    firewall_id: str = ""
    give_workers_public_ip: bool = False

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        return renamed(data, {}) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _ids(self) -> NetworkIds:
        prefixes = {
            "network_id": "vpc-",
            "scheduler_subnet_id": "subnet-",
            "worker_subnet_id": "subnet-",
            "scheduler_firewall_id": "sg-",
            "firewall_id": "sg-",
        }
        for name, prefix in prefixes.items():
            value = getattr(self, name)
            if value and not re.fullmatch(prefix + r"[0-9a-f]{8,17}", value):
                raise OptionsError(
                    f"network.{name} {value!r}", f"must be an id such as {prefix}0123456789abcdef0."
                )
        return self

    @property
    def effective_worker_subnet_id(self) -> str:
        """The subnet of the workers, or the scheduler's where none was given."""
        return self.worker_subnet_id or self.scheduler_subnet_id

    def __str__(self) -> str:
        return f"{self.network_id} ({self.scheduler_subnet_id}, {self.effective_worker_subnet_id})"


class BackendOptions(OptionsModel):
    """Where and how machines are started.

    `spot=True` means spot machines only: falling back to on-demand prices is asked for by
    `spot_policy="spot_with_fallback"`. Both concern workers; the scheduler is always on demand.

    Attributes:
        region: One of the 16 supported AWS regions.
        zone: An availability zone of that region, such as "us-east-1b"; see `default_zone`.
        spot: Whether workers are spot machines; None when nothing was said (then they are not).
        spot_policy: How workers are bought.
        ingress: What may reach the scheduler from outside.
        registry: Where images are kept.
        egress: How workers reach the internet: through NAT, by public addresses of their own, or not.
        network: A network of one's own.
    """

    region: Region = "us-east-1"
    zone: str | None = None
    spot: bool | None = None
    spot_policy: SpotPolicy = "on-demand"
    ingress: tuple[IngressRule, ...] = (IngressRule(),)
    registry: RegistryOptions = RegistryOptions()
    egress: Egress = "nat"
    network: NetworkIds | None = None

    @model_validator(mode="before")
    @classmethod
    def _normalised(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        out = renamed(data, _ALIASES)
        if "firewall" in out:
            if "ingress" in out:
                raise OptionsError("firewall and ingress", "cannot be given together.", "Give one of them.")
            out["ingress"] = [out.pop("firewall")]
        if "ingress" in out:
            out["ingress"] = ingress_rules(out["ingress"])
        if isinstance(out.get("registry"), str):
            kind = out["registry"].lower().replace("-", "_")
            if kind not in get_args(RegistryKind):
                # It may be a token: not shown, however near.
                raise OptionsError(
                    "registry (not shown)", f"must be one of {', '.join(get_args(RegistryKind))}."
                )
            out["registry"] = {"kind": kind}
        if isinstance(out.get("registry"), Mapping):
            out["registry"] = RegistryOptions(**out["registry"])
        if isinstance(out.get("network"), Mapping):
            out["network"] = NetworkIds(**out["network"])
        elif "network" in out and not isinstance(out["network"], NetworkIds):
            raise OptionsError(
                f"network {out['network']!r}", 'must look like {"network_id": "vpc-...", ...}.'
            )
        if "zone" in out and not isinstance(out["zone"], str):
            check_zone(out["zone"], str(out.get("region", "us-east-1")))
        if "spot" in out:
            try:
                out["spot"] = as_bool(plain(out["spot"]))
            except (TypeError, ValueError):
                raise OptionsError(f"spot {shown(out['spot'])}", "must be true or false.") from None
        if "spot" in out and "spot_policy" not in out:
            out["spot_policy"] = "spot" if out["spot"] else "on-demand"
        elif out.get("spot_policy") in ("spot", "spot_with_fallback"):
            out.setdefault("spot", True)
        return out

    @model_validator(mode="after")
    def _agree(self) -> BackendOptions:
        check_zone(self.zone, self.region)
        if self.spot is not None and self.spot != (self.spot_policy != "on-demand"):
            raise OptionsError(
                f"spot {self.spot} and spot_policy {self.spot_policy!r}",
                "contradict each other.",
                "Give one.",
            )
        return self

    @property
    def default_zone(self) -> str:
        """The zone to start in: the one that was asked for, else zone "a" of the region.

        Some AWS accounts do not see zone "a" of us-west-1: the provisioning takes the first it finds.
        """
        return self.zone or f"{self.region}a"


def check_zone(zone: object, region: str) -> None:
    """Raise `OptionsError` unless the zone's name is one of the region's.

    Which letters a region has differs by AWS account; the provisioning looks them up.
    """
    if unset(zone):
        return
    if not isinstance(zone, str):
        raise OptionsError(f"zone {zone!r}", f'must be a text such as "{region}a".')
    if re.fullmatch(re.escape(region) + "[a-z]", zone):
        return
    if re.fullmatch(r"[a-z]{3,4}\d-az\d", zone):
        raise OptionsError(f"zone {zone!r}", "is a zone id.", f'Give the zone\'s name, such as "{region}a".')
    raise OptionsError(
        f"zone {zone!r}", f"is not in region {region}.", f'Its zones are named like "{region}a".'
    )
