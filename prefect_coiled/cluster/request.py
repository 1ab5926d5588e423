"""From the keywords of `Cluster` to a `ClusterSpec`: what is wrong shows here, before AWS is touched."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from typing_extensions import Unpack

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.parameters import cluster_path
from prefect_coiled.cluster.dask_config import config_to_send
from prefect_coiled.environment.capture import check_ignored
from prefect_coiled.environment.software import check_software
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import BackendOptions
from prefect_coiled.options.base import unset
from prefect_coiled.options.file import FILE
from prefect_coiled.options.ingress import DEFAULT_PORTS, by_one_port, check_ssh
from prefect_coiled.options.keywords import KEYWORDS, ClusterKeywords, taken
from prefect_coiled.options.keywords import defaults as default_values
from prefect_coiled.options.models import OPTIONS
from prefect_coiled.options.precedence import KEYWORD, MergedOptions, Place, file_place, merged, stacked
from prefect_coiled.plan import machines
from prefect_coiled.plan.cluster import ClusterSpec, check_name, has_public_address, min_workers
from prefect_coiled.plan.containers import ContainerImage, check_reference, container_image
from prefect_coiled.plan.lid import Choice, Sizes, below, check_region
from prefect_coiled.plan.node_config import NodeConfig, check_dask_options
from prefect_coiled.plan.prices import GP3_MIBPS, Prices, least_disk, shipped, usd
from prefect_coiled.plan.tags import check_user_tags, readable

# GiB of the image with a GPU's driver and CUDA.
_GPU_IMAGE = 75
# Until machines are there and a client is.
_FIRST_MINUTES = 5


# What holds for a cluster that one attaches to, as for one that is launched.
_OF_ANY = (
    "account", "name", "region", "credentials", "timeout", "shutdown_on_close", "api_relay", "results",
    "quiet", "show_widget", "asynchronous", "loop", "report", "stop",
)  # fmt: skip


class Request:
    """What a user asked of `Cluster`, with nothing looked up yet.

    Args:
        config: Dask's configuration; by default the one that is loaded.
        defaults: Keywords that hold where none is given, in place of those of the configuration.

    Attributes:
        held: The keywords that hold, each as it is meant; backend options apart, see `merged`.

    Raises:
        OptionsError: A keyword is wrong, or contradicts another one.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        /,
        *,
        defaults: Mapping[str, Any] | None = None,
        **keywords: Unpack[ClusterKeywords],
    ) -> None:
        self._given = taken(keywords)
        lower = file_place(config) if defaults is None else Place(FILE, taken(defaults))
        self._places = (Place(KEYWORD, self._given), lower)
        held: Any = {**default_values(), **stacked(self._places).keywords}
        self.held: ClusterKeywords = held
        if self.held["name"] is not None:
            check_name(self.held["name"])
        check_user_tags(self.held["tags"] or {})
        min_workers(self.held["wait_for_workers"], self.n_workers)
        check_dask_options(self.held["worker_options"], self.held["scheduler_options"])
        if not isinstance((self.held["worker_options"] or {}).get("env") or {}, Mapping):
            raise OptionsError("worker_options['env']", "it is a mapping of names to texts.")
        for key, value in self.environ.items():
            if not key or "=" in key or "\0" in key:
                raise OptionsError(f"environ[{key!r}]", "there is no variable of such a name.")
            if "\0" in value:
                raise OptionsError(f"environ[{key!r}]", "it holds a NUL character, which no variable does.")
        self._check_packages()
        self.worker_types()
        self.scheduler_types()
        self._worker_disk()
        self._check_sharing()
        _ = self.host_setup_script

    def __repr__(self) -> str:
        """What was given; of what may hold secrets, the names alone, or nothing."""
        given = self._given.items()
        shown = (f"{n}={KEYWORDS[n].shown(v) if KEYWORDS[n].secret else repr(v)}" for n, v in given)
        return f"Request({', '.join(shown)})"

    @property
    def n_workers(self) -> int:
        """How many workers are launched."""
        return self.held["n_workers"] or 0

    @property
    def lends(self) -> bool:
        """Whether tasks work with the credentials of this machine."""
        return self.held["credentials"] == "local"

    @property
    def works(self) -> bool:
        """Whether one of the workers is on the scheduler's machine."""
        return bool(self.held["worker_on_scheduler"])

    def _check_sharing(self) -> None:
        several = (self.held["workers_per_vm"] or 1) > 1
        if self.gpu and (several or self.works):
            raise OptionsError(
                "workers_per_vm" if several else "worker_on_scheduler",
                "does not go with a GPU: there is a worker for each, on machines with an image of their own.",
                "Leave it out.",
            )
        if self.works and not self.n_workers:
            raise OptionsError(
                "worker_on_scheduler and n_workers 0",
                "contradict each other.",
                "The worker on the scheduler's machine is one of n_workers.",
            )

    def of_a_launch(self) -> tuple[str, ...]:
        """The keywords that were given, and that say nothing of a cluster that is there already."""
        options = self._given.get("backend_options") or {}
        said = {OPTIONS[key.replace("-", "_")] for key, value in options.items() if not unset(value)}
        left = set(_OF_ANY) if said - {"region"} else {*_OF_ANY, "backend_options"}
        return tuple(name for name in self._given if name not in left)

    def _check_packages(self) -> None:
        container, software = self.held["container"], self.held["software"]
        check_ignored(self.held["package_sync_ignore"] or ())
        if container is not None:
            check_reference(container)
        if software is None:
            return
        if container is not None:
            raise OptionsError(
                f"software {software!r} and container {container!r}",
                "contradict each other: an image holds its own packages.",
                "Give one of them.",
            )
        check_software(software)
        if self.held["package_sync_ignore"]:
            raise OptionsError(
                "software and package_sync_ignore", "contradict each other", "Take it out of the file."
            )

    def worker_types(self) -> tuple[str, ...]:
        """Instance types for the workers, in order of preference."""
        try:
            return machines.choose(
                self.held["worker_cpu"],
                self.held["worker_memory"],
                gpu=self.held["worker_gpu"],
                gpu_type=self.held["worker_gpu_type"],
                vm_types=self.held["worker_vm_types"],
                arch="arm64" if self.held["arm"] else None,
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
        names = ("scheduler_cpu", "scheduler_memory", "scheduler_vm_types")
        if self.works and all(self.held[name] is None for name in names):  # type: ignore[literal-required]
            return self.worker_types()  # who works there needs what workers need
        try:
            return machines.choose(
                self.held["scheduler_cpu"],
                self.held["scheduler_memory"],
                vm_types=self.held["scheduler_vm_types"],
                arch=arch,
            )
        except OptionsError as error:
            raise _about("scheduler", error) from error

    def merged(self, account: Account) -> MergedOptions:
        """The backend options by precedence, with where each came from."""
        return merged(self._places, account.options)

    def container_image(self, account: Account, number: str) -> ContainerImage | None:
        """The image that nodes run in, if one was asked for.

        Raises:
            OptionsError: If no image can be meant, or machines could not pull it.
        """
        if self.held["container"] is None:
            return None
        options = self.merged(account).options
        return container_image(
            self.held["container"],
            options.registry,
            account=account.slug,
            number=number,
            region=options.region,
        )

    @property
    def closes(self) -> bool:
        """Whether closing a new cluster removes it."""
        return self.held["shutdown_on_close"] is not False

    @property
    def environ(self) -> dict[str, str]:
        """Variables for the machines; those of `worker_options` win, as a nanny has it."""
        of_workers = (self.held["worker_options"] or {}).get("env") or {}
        return {**(self.held["environ"] or {}), **{str(k): str(v) for k, v in of_workers.items()}}

    @property
    def host_setup_script(self) -> SecretStr:
        """What machines run before Dask; empty for nothing. Of a file, what it holds now.

        Raises:
            OptionsError: There is no such file, or it is no text.
        """
        path, text = self.held["host_setup_script"], self.held["host_setup_script_content"]
        if path and text:
            raise OptionsError(
                "host_setup_script and host_setup_script_content",
                "contradict each other.",
                "Give one of them.",
            )
        if not path:
            return SecretStr(text or "")
        try:
            content = Path(path).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "is no text"
            raise OptionsError(f"host_setup_script {path!r}", f"{why}.") from error
        if "\0" in content:
            raise OptionsError(f"host_setup_script {path!r}", "is no text: it holds a NUL character.")
        return SecretStr(content)

    def _worker_throughput(self) -> int:
        return self.held["worker_disk_throughput"] or GP3_MIBPS

    def _worker_disk(self) -> int:
        size = self.held["worker_disk_size"]
        if size is None:
            return 100 if self.gpu else 30
        if self.gpu and size < _GPU_IMAGE:
            raise OptionsError(
                f"worker_disk_size {size}",
                f"it has to be a whole number of GiB from {_GPU_IMAGE} to 16384: "
                f"the image of machines with a GPU takes {_GPU_IMAGE}",
            )
        least = least_disk(self._worker_throughput())
        if size < least:
            raise OptionsError(
                f"worker_disk_size {size}",
                f"a disk of {self._worker_throughput()} MiB a second (worker_disk_throughput) has at least "
                f"{least} GiB at AWS",
                f"Give {least} GiB, or less throughput.",
            )
        return size

    def _scheduler_disk(self) -> int:
        return self.held["scheduler_disk_size"] or max(30, self._worker_disk() if self.works else 0)

    def spec(
        self,
        account: Account,
        creator: str,
        *,
        own_cidr: Callable[[], str],
        ports: tuple[int, int, int | None] = (8786, 8787, None),
        now: datetime | None = None,
        uid: str | None = None,
        container: ContainerImage | None = None,
        flow: str = "",
        prices: Prices | None = None,
    ) -> ClusterSpec:
        """Plan the cluster.

        Args:
            own_cidr: Finds the caller's address; called only if some rule says "me".
            ports: Of the scheduler and of the dashboard, and one for both, if there is to be one.
            now: The time; UTC now by default.
            uid: Random by default.
            flow: The flow that asks for it, if one does.
            prices: What its limits are held to; None where nothing is launched.

        Raises:
            OptionsError: For whatever is wrong with the options.
        """
        found = self.merged(account)
        options = found.options
        if self.held["scheduler_port"] in DEFAULT_PORTS:
            raise OptionsError(
                f"scheduler_port {self.held['scheduler_port']}",
                "has its own use: 22 is SSH's, and 8786 and 8787 are open by themselves.",
                "Give another one, such as 443.",
            )
        if found.sources["ingress"] == KEYWORD:
            # In an account it waits for those clusters that have a key.
            check_ssh(options.ingress, ssh=bool(self.held["key_name"] or self.held["allow_ssh"]))
        if options.egress == "none" and options.network is None and not account.is_sandbox:
            raise OptionsError(
                "egress 'none'",
                "machines in the account's own network could reach neither SSM nor CloudWatch nor Prefect",
                "Use 'nat' or 'public-ip', or bring a network that has ways to them.",
            )
        choice = self._within_costs(options, prices)
        uid = uid or secrets.token_hex(8)
        name = self.held["name"] or f"dask-{uid[:8]}"
        rules = tuple(
            r.model_copy(update={"cidr": own_cidr()}) if r.cidr == "me" else r for r in options.ingress
        )
        gpu = self.gpu
        spot_policy = "on-demand" if gpu and options.spot is None else options.spot_policy
        secrets_path = f"{cluster_path(account.slug, name, uid)}node"
        shared: dict[str, Any] = {
            "account": account.slug,
            "region": options.region,
            "cluster": name,
            "log_group": account.slug,
            "scheduler_port": ports[0],
            "dashboard_port": ports[1],
            "one_port": ports[2],
            "idle_timeout": self.held["idle_timeout"],
            "no_client_timeout": self.held["no_client_timeout"] if self.closes else None,
            "cluster_timeout": self.held["cluster_timeout"],
        }
        workers: dict[str, Any] = {
            "nthreads": self.held["nthreads"],
            "memory_limit": self.held["memory_limit"],
            "worker_class": self.held["worker_class"],
            "workers_per_vm": self.held["workers_per_vm"] or 1,
            "lends": self.lends,
            # "env" goes with the other variables, as a secret: whoever sees instances sees user data.
            "worker_options": {k: v for k, v in (self.held["worker_options"] or {}).items() if k != "env"},
        }
        return ClusterSpec(
            name=name,
            uid=uid,
            account=account.slug,
            region=options.region,
            zone=options.default_zone,
            other_zones=options.zone is None and options.network is None,
            n_workers=self.n_workers,
            min_workers=min_workers(self.held["wait_for_workers"], self.n_workers),
            most_workers=choice.rates.most_workers(self.held["max_hourly_cost"], works=self.works)
            if choice and self.held["max_hourly_cost"]
            else None,
            scheduler_types=choice.scheduler_types if choice else self.scheduler_types(),
            worker_types=choice.worker_types if choice else self.worker_types(),
            architecture=machines.architecture(self.worker_types()),
            scheduler_disk=self._scheduler_disk(),
            worker_disk=self._worker_disk(),
            worker_disk_throughput=self._worker_throughput(),
            spot_policy=spot_policy,
            ingress=by_one_port(rules, ports[2]),
            egress=options.egress,
            network=options.network,
            key_name=self.held["key_name"] or "",
            allow_ssh=bool(self.held["allow_ssh"]),
            use_public_ip=bool(self.held["use_scheduler_public_ip"]),
            image_ready=account.sandbox is not None and account.sandbox.image == "ready",
            container=container,
            registry=options.registry.kind,
            gpu=gpu,
            package_sync_ignore=tuple(self.held["package_sync_ignore"] or ()),
            package_sync_strict=bool(self.held["package_sync_strict"]),
            software=check_software(self.held["software"]) if self.held["software"] else "",
            tags=check_user_tags({**account.tags, **(self.held["tags"] or {})}),
            flow=readable(flow),
            creator=creator,
            created_at=now or datetime.now(timezone.utc),
            scheduler_node=NodeConfig(
                **shared,
                role="scheduler",
                secrets_parameter=f"{secrets_path}/scheduler",
                scheduler_options=dict(self.held["scheduler_options"] or {}),
                works=self.works,
                **(workers if self.works else {"workers_per_vm": workers["workers_per_vm"]}),
                **self._metered(choice),
            ),
            worker_node=NodeConfig(
                **shared,
                role="worker",
                scheduler_host="unknown-yet",
                secrets_parameter=f"{secrets_path}/worker",
                **workers,
                spot=spot_policy != "on-demand",
                gpu=gpu,
            ),
        )

    def usd_per_hour(self, account: Account, prices: Prices) -> float:
        """What the cluster costs an hour at most, at list prices: with the dearest types that it may get.

        Raises:
            OptionsError: A price is not known.
        """
        options = self.merged(account).options
        rates = self._choice(options, prices, f"the monthly budget of account {account.slug}").rates
        return rates.base + (self.n_workers - self.works) * rates.worker

    def _within_costs(self, options: BackendOptions, prices: Prices | None) -> Choice | None:
        """The types that stay below what the cluster may cost an hour; None where it may cost anything."""
        if self.held["max_hourly_cost"] is None and self.held["max_total_cost"] is None:
            return None
        if prices is None and options.region != shipped().region:
            return None  # nothing is launched by this
        limit = self.held["max_hourly_cost"]
        what = "max_total_cost" if limit is None else "max_hourly_cost"
        return self._choice(options, prices or shipped(), what)

    def _choice(self, options: BackendOptions, prices: Prices, what: str) -> Choice:
        check_region(prices, options.region, what)
        limit = self.held["max_hourly_cost"]
        own = options.network
        asked = bool(self.held["use_scheduler_public_ip"])
        public = partial(has_public_address, own=own, egress=options.egress, scheduler=asked)
        return below(
            limit,
            self.n_workers,
            self.scheduler_types(),
            self.worker_types(),
            scheduler=Sizes(self._scheduler_disk(), public("scheduler")),
            worker=Sizes(self._worker_disk(), public("worker"), self._worker_throughput()),
            nat=options.egress == "nat" and own is None,
            prices=prices,
            works=self.works,
            what=what,
        )

    def _metered(self, choice: Choice | None) -> dict[str, Any]:
        total = self.held["max_total_cost"]
        if choice is None or total is None:
            return {}
        # Of an end that comes before anybody could have connected nobody has anything.
        machines = self.n_workers - self.works
        least = (choice.rates.base + machines * choice.rates.worker) * _FIRST_MINUTES / 60
        if least > total:
            raise OptionsError(
                f"max_total_cost {usd(total)}",
                f"the first {_FIRST_MINUTES} minutes may cost {usd(least)} already, at list prices",
                "Raise it, or ask for fewer or smaller machines.",
            )
        return {"max_total_cost": total, "base_usd": choice.rates.base, "worker_usd": choice.rates.worker}

    def dask_config(self) -> tuple[dict[str, Any], dict[str, str]]:
        """What machines get of the client's Dask configuration, and what they do not, with the reason."""
        return config_to_send() if self.held["send_dask_config"] else ({}, {})


def _about(who: str, error: OptionsError) -> OptionsError:
    """The error by the keywords of `Cluster`."""
    d = error.diagnosis
    what = d.what.replace("vm_type ", "vm_types ", 1)
    if what.startswith("machine "):
        what = f"{who}_cpu, {who}_memory: {what}"
    elif not what.startswith(who):
        what = f"{who}_{what}"
    return OptionsError(what, d.why, d.next_step)
