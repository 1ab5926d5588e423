"""From the keywords of `Cluster` to a `ClusterSpec`: what is wrong shows here, before AWS is touched."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

import dask.config
from dask.utils import parse_timedelta

from prefect_coiled.aws.credentials import Account
from prefect_coiled.aws.parameters import cluster_path
from prefect_coiled.environment.capture import check_ignored
from prefect_coiled.environment.software import check_software
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import DEFAULT_PORTS, MergedOptions, cluster_defaults, merge
from prefect_coiled.options.ingress import check_ssh
from prefect_coiled.plan import machines
from prefect_coiled.plan.cluster import ClusterSpec, check_counts, check_name, min_workers
from prefect_coiled.plan.containers import ContainerImage, check_reference, container_image
from prefect_coiled.plan.node_config import NodeConfig, check_dask_options
from prefect_coiled.plan.tags import check_user_tags

# Part of Dask's configuration that belongs to this machine or to the connection itself.
_NOT_SENT = {
    "coiled",
    "scheduler-address",
    "scheduler_address",
    "temporary-directory",
    "scheduler",
    "num-workers",
}


@dataclass(frozen=True, repr=False)
class Request:
    """What a user asked of `Cluster`, with nothing looked up yet; see `Cluster` for each field."""

    n_workers: int | None = None
    name: str | None = None
    account: str | None = None
    tags: Mapping[str, str] | None = None
    wait_for_workers: bool | int | float | None = None
    worker_vm_types: str | Sequence[str] | None = None
    scheduler_vm_types: str | Sequence[str] | None = None
    worker_cpu: int | Sequence[int] | None = None
    worker_memory: str | Sequence[str] | None = None
    worker_gpu: int | bool | None = None
    worker_gpu_type: str | None = None
    scheduler_cpu: int | Sequence[int] | None = None
    scheduler_memory: str | Sequence[str] | None = None
    worker_disk_size: int | None = None
    scheduler_disk_size: int | None = None
    container: str | None = None
    worker_class: str | None = None
    worker_options: Mapping[str, Any] | None = None
    scheduler_options: Mapping[str, Any] | None = None
    environ: Mapping[str, str] | None = None
    nthreads: int | None = None
    memory_limit: str | None = None
    send_dask_config: bool | None = None
    use_scheduler_public_ip: bool | None = None
    backend_options: Mapping[str, Any] | None = None
    region: str | None = None
    zone: str | None = None
    spot: bool | None = None
    spot_policy: str | None = None
    key_name: str | None = None
    allow_ingress_from: str | None = None
    allow_ssh: bool | None = None
    shutdown_on_close: bool | None = None
    idle_timeout: str | float | None = "20 minutes"
    no_client_timeout: str | float | None = "2 minutes"
    cluster_timeout: str | float | None = None
    package_sync_ignore: Sequence[str] | None = None
    package_sync_strict: bool | None = None
    software: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=cluster_defaults)

    def __post_init__(self) -> None:
        """Fill what was not said from `coiled.yaml`, then check what needs no account."""
        for key, value in self.defaults.items():
            if hasattr(self, key) and getattr(self, key) is None:
                object.__setattr__(self, key, value)
        if self.n_workers is None:
            object.__setattr__(self, "n_workers", 4)
        count = check_counts(self.n_workers)
        if self.name is not None:
            check_name(self.name)
        if self.allow_ingress_from is not None and not str(self.allow_ingress_from).strip():
            raise OptionsError(
                f"allow_ingress_from {self.allow_ingress_from!r}",
                "is blank, which opens nothing.",
                'Write "0.0.0.0/0" for everybody, or "me" for your own address.',
            )
        check_user_tags(self.tags or {})
        min_workers(self.wait_for_workers, count)
        check_dask_options(self.worker_options, self.scheduler_options)
        self._check_environ()
        if self.container is not None:
            check_reference(self.container)
            if self.software is not None:
                raise OptionsError(
                    f"software {self.software!r} and container {self.container!r}",
                    "contradict each other: an image holds its own packages.",
                    "Give one of them.",
                )
        self._check_packages()
        self.worker_types()
        self.scheduler_types()
        _disk("worker_disk_size", self.worker_disk_size, gpu=self.gpu)
        for what in ("idle_timeout", "no_client_timeout", "cluster_timeout"):
            _seconds(what, getattr(self, what))

    def __repr__(self) -> str:
        """What was given; of mappings, which may hold secrets, the names alone."""
        given = []
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "defaults" or value == one.default:
                continue
            shown = f"{{{', '.join(map(str, value))}}}" if isinstance(value, Mapping) else repr(value)
            given.append(f"{one.name}={shown}")
        return f"Request({', '.join(given)})"

    def _check_environ(self) -> None:
        for key, value in (self.environ or {}).items():
            if not isinstance(key, str) or not key or "=" in key or "\0" in key or not isinstance(value, str):
                raise OptionsError(
                    f"environ[{key!r}]", "names and values of environment variables are strings"
                )

    def _check_packages(self) -> None:
        check_ignored(self.package_sync_ignore or ())
        if self.package_sync_strict not in (None, True, False):
            raise OptionsError(f"package_sync_strict {self.package_sync_strict!r}", "it is True or False")
        if self.software is not None:
            check_software(self.software)
            if self.package_sync_ignore:
                raise OptionsError(
                    "software and package_sync_ignore", "contradict each other", "Take it out of the file."
                )

    def worker_types(self) -> tuple[str, ...]:
        """Instance types for the workers, in order of preference."""
        try:
            return machines.choose(
                _pair(self.worker_cpu),
                _pair(self.worker_memory),
                gpu=self.worker_gpu,
                gpu_type=self.worker_gpu_type,
                vm_types=self.worker_vm_types,
            )
        except OptionsError as error:
            raise _about("worker", error) from error

    @property
    def gpu(self) -> bool:
        """Whether the workers' machines have a GPU.

        Raises:
            OptionsError: If only some of the types have one: all workers start from one image.
        """
        types = self.worker_types()
        having = [t for t in types if machines.has_gpu(t)]
        if having and len(having) < len(types):
            others = ", ".join(t for t in types if t not in having)
            raise OptionsError(
                f"worker_vm_types {', '.join(having)} and {others}",
                "some have a GPU and some have none; all workers of a cluster have one image.",
                "Name types of one kind.",
            )
        return bool(having)

    def scheduler_types(self) -> tuple[str, ...]:
        """Instance types for the scheduler, of the same architecture as the workers."""
        arch = machines.architecture(self.worker_types())
        try:
            return machines.choose(
                _pair(self.scheduler_cpu),
                _pair(self.scheduler_memory),
                vm_types=self.scheduler_vm_types,
                arch=arch,
            )
        except OptionsError as error:
            raise _about("scheduler", error) from error

    def merged(self, account: Account) -> MergedOptions:
        """The backend options by precedence, with where each came from."""
        keywords = dict(self.backend_options or {})
        for key in ("region", "zone", "spot", "spot_policy"):
            value = getattr(self, key)
            if value is not None:
                if keywords.get(key, value) != value:
                    raise OptionsError(
                        f"{key} {value!r} and backend_options[{key!r}] {keywords[key]!r}",
                        "contradict each other",
                    )
                keywords[key] = value
        if self.allow_ingress_from is not None:
            if keywords.get("ingress") is not None or keywords.get("firewall") is not None:
                raise OptionsError(
                    "allow_ingress_from and backend_options['ingress']", "contradict each other", "Give one."
                )
            keywords["ingress"] = [{"ports": DEFAULT_PORTS, "cidr": self.allow_ingress_from}]
        return merge(keywords, account.options)

    def container_image(self, account: Account, number: str) -> ContainerImage | None:
        """The image that nodes run in, if one was asked for.

        Args:
            account: The account, whose registry says what a short name means.
            number: The 12 digits of the AWS account.

        Raises:
            OptionsError: If no image can be meant, or machines could not pull it.
        """
        if self.container is None:
            return None
        options = self.merged(account).options
        return container_image(
            self.container,
            options.registry,
            account=account.slug,
            number=number,
            region=options.region,
        )

    @property
    def closes(self) -> bool:
        """Whether closing a new cluster removes it."""
        return True if self.shutdown_on_close is None else self.shutdown_on_close

    def spec(
        self,
        account: Account,
        creator: str,
        *,
        own_cidr: Callable[[], str],
        ports: tuple[int, int] = (8786, 8787),
        now: datetime | None = None,
        uid: str | None = None,
        container: ContainerImage | None = None,
    ) -> ClusterSpec:
        """Plan the cluster.

        Args:
            account: The account, as it was loaded.
            creator: Who asks for it.
            own_cidr: Finds the caller's address; called only if some rule says "me".
            ports: Of the scheduler and of the dashboard.
            now: The time; UTC now by default.
            uid: Random by default.
            container: The image that nodes run in; see `container_image`.

        Raises:
            OptionsError: For whatever is wrong with the options.
        """
        merged = self.merged(account)
        options = merged.options
        if merged.sources["ingress"] == "keyword":
            # In an account it waits for those clusters that have a key.
            check_ssh(options.ingress, ssh=bool(self.key_name or self.allow_ssh))
        if options.egress == "none" and options.network is None and not account.is_sandbox:
            raise OptionsError(
                "egress 'none'",
                "machines in the account's own network could reach neither SSM nor CloudWatch nor Prefect",
                "Use 'nat' or 'public-ip', or bring a network that has ways to them.",
            )
        uid = uid or secrets.token_hex(8)
        name = self.name or f"dask-{uid[:8]}"
        n_workers = check_counts(self.n_workers)
        rules = tuple(
            r.model_copy(update={"cidr": own_cidr()}) if r.cidr == "me" else r for r in options.ingress
        )
        gpu = self.gpu
        spot_policy = "on-demand" if gpu and options.spot is None else options.spot_policy
        use_public = True if self.use_scheduler_public_ip is None else self.use_scheduler_public_ip
        secrets_path = f"{cluster_path(account.slug, name, uid)}node"
        shared: dict[str, Any] = {
            "account": account.slug,
            "region": options.region,
            "cluster": name,
            "log_group": account.slug,
            "scheduler_port": ports[0],
            "dashboard_port": ports[1],
            "idle_timeout": _seconds("idle_timeout", self.idle_timeout),
            "no_client_timeout": _seconds("no_client_timeout", self.no_client_timeout)
            if self.closes
            else None,
            "cluster_timeout": _seconds("cluster_timeout", self.cluster_timeout),
        }
        return ClusterSpec(
            name=name,
            uid=uid,
            account=account.slug,
            region=options.region,
            zone=options.default_zone,
            other_zones=options.zone is None and options.network is None,
            n_workers=n_workers,
            min_workers=min_workers(self.wait_for_workers, n_workers),
            scheduler_types=self.scheduler_types(),
            worker_types=self.worker_types(),
            architecture=machines.architecture(self.worker_types()),
            scheduler_disk=_disk("scheduler_disk_size", self.scheduler_disk_size),
            worker_disk=_disk("worker_disk_size", self.worker_disk_size, gpu=gpu),
            spot_policy=spot_policy,
            ingress=rules,
            egress=options.egress,
            network=options.network,
            key_name=self.key_name or "",
            allow_ssh=bool(self.allow_ssh),
            use_public_ip=use_public,
            image_ready=account.sandbox is not None and account.sandbox.image == "ready",
            container=container,
            registry=options.registry.kind,
            gpu=gpu,
            package_sync_ignore=tuple(self.package_sync_ignore or ()),
            package_sync_strict=bool(self.package_sync_strict),
            software=check_software(self.software) if self.software is not None else "",
            tags=check_user_tags({**account.tags, **(self.tags or {})}),
            creator=creator,
            created_at=now or datetime.now(timezone.utc),
            scheduler_node=NodeConfig(
                **shared,
                role="scheduler",
                secrets_parameter=f"{secrets_path}/scheduler",
                scheduler_options=dict(self.scheduler_options or {}),
            ),
            worker_node=NodeConfig(
                **shared,
                role="worker",
                scheduler_host="unknown-yet",
                secrets_parameter=f"{secrets_path}/worker",
                nthreads=self.nthreads,
                memory_limit=self.memory_limit or "auto",
                worker_class=self.worker_class,
                worker_options=dict(self.worker_options or {}),
                spot=spot_policy != "on-demand",
                gpu=gpu,
            ),
        )

    def dask_config(self) -> dict[str, Any]:
        """The client's Dask configuration where it differs from Dask's own defaults."""
        if self.send_dask_config is False:
            return {}
        defaults: dict[str, Any] = dask.config.merge(*dask.config.defaults) if dask.config.defaults else {}
        own = _difference(dask.config.config, defaults)
        own = {k: v for k, v in own.items() if k not in _NOT_SENT}
        comm = own.get("distributed", {}).get("comm")
        if isinstance(comm, dict):
            comm.pop("tls", None)
        return own


def _difference(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        base = defaults.get(key)
        if isinstance(value, Mapping):
            inner = _difference(value, base if isinstance(base, Mapping) else {})
            if inner:
                out[key] = inner
        elif (key not in defaults or value != base) and _is_plain(value):
            out[key] = value
    return out


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _pair(wish: Any) -> Any:
    return tuple(wish) if isinstance(wish, list) else wish


def _about(who: str, error: OptionsError) -> OptionsError:
    d = error.diagnosis
    return OptionsError(f"{who}_{d.what}" if not d.what.startswith(who) else d.what, d.why, d.next_step)


def _disk(what: str, size: int | None, *, gpu: bool = False) -> int:
    # https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html; the image itself needs 8 GiB,
    # and the one with a GPU's driver and CUDA 75.
    least, default = (75, 100) if gpu else (8, 30)
    if size is None:
        return default
    if isinstance(size, bool) or not isinstance(size, int) or not least <= size <= 16384:
        because = ": the image of machines with a GPU takes 75" if gpu else ""
        raise OptionsError(f"{what} {size!r}", f"it is a whole number of GiB from {least} to 16384{because}")
    return size


def _seconds(what: str, value: str | float | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(parse_timedelta(value, default="s"))
    except (KeyError, ValueError, TypeError) as error:
        raise OptionsError(f"{what} {value!r}", "it is seconds, or a text such as '20 minutes'") from error
    if seconds <= 0:
        raise OptionsError(f"{what} {value!r}", "it is more than 0; None means never")
    return seconds
