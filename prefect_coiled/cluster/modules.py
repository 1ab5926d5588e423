"""The modules beside the flow, sent to a running cluster by Dask's own means: a plugin of its workers.

Workers that join later get the plugin from the scheduler. A machine that installed its own environment has
had the modules as a wheel from its boot; what is sent goes before them.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from distributed.protocol.pickle import dumps

from prefect_coiled.environment.capture import check_ignored
from prefect_coiled.environment.modules import NAME, fingerprint, folders, pack
from prefect_coiled.node.modules import SchedulerModules, WorkerModules

__all__ = ["modules_beside", "names_of", "send_modules"]


def modules_beside(ignore: Sequence[str] = ()) -> dict[str, bytes]:
    """The modules beside the main script and beside the running flow, by path.

    Args:
        ignore: Names of packages that the machines shall not get; the modules have one too.

    Raises:
        OptionsError: There are too many.
    """
    if any(fnmatchcase(NAME, pattern) for pattern in check_ignored(ignore)):
        return {}
    return pack(folders(_flow_file()))


def names_of(modules: dict[str, bytes]) -> list[str]:
    """The names under which they are imported."""
    return sorted({path.partition("/")[0].removesuffix(".py") for path in modules})


async def send_modules(scheduler: Any, modules: dict[str, bytes]) -> None:
    """Give the modules to the scheduler and to every worker, also to those that come later.

    Args:
        scheduler: The connection to it.
        modules: Their content by path.
    """
    if not modules:
        return
    told = (modules, fingerprint(modules))
    worker = dumps(WorkerModules(*told))
    # The scheduler too reads what users submit, such as the graph of a collection.
    await scheduler.register_scheduler_plugin(
        plugin=dumps(SchedulerModules(*told)), name=SchedulerModules.name, idempotent=False
    )
    await scheduler.register_worker_plugin(plugin=worker, name=WorkerModules.name, idempotent=False)


def _flow_file() -> str | None:
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    flow = context.flow if context else None
    try:
        return inspect.getsourcefile(inspect.unwrap(flow.fn)) if flow is not None else None
    except TypeError:
        return None
