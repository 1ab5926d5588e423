"""The keywords that `CoiledTaskRunner` hands on to `Cluster`, checked without importing it.

A runner is made wherever its flow is imported, on workers too, where nothing of AWS is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from typing_extensions import TypedDict

from prefect_coiled.errors import OptionsError

__all__ = ["ClusterOptions", "check_cluster_options"]


class ClusterOptions(TypedDict, total=False):
    """Keywords of `prefect_coiled.cluster.Cluster`; what each means is said there."""

    n_workers: Any
    name: str | None
    account: str | None
    tags: Any
    wait_for_workers: Any
    timeout: Any
    worker_vm_types: Any
    scheduler_vm_types: Any
    worker_cpu: Any
    worker_memory: Any
    scheduler_cpu: Any
    scheduler_memory: Any
    worker_disk_size: Any
    scheduler_disk_size: Any
    worker_gpu: Any
    worker_gpu_type: Any
    package_sync_ignore: Any
    package_sync_strict: Any
    software: Any
    container: Any
    worker_class: Any
    worker_options: Any
    scheduler_options: Any
    environ: Any
    nthreads: Any
    memory_limit: Any
    send_dask_config: bool
    use_scheduler_public_ip: bool
    backend_options: Any
    region: Any
    zone: Any
    spot: Any
    spot_policy: Any
    key_name: Any
    allow_ingress_from: Any
    allow_ssh: Any
    shutdown_on_close: Any
    idle_timeout: Any
    no_client_timeout: Any
    cluster_timeout: Any
    show_widget: Any
    quiet: Any


def check_cluster_options(options: Mapping[str, Any]) -> None:
    """Raise when a keyword is not one that a cluster takes.

    Args:
        options: The keywords.

    Raises:
        OptionsError: A keyword is unknown; the message names the nearest known one.
    """
    known = set(ClusterOptions.__annotations__)
    for option in options:
        if option in known:
            continue
        if option == "asynchronous":
            raise OptionsError("`cluster_kwargs` cannot set `asynchronous`", "Prefect manages this option")
        near = get_close_matches(option, known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "See prefect_coiled.cluster.Cluster."
        raise OptionsError("CoiledTaskRunner", f"unexpected keyword {option!r}", hint)
