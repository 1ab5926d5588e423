"""Prefect 3 flows on fresh Dask clusters of EC2 machines in your own AWS account.

Importing this package loads nothing else: each exported name is imported when it is first used.
The block types are registered by `prefect_coiled.blocks`, which Prefect loads by entry point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_coiled.blocks import (
        Ec2DaskAccount,
        Ec2DaskRegistry,
        Ec2DaskResults,
        aload_account,
        load_account,
    )
    from prefect_coiled.cluster import Cluster
    from prefect_coiled.notifications import cluster_logs, get_notifications
    from prefect_coiled.options import BackendOptions
    from prefect_coiled.plan.policies import iam_policies
    from prefect_coiled.saved_accounts import set_backend_options
    from prefect_coiled.task_runner import CoiledTaskRunner
    from prefect_coiled.task_runner.run_options import ClusterSettings

_EXPORTS = {
    "Cluster": "prefect_coiled.cluster",
    "ClusterSettings": "prefect_coiled.task_runner.run_options",
    "CoiledTaskRunner": "prefect_coiled.task_runner",
    "BackendOptions": "prefect_coiled.options",
    "cluster_logs": "prefect_coiled.notifications",
    "get_notifications": "prefect_coiled.notifications",
    "set_backend_options": "prefect_coiled.saved_accounts",
    "Ec2DaskAccount": "prefect_coiled.blocks",
    "Ec2DaskRegistry": "prefect_coiled.blocks",
    "Ec2DaskResults": "prefect_coiled.blocks",
    "aload_account": "prefect_coiled.blocks",
    "iam_policies": "prefect_coiled.plan.policies",
    "load_account": "prefect_coiled.blocks",
}

__all__ = [
    "BackendOptions",
    "Cluster",
    "ClusterSettings",
    "CoiledTaskRunner",
    "Ec2DaskAccount",
    "Ec2DaskRegistry",
    "Ec2DaskResults",
    "__version__",
    "aload_account",
    "cluster_logs",
    "get_notifications",
    "iam_policies",
    "load_account",
    "set_backend_options",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from prefect_coiled.install import library_version

        value: Any = library_version()
    elif name in _EXPORTS:
        from prefect_coiled.dask_files import dask_files_told

        with dask_files_told():
            value = getattr(importlib.import_module(_EXPORTS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # `prefect block register -m prefect_coiled` looks blocks up among these names. freezegun gets all names
    # of all modules when a test begins: what is loaded then would be defined with its stand-in for datetime.
    import datetime

    frozen = datetime.datetime.__module__ != "datetime"
    return sorted(globals() if frozen else {*globals(), *__all__})
