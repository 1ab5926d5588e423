"""What a machine of the cluster is told: its configuration (public) and its secrets (fetched by name).

`NodeConfig` rides in the user data, which anyone with `ec2:DescribeInstanceAttribute` can read, so it
holds no secret. `NodeSecrets` and `ClientSecrets` are the values of SSM SecureString parameters.
This module may not import boto3, prefect or distributed.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from prefect_coiled.errors import NodeError, OptionsError
from prefect_coiled.plan.prices import GP3_MIBPS, Prices

# The topic among Dask's events under which a machine says that AWS takes it back.
SPOT_TOPIC = "prefect-coiled-spot"
# The topic under which a `Cluster` object says which workers it is about to retire.
LEAVING_TOPIC = "prefect-coiled-leaving"
# The topic under which a worker says that a task was denied access to S3, and what to do.
DENIED_TOPIC = "prefect-coiled-denied"

# The topic under which a scheduler says what it did, or could not do, to keep the wanted number of workers.
KEPT_TOPIC = "prefect-coiled-kept"
# Seconds for which a client's word counts that it launches or retires workers, and after which it says so
# again: of a client that is gone in the middle nothing is heard any more.
HOLD_S, HOLD_AGAIN_S = 90.0, 5.0
# What the retirement of a worker is called whose nanny starts it anew; the wanted size stays.
RENEWED = "prefect-coiled-stuck"

# In the environment of Dask's processes: which machine it is, and where AWS's API is, if not at AWS.
MACHINE_VARIABLE, ENDPOINT_VARIABLE = "PREFECT_COILED_MACHINE", "PREFECT_COILED_AWS_ENDPOINT"

# https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html
ADVANCED_PARAMETER_LIMIT = 8192

# What the node itself decides, for the security and the addressing of the cluster; by role.
_OWNED_BY_BOTH = frozenset({"host", "interface", "loop", "port", "protocol", "security"})
_OWNED = {
    "worker_options": _OWNED_BY_BOTH
    | {
        "config",
        "contact_address",
        "dashboard",
        "dashboard_address",
        "dashboard_prefix",
        "death_timeout",
        "http_prefix",
        "listen_address",
        "local_directory",
        "n_workers",
        "name",
        "nanny",
        "nworkers",
        "scheduler_file",
        "scheduler_ip",
        "scheduler_port",
        "service_ports",
        "services",
        "worker_class",
        "worker_port",
    },
    "scheduler_options": _OWNED_BY_BOTH
    | {"dashboard", "dashboard_address", "http_prefix", "idle_timeout", "scheduler_file", "services"},
}
_OTHER_PARAMETER = {
    "config": "Set it in Dask's configuration: the cluster's machines get it (send_dask_config).",
    "idle_timeout": "Use the parameter idle_timeout instead.",
    "worker_class": "Use the parameter worker_class instead.",
    "n_workers": "Use the parameter workers_per_vm for worker processes on each machine.",
    "nworkers": "Use the parameter workers_per_vm instead.",
    "name": "A worker's name is the id of its instance.",
}


def machine_of(worker: str) -> str:
    """The machine of a worker, by its name: the machine's id, with a number where it has several."""
    return "-".join(worker.split("-")[:2]) if worker.startswith("i-") else worker


def check_dask_options(
    worker_options: Mapping[str, Any] | None = None, scheduler_options: Mapping[str, Any] | None = None
) -> None:
    """Check the keyword arguments meant for Dask's scheduler and worker classes, before anything is spent.

    Args:
        worker_options: Keyword arguments of `distributed.Nanny` and `distributed.Worker`.

    Raises:
        OptionsError: An option belongs to this library (TLS, addresses, names), or cannot go through JSON.
    """
    for what, options in (("worker_options", worker_options), ("scheduler_options", scheduler_options)):
        for name, value in (options or {}).items():
            if not isinstance(name, str) or not name.isidentifier():
                raise OptionsError(f"{what}: {name!r} is not the name of a keyword argument")
            if name in _OWNED[what] or name.startswith("tls_"):
                raise OptionsError(
                    f"{what}: {name!r} cannot be set, the cluster sets it itself",
                    next_step=_OTHER_PARAMETER.get(name, ""),
                )
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise OptionsError(
                    f"{what}: the value of {name!r} must be plain JSON (text, numbers, lists, mappings)",
                    str(error),
                ) from error


class Keep(BaseModel):
    """What a scheduler is told of the workers that it keeps up.

    Attributes:
        uid: The cluster's uid, by which AWS's list tells its machines.
        n_workers: Machines with workers that are wanted, until a client says otherwise.
        templates: Names of the launch templates by which it may launch, in the order in which it tries them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: str
    n_workers: int = Field(ge=0)
    templates: tuple[str, ...]


class Billed(BaseModel):
    """What a scheduler is told so that it can write down what its cluster costs.

    Attributes:
        uid: The cluster's uid, by which AWS's list tells its machines.
        flow: The flow that launched it; empty where none did.
        scheduler_disk: GiB of its disk; `worker_disk` of each worker's.
        worker_throughput: MiB a second of each worker's disk.
        nat: Whether the cluster keeps a NAT gateway.
        prices: What its machines cost; by default what comes with the library.
        prices_of: The region that those prices are of, where it is another one than the cluster's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: str
    flow: str = ""
    creator: str = ""
    scheduler_disk: int = 30
    worker_disk: int = 30
    worker_throughput: int = GP3_MIBPS
    nat: bool = False
    prices: Prices | None = None
    prices_of: str = ""


class NodeConfig(BaseModel):
    """What one kind of machine (scheduler, or all workers) of a cluster is told in its user data.

    Attributes:
        cluster: The cluster's id, which is its name.
        scheduler_host: The scheduler's private address; workers only.
        scheduler_port: Port of the scheduler's TLS listener.
        dashboard_port: Port of the dashboard's HTTPS listener, on the scheduler.
        one_port: A port for both, by which clients and browsers come; None where each comes by its own.
        secrets_parameter: Name of the SSM SecureString that holds this role's `NodeSecrets`.
        log_group: The CloudWatch log group; the stream is the instance's id.
        nthreads: Threads of one worker; None means as many as the machine has, shared by its workers.
        memory_limit: Memory of one worker in Dask's words ("auto", "4 GiB", "0" for none).
        workers_per_vm: Worker processes on one machine, each with a nanny.
        lends: Whether tasks work with the client's AWS credentials.
        works: Whether a scheduler's machine has workers too.
        worker_class: Dotted path of the worker class; None means `distributed.Worker`.
        worker_options: Keyword arguments of the nanny and the worker.
        scheduler_options: Keyword arguments of the scheduler.
        idle_timeout: Seconds without any task until the scheduler closes; None means never.
        no_client_timeout: Seconds without any client until the scheduler closes; None means never.
        cluster_timeout: Seconds from its start until the cluster ends in any case; None means never.
        max_total_cost: US dollars that the cluster may cost; None for any amount. Of the scheduler alone.
        base_usd: US dollars an hour of all but the workers, to count by.
        worker_usd: US dollars an hour of one worker's machine, likewise.
        scheduler_lost_timeout: Seconds that a machine keeps trying a scheduler that it cannot reach
            any more, before it powers off.
        boot_timeout: Seconds that a machine may take from power-on to a Dask process that works.
        spot: Whether the machine is a spot instance and watches for its interruption notice.
        keep: The workers that a scheduler keeps up; None where it keeps none.
        billed: What a scheduler writes down of costs; None where it writes nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: str
    region: str
    cluster: str
    role: Literal["scheduler", "worker"]
    scheduler_host: str | None = None
    scheduler_port: int = Field(default=8786, ge=1, le=65535)
    dashboard_port: int = Field(default=8787, ge=1, le=65535)
    one_port: int | None = Field(default=None, ge=1, le=65535)
    secrets_parameter: str
    log_group: str
    nthreads: int | None = Field(default=None, ge=1)
    memory_limit: str | None = "auto"
    workers_per_vm: int = Field(default=1, ge=1)
    works: bool = False
    lends: bool = False
    worker_class: str | None = None
    worker_options: dict[str, Any] = Field(default_factory=dict)
    scheduler_options: dict[str, Any] = Field(default_factory=dict)
    idle_timeout: float | None = Field(default=1200, gt=0)
    no_client_timeout: float | None = Field(default=120, gt=0)
    cluster_timeout: float | None = Field(default=None, gt=0)
    max_total_cost: float | None = Field(default=None, gt=0)
    base_usd: float = Field(default=0.0, ge=0)
    worker_usd: float = Field(default=0.0, ge=0)
    scheduler_lost_timeout: float = Field(default=60, gt=0)
    boot_timeout: float = Field(default=1200, gt=0)
    spot: bool = False
    gpu: bool = False
    keep: Keep | None = None
    billed: Billed | None = None

    def to_json(self) -> str:
        """One line of JSON without what is at its default."""
        return json.dumps(self.model_dump(exclude_defaults=True), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> NodeConfig:
        """Read what `to_json` wrote.

        Raises:
            NodeError: The text is not such a configuration, or is that of a worker without a scheduler.
        """
        try:
            config = cls.model_validate_json(text)
        except ValidationError as error:
            raise NodeError("reading the node's configuration", _reasons(error)) from error
        if config.role == "worker" and not config.scheduler_host:
            raise NodeError("reading the node's configuration", "a worker needs scheduler_host")
        return config


_S = TypeVar("_S", bound="_Secrets")


class _Secrets(BaseModel):
    """Base of what is kept in a SecureString: JSON, compressed, as base64 text."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def encode(self) -> str:
        """The parameter's value, secrets in clear.

        Raises:
            OptionsError: It is larger than the largest SSM parameter (8,192 characters).
        """
        plain = {name: _reveal(value) for name, value in self}
        raw = json.dumps(plain, separators=(",", ":")).encode()
        text = base64.b64encode(zlib.compress(raw, 9)).decode()
        if len(text) > ADVANCED_PARAMETER_LIMIT:
            raise OptionsError(
                f"keys, environ, host_setup_script and Dask configuration take {len(text):,} characters, "
                f"and an SSM parameter holds {ADVANCED_PARAMETER_LIMIT:,}",
                next_step="Make one of them smaller (send_dask_config=False). A script can fetch another.",
            )
        return text

    @classmethod
    def decode(cls: type[_S], text: str) -> _S:
        """Read what `encode` wrote.

        Raises:
            NodeError: The text is something else; the error does not repeat it.
        """
        try:
            return cls.model_validate_json(zlib.decompress(base64.b64decode(text, validate=True)))
        except ValidationError as error:
            raise NodeError("reading the cluster's keys", _reasons(error)) from None
        except (binascii.Error, ValueError, zlib.error) as error:
            raise NodeError(
                "reading the cluster's keys", f"not a stored key ({type(error).__name__})"
            ) from None


class NodeSecrets(_Secrets):
    """What a machine fetches by its instance role: keys, environment, Dask configuration.

    Attributes:
        cert: This role's certificate, PEM.
        environ: Environment variables of the Dask processes.
        dask_config: Dask configuration of the Dask processes, below what the cluster itself sets.
        dashboard_token: Opens the dashboard; empty on workers.
        host_setup_script: What bash runs on the machine before Dask; empty for nothing.
    """

    ca: str
    cert: str
    key: SecretStr
    environ: dict[str, SecretStr] = Field(default_factory=dict)
    dask_config: dict[str, Any] = Field(default_factory=dict, repr=False)
    dashboard_token: SecretStr = SecretStr("")
    host_setup_script: SecretStr = SecretStr("")


class ClientSecrets(_Secrets):
    """What a client fetches to reach the cluster."""

    ca: str
    cert: str
    key: SecretStr
    dashboard_token: SecretStr = SecretStr("")


def _reveal(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return {key: _reveal(item) for key, item in value.items()}
    return value


def _reasons(error: ValidationError) -> str:
    """The faults of a validation, by field and without the values."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'text'}: {e['msg']}" for e in error.errors())
