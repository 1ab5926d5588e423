"""Keywords of other tools' clusters that people try here, and what becomes of them.

A word that is a keyword of `Cluster` too stands in no table: `SAME` lists those that mean the same, `OTHER`
says what the rest mean here. For all others the error says what to write instead. Knows nothing of this
library's own keywords but their names.
"""

from __future__ import annotations

from collections.abc import Mapping

_TLS = "Nothing to give: the cluster always has TLS with certificates of its own."
_PORTS = "Clients come to 8786 and the dashboard is at 8787; `scheduler_port=443` puts both on one port."
_NETWORK = "Use `backend_options={'network': {...}}`."
_OPTIONS = "Use `worker_options={...}`, whose values go to Dask's nanny and worker."
_CLIENT = "Give it to `distributed.Client`."

# Keywords of Dask's `LocalCluster` and `SpecCluster`.
_DASK: Mapping[str, str] = {
    "threads_per_worker": "Use `nthreads`.",
    "processes": "Each worker is a process of its own, on a machine of its own.",
    "start": "A cluster starts when it is made; `asynchronous=True` starts it when it is awaited.",
    "host": "Workers use the account's network; `allow_ingress_from` says who may reach the scheduler.",
    "ip": "Workers use the account's network; `allow_ingress_from` says who may reach the scheduler.",
    "silence_logs": "Machines log to CloudWatch; use `quiet=True` for silence here.",
    "dashboard_address": _PORTS,
    "worker_dashboard_address": "A worker serves no pages; the scheduler's dashboard shows them all.",
    "diagnostics_port": _PORTS,
    "services": "Use `scheduler_options={...}`.",
    "worker_services": _OPTIONS,
    "service_kwargs": "Use `scheduler_options={...}`.",
    "security": _TLS,
    "protocol": _TLS,
    "blocked_handlers": "Use `scheduler_options={'blocked_handlers': [...]}`.",
    "interface": "Machines have one network interface.",
    "scheduler_kwargs": "Use `scheduler_options`.",
    "worker_kwargs": "Use `worker_options`.",
    "scheduler_sync_interval": "There is nothing to set here.",
    "workers": "Use `n_workers`, `worker_cpu`, `worker_memory` or `worker_vm_types`.",
    "worker": "Use `n_workers`, `worker_cpu`, `worker_memory` or `worker_vm_types`.",
    "scheduler": "Use `scheduler_cpu`, `scheduler_memory`, `scheduler_vm_types` or `scheduler_options`.",
    "shutdown_scheduler": "Use `shutdown_on_close`.",
    "resources": "Use `worker_options={'resources': {...}}`.",
    "preload": "Use `worker_options={'preload': [...]}`.",
    "preload_nanny": "Use `worker_options={'preload_nanny': [...]}`.",
    "plugins": "Register them with the client: `client.register_plugin(...)`.",
    "local_directory": "Use `worker_options={'local_directory': ...}`.",
    "death_timeout": "Use `worker_options={'death_timeout': ...}`.",
    "lifetime": "Use `worker_options={'lifetime': ...}`.",
    "env": "Use `environ`.",
    "gpus": "Use `worker_gpu=1`.",
    "ngpus": "Use `worker_gpu=1`.",
}

_WORKER = "Use `worker_options={{{0!r}: ...}}`."
_CLASS = "Use `worker_class`, the dotted path of a class of your own that sets it."
_ADDRESS = "Each machine has its own address, and a worker the ports that Dask gives it."
_FINDS = "Nothing to give: workers are told where their scheduler is."

# Keywords of Dask's `Nanny` and `Worker`, which a LocalCluster hands on.
_DASK_WORKERS: Mapping[str, str] = {
    **{
        name: _WORKER.format(name)
        for name in (
            *("lifetime_stagger", "lifetime_restart", "preload_argv", "preload_nanny_argv", "validate"),
            *("transition_counter_max", "low_level_profiler", "profile_cycle_interval"),
        )
    },
    **dict.fromkeys(
        ("data", "executor", "metrics", "startup_information", "WorkerStateClass"),
        _CLASS,
    ),
    **dict.fromkeys(
        ("port", "worker_port", "listen_address", "contact_address", "dashboard", "http_prefix"), _ADDRESS
    ),
    **dict.fromkeys(("scheduler_ip", "scheduler_sni"), _FINDS),
    "config": "Dask's configuration goes there by itself; `send_dask_config=False` keeps it here.",
    "nanny": "Each worker has a nanny.",
    # Of an older Dask, where they were deprecated in favour of its configuration.
    **{
        f"memory_{of}_fraction": f"Use Dask's configuration, distributed.worker.memory.{of}: it goes along."
        for of in ("target", "spill", "pause")
    },
    "reconnect": "Dask does not know it any more.",
}

# Keywords of Dask's `Client`, which takes them with a cluster of this library as with any other.
_DASK_CLIENT: Mapping[str, str] = {
    "address": "Attach to a running cluster by its name: `Cluster(name=...)`.",
    "set_as_default": _CLIENT,
    "scheduler_file": "Attach to a running cluster by its name: `Cluster(name=...)`.",
    "heartbeat_interval": _CLIENT,
    "serializers": _CLIENT,
    "deserializers": _CLIENT,
    "extensions": _CLIENT,
    "direct_to_workers": _CLIENT,
    "connection_limit": _CLIENT,
    "security": _TLS,
}

# Keywords of dask-cloudprovider's `EC2Cluster`.
_EC2_CLUSTER: Mapping[str, str] = {
    "availability_zone": "Use `zone`.",
    "bootstrap": "Machines bring nothing that has to be installed first; see the page of environments.",
    "extra_bootstrap": "Use a container, or an image that `prefect-coiled environment bake` makes.",
    "auto_shutdown": "Use `no_client_timeout`, `idle_timeout` and `cluster_timeout`.",
    "ami": "Use an image that `prefect-coiled environment bake` makes, or `container`.",
    "instance_type": "Use `worker_vm_types` and `scheduler_vm_types`.",
    "worker_instance_type": "Use `worker_vm_types`.",
    "scheduler_instance_type": "Use `scheduler_vm_types`.",
    "vpc": _NETWORK,
    "subnet_id": _NETWORK,
    "security_groups": _NETWORK,
    "filesystem_size": "Use `worker_disk_size` and `scheduler_disk_size`.",
    "iam_instance_profile": "The account has a role; `prefect-coiled role attach-policy` adds to it.",
    "docker_image": "Use `container`.",
    "docker_args": "Use `environ`, `worker_options` or `scheduler_options`.",
    "env_vars": "Use `environ`.",
    "debug": "See the machines' logs: `cluster.get_logs()`, `prefect-coiled logs`.",
    "instance_tags": "Use `tags`.",
    "volume_tags": "Use `tags`.",
    "use_private_ip": "Use `use_scheduler_public_ip=False`.",
    "enable_detailed_monitoring": "There is none; the dashboard and the logs tell how machines are.",
    "worker_module": "Use `worker_class`.",
    "worker_command": "Use `worker_class` or `worker_options`.",
    "security": _TLS,
    "protocol": _TLS,
}

# Keywords of the hosted service's `Cluster`.
_HOSTED: Mapping[str, str] = {
    "cloud": "It is AWS.",
    "workspace": "Use `account`.",
    "worker_disk_throughput": "Disks are gp3 with 125 MiB/s.",
    "scheduler_class": "Use `scheduler_options`.",
    "use_dashboard_https": "The dashboard always has HTTPS.",
    "dashboard_custom_subdomain": "The dashboard is at the scheduler's own address.",
    "credentials": "Machines have the account's role; `prefect-coiled role attach-policy` adds to it.",
    "credentials_duration_seconds": "Machines have the account's role; no credentials go there.",
    "unset_single_threading_variables": "Use `environ`.",
    "custom_widget": "Use `report`, which is called with each step.",
    "configure_logging": "Use `quiet=True` for silence.",
    "package_sync": "It is always so, unless `software` or `container` is given.",
    "package_sync_only": "Use `package_sync_ignore`, or `software`.",
    "package_sync_fail_on": "Use `package_sync_strict=True`.",
    "package_sync_conda_extras": "Use `container`.",
    "package_sync_use_uv_installer": "It is always uv.",
    "private_to_creator": "Whoever has the account's credentials can use its clusters.",
    "use_best_zone": "Leave `zone` out: another one is taken where there are no machines.",
    "allow_cross_zone": "All machines of a cluster are in one zone.",
    "compute_purchase_option": "Use `spot_policy`.",
    "extra_worker_on_scheduler": "The scheduler has a machine of its own.",
    "allow_ssh_from": "Use `key_name` and `backend_options={'ingress': [...]}`.",
    "allow_spark": "There is no Spark.",
    "open_extra_ports": "Use `backend_options={'ingress': [...]}`.",
    "jupyter": "There is no Jupyter on the machines.",
    "mount_bucket": "Read and write buckets by their `s3://` addresses.",
    "arm": "Use `worker_vm_types` and `scheduler_vm_types` of Graviton, such as `m7g.xlarge`.",
    "host_setup_script": "Use `container`, or an image that `prefect-coiled environment bake` makes.",
    "host_setup_script_content": "Use `container`, or an image that `prefect-coiled environment bake` makes.",
    "pause_on_exit": "Use `shutdown_on_close=False`.",
    "filestores_to_attach": "There are none.",
    "ignore_container_entrypoint": "An image's entry point is never run.",
    "worker_disk_config": "Use `worker_disk_size`.",
    "scheduler_disk_config": "Use `scheduler_disk_size`.",
    "skip_ssd_mount": "There is nothing to set here.",
    "scheduler_gpu": "Use `scheduler_vm_types`.",
    "capacity_retry_timeout": "Use `timeout`; what has no machines is tried in other types and zones.",
    "batch_job_ids": "There are no batch jobs.",
    "batch_job_container": "There are no batch jobs.",
    "scheduler_sidecars": "There are none.",
    "worker_sidecars": "There are none.",
}

TABLES: Mapping[str, Mapping[str, str]] = {
    "Dask's LocalCluster or SpecCluster": _DASK,
    "Dask's Nanny or Worker": _DASK_WORKERS,
    "Dask's Client": _DASK_CLIENT,
    "dask-cloudprovider's EC2Cluster": _EC2_CLUSTER,
    "the hosted service's Cluster": _HOSTED,
}
"""By tool: the keyword, and what to write here."""

SAME: Mapping[str, tuple[str, ...]] = {
    "Dask's LocalCluster or SpecCluster": (
        *("n_workers", "name", "asynchronous", "loop", "nthreads", "quiet", "shutdown_on_close"),
    ),
    "Dask's Nanny or Worker": ("nthreads", "worker_class", "loop"),
    "Dask's Client": ("asynchronous", "loop"),
    "dask-cloudprovider's EC2Cluster": (
        *("n_workers", "region", "key_name", "spot", "worker_class", "worker_options", "scheduler_options"),
        "asynchronous",
    ),
    "the hosted service's Cluster": (
        *("n_workers", "name", "account", "region", "tags", "environ", "container", "timeout"),
        *("worker_vm_types", "worker_cpu", "worker_memory", "worker_disk_size", "worker_gpu"),
        *("worker_gpu_type", "worker_class", "worker_options", "scheduler_options", "scheduler_vm_types"),
        *("scheduler_cpu", "scheduler_memory", "scheduler_disk_size", "scheduler_port", "asynchronous"),
        *("use_scheduler_public_ip", "shutdown_on_close", "idle_timeout", "no_client_timeout"),
        *("cluster_timeout", "wait_for_workers", "send_dask_config", "backend_options", "spot_policy"),
        *("allow_ingress_from", "allow_ssh", "package_sync_strict", "package_sync_ignore", "show_widget"),
    ),
}
"""By tool: the keywords that `Cluster` has too, and that mean the same."""

_LIMIT = 'A number, a size, "auto" as there; no limit is 0, and `None` says nothing.'

OTHER: Mapping[str, Mapping[str, str]] = {
    "Dask's LocalCluster or SpecCluster": {
        "memory_limit": _LIMIT,
        "scheduler_port": "One port for clients and the dashboard; by itself clients come to 8786.",
        "worker_class": "The dotted path of a class, as text.",
    },
    "Dask's Nanny or Worker": {
        "environ": "Variables of all machines, before a worker's process starts.",
        "memory_limit": _LIMIT,
        "name": "The cluster's; a worker is named as its machine.",
        "quiet": "No progress is printed here.",
        "scheduler_port": "One port for clients and the dashboard; workers know it by themselves.",
    },
    "Dask's Client": {
        "name": "The cluster's; the client's own goes to `distributed.Client`.",
        "timeout": "How long a start may take; the connection's goes to `distributed.Client`.",
    },
    "dask-cloudprovider's EC2Cluster": {},
    "the hosted service's Cluster": {
        "software": "The path of a requirements file or a pylock.toml.",
    },
}
"""By tool: the keywords that `Cluster` has too, and what they mean here."""


def instead(name: str) -> str:
    """What to write instead of another tool's keyword; empty for a word that none of them has."""
    for tool, table in TABLES.items():
        if name in table:
            return f"It is a keyword of {tool}. {table[name].replace('`', '')}"
    return ""
