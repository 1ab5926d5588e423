"""The keywords of `Cluster`, told once.

`ClusterOptions` is the table: what each keyword is called, takes, hides, stands for, and where `coiled.yaml`
and the account block have it. `Cluster`, `CoiledTaskRunner`, `ClusterSettings`, variables, files, docstrings
and the page of keywords all follow from it. May not know what a value leads to: whether values go together is
for whoever plans.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_type_hints

from typing_extensions import TypedDict

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import kinds
from prefect_coiled.options.base import near, unset
from prefect_coiled.options.elsewhere import instead
from prefect_coiled.options.kinds import FLAG, NAMES, SECONDS_OR_NEVER, SIZES, TEXT, WHOLE_RANGE, Kind, whole
from prefect_coiled.options.models import OPTIONS, REGIONS, SPOT_POLICIES, BackendOptions

PREFIX = "PREFECT_COILED_CLUSTER__"
# More is a slip of the pen: each worker is a connection of one scheduler.
# https://distributed.dask.org/en/stable/limitations.html
MOST_WORKERS = 10_000


@dataclass(frozen=True)
class Keyword:
    """One keyword of `Cluster`.

    Attributes:
        kind: What it takes.
        default: What holds where nobody says it.
        otherwise: The default in words, where it depends on something.
        yaml: Its place below `coiled` in `coiled.yaml`; by default its name, and none for an object.
        block: The field of the account block that says the same.
        secret: Whether its value may hold a secret: no error shows it.
        option: Whether it stands for the backend option of its name.
        hides: Keywords of a lower place that fall away where this one is said.
    """

    kind: Kind
    about: str
    default: Any = None
    otherwise: str = ""
    yaml: tuple[str, ...] | None = None
    block: str = ""
    secret: bool = False
    option: bool = False
    hides: tuple[str, ...] = ()
    name: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that gives it."""
        return PREFIX + self.name.upper()

    @property
    def place(self) -> tuple[str, ...]:
        """Where `coiled.yaml` has it, below `coiled`; empty where it cannot."""
        if self.name in _OBJECTS:
            return ()
        if self.option:
            return ("backend_options", self.name)
        return (self.name,) if self.yaml is None else self.yaml

    def take(self, value: Any, where: str = "") -> Any:
        """The value as it is meant.

        Args:
            value: Whatever was given; None is what was not said, unless it is a value of this keyword.
            where: Where it was given, if not in Python.

        Raises:
            OptionsError: It is no such value. A secret is not shown.
        """
        try:
            return self.kind.take(kinds.plain(value))
        except OptionsError:
            raise
        except Exception as error:  # whatever an object of the user's does when it is looked at
            shown = f"({type(value).__name__}, not shown)" if self.secret else kinds.shown(value)
            what = f"{where} ({self.name}) {shown}" if where else f"{self.name} {shown}"
            if isinstance(error, kinds.RefusedError):
                raise OptionsError(what, str(error)) from None
            if isinstance(value, str) and not value.strip():
                raise OptionsError(what, "is blank.", f"Leave it out, or give {self.kind.words}.") from None
            hint = near(value, self.kind.allowed) if isinstance(value, str) else ""
            raise OptionsError(what, f"it has to be {self.kind.words}.", hint) from None

    def shown(self, value: Any) -> str:
        """A value as it may be shown: of what may hold a secret the names alone, or nothing."""
        if not self.secret or not value:
            return str(value)
        return f"{{{', '.join(map(str, value))}}}" if isinstance(value, Mapping) else "(not shown)"

    def said(self, value: Any) -> bool:
        """Whether a value says something: None and, of a backend option, a blank text do not."""
        if value is None:
            return self.kind is SECONDS_OR_NEVER
        return not (unset(value) and self.option)


# What is meant for this process, and can be said in Python alone.
_OBJECTS = ("asynchronous", "loop", "report", "stop")
_WORKER_SIZES = ("worker_cpu", "worker_memory", "worker_gpu", "worker_gpu_type")
_SCHEDULER_SIZES = ("scheduler_cpu", "scheduler_memory")
_BY_NAME, _SCHEDULER_BY_NAME = ("worker_vm_types",), ("scheduler_vm_types",)
_DISK = whole(8, 16384, unit="GiB")


# fmt: off
class ClusterOptions(TypedDict, total=False):
    """The keywords that `CoiledTaskRunner` hands on to `Cluster`, too."""

    n_workers: Annotated[int | None, Keyword(whole(0, MOST_WORKERS), "Workers to launch.", 4)]
    name: Annotated[str | None, Keyword(
        TEXT, "Name of the cluster. If a cluster of that name lives in the account and region, this attaches "
        "to it instead.", otherwise="made up")]
    account: Annotated[str | None, Keyword(
        TEXT, "Slug of the account.", otherwise="`default`; the sandbox where no block has that name")]
    tags: Annotated[Mapping[str, str] | None, Keyword(
        kinds.TEXTS_BY_NAME, "Tags for everything that is made.", block="tags")]
    wait_for_workers: Annotated[bool | int | float | None, Keyword(
        kinds.HOW_MANY, "How many workers must have joined: True for all, False for none, a number or a "
        "fraction of `n_workers`.", 0.3)]
    timeout: Annotated[float | str | None, Keyword(
        kinds.SECONDS, "From the launch of the machines until the scheduler and the waited-for workers must "
        "be there. What comes before (locking and uploading packages, set-up) does not count.", "20 minutes")]
    worker_vm_types: Annotated[str | Sequence[str] | None, Keyword(
        NAMES, "Instance types for workers, in order of preference.", otherwise="`m6i.xlarge` and its like",
        yaml=("worker", "vm_types"), hides=_WORKER_SIZES)]
    scheduler_vm_types: Annotated[str | Sequence[str] | None, Keyword(
        NAMES, "Instance types for the scheduler.", otherwise="`m6i.xlarge` and its like",
        yaml=("scheduler", "vm_types"), hides=_SCHEDULER_SIZES)]
    worker_cpu: Annotated[int | Sequence[int] | None, Keyword(
        WHOLE_RANGE, "vCPUs of a worker, or a range [low, high].", yaml=("worker", "cpu"), hides=_BY_NAME)]
    worker_memory: Annotated[str | Sequence[str] | None, Keyword(
        SIZES, 'Memory of a worker such as "16 GiB" (plus or minus 10 %), or a range.',
        yaml=("worker", "memory"), hides=_BY_NAME)]
    worker_gpu: Annotated[int | bool | None, Keyword(
        kinds.GPUS, "1 for workers with a GPU.", yaml=("worker", "gpu"), hides=_BY_NAME)]
    worker_gpu_type: Annotated[str | None, Keyword(
        TEXT, 'Name of the GPU, such as "T4".', yaml=("worker", "gpu_types"), hides=_BY_NAME)]
    scheduler_cpu: Annotated[int | Sequence[int] | None, Keyword(
        WHOLE_RANGE, "vCPUs of the scheduler, or a range.", yaml=("scheduler", "cpu"),
        hides=_SCHEDULER_BY_NAME)]
    scheduler_memory: Annotated[str | Sequence[str] | None, Keyword(
        SIZES, "Memory of the scheduler, or a range.", yaml=("scheduler", "memory"),
        hides=_SCHEDULER_BY_NAME)]
    worker_disk_size: Annotated[int | None, Keyword(
        _DISK, "GiB of a worker's disk. The image of machines with a GPU takes 75.",
        otherwise="`30`; `100` with a GPU", yaml=("worker", "disk_size"))]
    scheduler_disk_size: Annotated[int | None, Keyword(
        _DISK, "GiB of the scheduler's disk.", 30, yaml=("scheduler", "disk_size"))]
    worker_disk_throughput: Annotated[int | None, Keyword(
        whole(125, 2000, unit="MiB a second"), "MiB a second that a worker's disk reads and writes.", 125,
        yaml=("worker", "disk_throughput"))]
    arm: Annotated[bool | None, Keyword(
        FLAG, "Whether machines have AWS's own processors (Graviton, arm64), where no type is named.", False)]
    host_setup_script: Annotated[str | None, Keyword(
        kinds.PATH, "File with a script that bash runs on each machine, as root, before Dask does; kept as a "
        "secret.")]
    host_setup_script_content: Annotated[str | None, Keyword(
        kinds.SCRIPT, "The same as text.", secret=True)]
    container: Annotated[str | None, Keyword(
        TEXT, "Image that the nodes run in, which must hold this library: a tag of the account's repository "
        'in ECR, "user/image:tag" of Docker Hub, or a full reference.')]
    worker_class: Annotated[str | None, Keyword(
        TEXT, "Dotted path of the worker class.", otherwise="Dask's own; with a GPU that of `dask_cuda`, "
        "where it is installed", yaml=("worker", "class"))]
    worker_options: Annotated[Mapping[str, Any] | None, Keyword(
        kinds.MAPPING, "Keyword arguments of Dask's nanny and worker.", secret=True)]
    scheduler_options: Annotated[Mapping[str, Any] | None, Keyword(
        kinds.MAPPING, "Keyword arguments of Dask's scheduler.", secret=True)]
    environ: Annotated[Mapping[str, str] | None, Keyword(
        kinds.TEXTS_BY_NAME, "Environment variables for the machines; kept as a secret.", secret=True)]
    nthreads: Annotated[int | None, Keyword(whole(1), "Threads of a worker.", otherwise="one for each vCPU")]
    workers_per_vm: Annotated[int | None, Keyword(
        whole(1, 256), "Worker processes on each machine, which share its vCPUs and its memory. `n_workers` "
        "and `scale` count machines.", 1)]
    memory_limit: Annotated[str | float | None, Keyword(
        kinds.MEMORY_LIMIT, "Memory of a worker process, in Dask's words.", "auto")]
    worker_on_scheduler: Annotated[bool | None, Keyword(
        FLAG, "Whether one of the workers is on the scheduler's machine: a cluster of `n_workers=1` is one "
        "machine.", False)]
    credentials: Annotated[str | None, Keyword(
        kinds.one_of("role", "local"), 'Whose AWS credentials tasks have: the role of the machines, or with '
        '"local", for as long as this program is connected, those that AWS tools find on this machine, made '
        'short-lived.', "role")]
    send_dask_config: Annotated[bool | None, Keyword(
        FLAG, "Whether the machines get the client's Dask configuration.", True)]
    scheduler_port: Annotated[int | None, Keyword(
        whole(1, 65535), "One port for clients and the dashboard, such as 443, where a network lets nothing "
        "else out.", otherwise="8786 for clients and 8787 for the dashboard")]
    use_scheduler_public_ip: Annotated[bool | None, Keyword(
        FLAG, "Whether clients come by the scheduler's public address.", True)]
    backend_options: Annotated[Mapping[str, Any] | BackendOptions | None, Keyword(
        kinds.OPTIONS, "Region, zone, spot, ingress and so on; see `BackendOptions`.", secret=True)]
    region: Annotated[str | None, Keyword(
        kinds.one_of(*REGIONS), 'Short for `backend_options={"region": ...}`.', otherwise="`us-east-1`",
        block="region", option=True)]
    zone: Annotated[str | None, Keyword(
        TEXT, "Likewise: a zone of the region.", otherwise="zone `a` of the region; another one where it has "
        "no machines", block="zone", option=True)]
    spot: Annotated[bool | None, Keyword(
        FLAG, "Likewise: whether workers are spot machines.", otherwise="`False`", block="spot", option=True)]
    spot_policy: Annotated[str | None, Keyword(
        kinds.one_of(*SPOT_POLICIES), "Likewise: how workers are bought.", otherwise='`"on-demand"`',
        block="spot_policy", option=True)]
    key_name: Annotated[str | None, Keyword(TEXT, "An EC2 key pair; without one, port 22 stays closed.")]
    allow_ingress_from: Annotated[str | None, Keyword(
        TEXT, 'Who may reach the scheduler: a CIDR, or "me" for this machine\'s address.',
        otherwise="`0.0.0.0/0`", yaml=(), block="ingress_cidr")]
    allow_ssh: Annotated[bool | None, Keyword(
        FLAG, "Whether port 22 may be open without a key pair.", False)]
    api_relay: Annotated[str | None, Keyword(
        kinds.one_of("auto", "always", "never"), "Whether tasks ask the Prefect API through the flow's own "
        'process, which keeps the key: "auto" where machines may not reach the API. Of a task runner.',
        "auto")]
    results: Annotated[str | None, Keyword(
        kinds.one_of("prefect", "bucket"), "Where results of tasks are kept: where Prefect's own options "
        'say, or with "bucket" each of them in the account\'s bucket, which machines reach by their role. '
        "Of a task runner.", "prefect")]
    package_sync_ignore: Annotated[str | Sequence[str] | None, Keyword(
        NAMES, "Packages of this environment, or globs over them, that machines do not get.")]
    package_sync_strict: Annotated[bool | None, Keyword(
        FLAG, "Whether a package that the machines cannot have exactly is an error, rather than left out "
        "(made for another system) or replaced (a local build by the released version).", False)]
    software: Annotated[str | None, Keyword(
        kinds.PATH, "Path of a requirements file or a pylock.toml, to install instead of this environment.")]
    shutdown_on_close: Annotated[bool | None, Keyword(
        FLAG, "Whether `close` removes the cluster.",
        otherwise="`True` for a new one, `False` for one attached to")]
    idle_timeout: Annotated[str | float | None, Keyword(
        SECONDS_OR_NEVER, "The cluster ends after so long without tasks.", "20 minutes")]
    no_client_timeout: Annotated[str | float | None, Keyword(
        SECONDS_OR_NEVER, "The cluster ends after so long without any client; only with shutdown_on_close.",
        "2 minutes")]
    cluster_timeout: Annotated[str | float | None, Keyword(
        SECONDS_OR_NEVER, "The cluster ends after so long in any case.")]
    max_hourly_cost: Annotated[float | None, Keyword(
        kinds.USD, "US dollars an hour that the cluster may cost at list prices: dearer types are not used, "
        "and what would cost more is refused.")]
    max_total_cost: Annotated[float | None, Keyword(
        kinds.USD, "US dollars that the cluster may cost at list prices: it ends before it costs more.")]
    quiet: Annotated[bool | None, Keyword(FLAG, "Do not print progress.", False)]
    show_widget: Annotated[bool | None, Keyword(
        FLAG, "In a notebook, show progress in the cell instead of printing it.", True)]


class ClusterKeywords(ClusterOptions, total=False):
    """All keywords of `Cluster`."""

    asynchronous: Annotated[bool, Keyword(
        FLAG, "For use inside an event loop: `async with Cluster(asynchronous=True)`.", False)]
    loop: Annotated[Any, Keyword(kinds.ANYTHING, "Tornado loop, as in Dask's own clusters.")]
    report: Annotated[Callable[[str, str], None] | None, Keyword(
        kinds.CALLABLE, "Called with (step, state) as the cluster comes up, instead of printing.")]
    stop: Annotated[threading.Event | None, Keyword(
        kinds.EVENT, "When set, the launch ends as soon as it can and cleans up.")]
# fmt: on


def _read(table: Any) -> dict[str, Keyword]:
    hints = get_type_hints(table, include_extras=True)
    return {name: replace(hint.__metadata__[0], name=name) for name, hint in hints.items()}


KEYWORDS: Mapping[str, Keyword] = _read(ClusterKeywords)
"""All keywords by name, in the order of the table."""


def keyword(name: str, where: str = "Cluster", *, runner: bool = False) -> Keyword:
    """The keyword of that name.

    Args:
        runner: Whether it must be one that a task runner takes.

    Raises:
        OptionsError: There is none; the message names the nearest.
    """
    found = KEYWORDS.get(name)
    if found is not None and not (runner and name in _OBJECTS):
        return found
    if found is not None:
        raise OptionsError(where, f"{name!r} cannot be set: the task runner sets it itself.")
    raise OptionsError(where, f"unexpected keyword {name!r}.", _hint(name))


def _hint(name: str) -> str:
    if name in OPTIONS:
        return f"Put it into backend_options: {{{name!r}: ...}}."
    return instead(name) or near(name, list(KEYWORDS)) or "See prefect_coiled.Cluster."


def taken(
    given: Mapping[str, Any], where: str = "Cluster", *, place: str = "", runner: bool = False
) -> dict[str, Any]:
    """What one place says: each value as it is meant, without what says nothing.

    Raises:
        OptionsError: There is no such keyword, or a value is none of it.
    """
    found = ((keyword(name, where, runner=runner), value) for name, value in given.items())
    return {one.name: one.take(value, place) for one, value in found if one.said(value)}


def from_variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """The keywords that variables give: `PREFECT_COILED_CLUSTER__N_WORKERS=20` and so on.

    Each is read as what its keyword takes: text stays text, whatever it looks like. Blank ones say nothing.

    Raises:
        OptionsError: A variable with the prefix names no keyword, or says something that it does not take.
    """
    held: dict[str, Any] = {}
    for variable, text in _said(environ).items():
        where = f"environment variable {variable}"
        one = keyword(variable[len(PREFIX) :].lower(), where, runner=True)
        held[one.name] = one.take(one.kind.read(text.strip()), where)
    return held


def refuse_variables(what: str, environ: Mapping[str, str]) -> None:
    """Refuse variables that would change the cluster of a program that has decided by itself where it runs.

    Raises:
        OptionsError: There are any.
    """
    if said := sorted(_said(environ)):
        without = " ".join(f"-u {variable}" for variable in said)
        raise OptionsError(
            what, f"{', '.join(said)} would change its cluster.", f"Run it without: `env {without} ...`."
        )


def _said(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that give a keyword, with what they say."""
    return {name: text for name, text in environ.items() if name.upper().startswith(PREFIX) and text.strip()}


@functools.cache
def defaults() -> Mapping[str, Any]:
    """What holds where nobody says anything."""
    return {
        one.name: one.default if one.default is None else one.take(one.default) for one in KEYWORDS.values()
    }


def arguments(indent: int = 8) -> str:
    """The keywords as the `Args` of a docstring."""
    lines = []
    for one in KEYWORDS.values():
        default = one.otherwise or (repr(one.default) if one.default is not None else "")
        text = f"{one.name}: {one.about}{f' By default {default}.' if default else ''}"
        lines.append(
            textwrap.fill(text, 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))
        )
    return "\n".join(lines)


def signature() -> inspect.Signature:
    """The keywords as the signature of a method; the first may be given by its place."""
    by_place, by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    hints = get_type_hints(ClusterKeywords)
    made = [inspect.Parameter("self", by_place)]
    for number, one in enumerate(KEYWORDS.values()):
        kind = by_name if number else by_place
        made.append(inspect.Parameter(one.name, kind, default=one.default, annotation=hints[one.name]))
    return inspect.Signature(made)
