"""Asks one machine of a cluster whether it reaches the Prefect API, with the settings that tasks get.

An address that looks well may still lead nowhere from there: a private network, a firewall, a certificate
or a key that is only good here. Found out at once it is one error; found out by tasks, a flow that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import distributed
import httpx
from prefect.client.orchestration import get_client
from prefect.context import SettingsContext
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

from prefect_coiled.errors import ProvisionError
from prefect_coiled.internals.api_errors import cause_and_step, without_user
from prefect_coiled.task_runner.api_url import NEXT_STEP
from prefect_coiled.task_runner.worker_settings import settings_here

# Seconds that the machine may wait; for an API that took the request, and is slow, as long as the user says.
_REQUEST = 10.0


def check_reach(client: distributed.Client, shared: bytes) -> None:
    """Raise when the first worker of a cluster does not reach the Prefect API. Does nothing without workers.

    Args:
        shared: The context of the flow run, as `FlowRunParcel` makes it.

    Raises:
        ProvisionError: It does not; says what it met.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        return
    address, worker = next(iter(workers.items()))
    try:
        answers = client.run(_ask, shared, workers=[address], on_error="return")
    except (OSError, TimeoutError):
        return  # the worker is gone meanwhile; what comes of that is Dask's affair
    trouble = answers.get(address)
    if isinstance(trouble, tuple):
        reason, step = trouble
        url = without_user(str(get_current_settings().api.url))
        raise ProvisionError(f"reaching the Prefect API at {url} from {worker.get('name')}", reason, step)


async def _ask(shared: bytes, dask_worker: Any) -> tuple[str, str] | None:
    """On the worker: what went wrong in asking the API, in one line, and what to do; None if it answered."""
    # Not in the worker's loop, which others need meanwhile.
    return await asyncio.to_thread(_ask_here, shared, dask_worker)


def _ask_here(shared: bytes, worker: Any) -> tuple[str, str] | None:
    context: dict[str, Any] = cloudpickle.loads(shared)
    settings, run = context["settings_context"], context["flow_run_context"]
    if not settings:
        return None
    quick = {PREFECT_API_REQUEST_TIMEOUT: _REQUEST, PREFECT_CLIENT_MAX_RETRIES: 0}

    def ask(by: Mapping[Any, Any]) -> None:
        flow_run = run.get("flow_run") if run else None
        with SettingsContext(**settings), temporary_settings(by), get_client(sync_client=True) as api:
            if flow_run:
                api.read_flow_run(flow_run["id"])
            elif error := api.api_healthcheck():
                raise error

    try:
        settings = settings_here(settings, context["authority"], context["relay"], worker)
        try:
            ask(quick)
        except httpx.ReadTimeout:  # somebody took the request
            ask({PREFECT_CLIENT_MAX_RETRIES: 0})
    except Exception as error:  # whatever it is, tasks would meet it too
        reason, step = cause_and_step(error, NEXT_STEP)
        return f"{type(error).__name__}: {reason}"[:500], step
    return None
