"""What a task needs to know of the place that submitted it: settings, flow run, tags, assets.

Most of that is the same for every task of a flow run: it is serialised once, and a worker reads it once. The
rest is empty for most tasks, and is sent where it is not.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from opentelemetry import propagate
from prefect.client.schemas.objects import RunInput
from prefect.context import (
    AssetContext,
    FlowRunContext,
    SettingsContext,
    TagsContext,
    TaskRunContext,
    _deployment_id,
    _deployment_parameters,
)
from prefect.flows import Flow
from prefect.settings import get_current_settings
from prefect.tasks import MaterializingTask, Task
from prefect.utilities.engine import collect_task_run_inputs_sync

from prefect_coiled.relay.forwarder import relay_of
from prefect_coiled.task_runner.flow_identity import identity_of
from prefect_coiled.task_runner.flow_parameters import Parameters
from prefect_coiled.task_runner.shipping import dumps
from prefect_coiled.task_runner.transactions import for_worker
from prefect_coiled.task_runner.worker_settings import read_authority, settings_for_relay

#: What of the context differs from task to task.
PARTS = ("task_run_context", "tags_context", "asset_context", "deployment_id", "deployment_parameters")


class FlowRunParcel:
    """The part of the context that all tasks of a flow run share, as bytes, made at first use.

    Attributes:
        relay: By which tasks ask the Prefect API; empty if they ask it themselves. On a worker it is that of
            the task that submits others.
    """

    def __init__(self) -> None:
        self.relay = ""
        self._made_for: tuple[Any, Any] | None = None
        self._data = b""

    def data(self) -> bytes:
        """The bytes for the present flow run and settings."""
        now = (FlowRunContext.get(), SettingsContext.get())
        # Identity, not equality: comparing settings costs more than dumping them.
        if self._made_for is None or any(a is not b for a, b in zip(now, self._made_for, strict=True)):
            flow_run, settings = now
            relay = self.relay or relay_of(str(get_current_settings().api.url or ""))
            if not settings:
                sent: dict[str, Any] = {}
            elif relay:
                sent = settings_for_relay(settings)
            else:
                sent = _with_api_url(settings.serialize())
            self._data = dumps(
                {
                    "flow_run_context": _of_flow_run(flow_run, bool(relay)) if flow_run else {},
                    "settings_context": sent,
                    "authority": read_authority() if settings and not relay else "",
                    "relay": relay,
                }
            )
            self._made_for = now
        return self._data


def _of_flow_run(context: FlowRunContext, relayed: bool) -> dict[str, Any]:
    # As they are: a model is one in `prefect.runtime`; and what cannot be sent keeps no task from running.
    serialized = context.model_copy(update={"parameters": {}}).serialize()
    serialized["parameters"] = Parameters.of(context.parameters or {})
    flow_run = serialized.get("flow_run")
    if relayed and isinstance(flow_run, dict):
        # A deployment's environment may hold the API's key.
        serialized["flow_run"] = {name: value for name, value in flow_run.items() if name != "job_variables"}
    if isinstance(flow := serialized.get("flow"), Flow):
        serialized["flow"] = identity_of(flow)
    return serialized


def _with_api_url(settings: dict[str, Any]) -> dict[str, Any]:
    """Name the server that this process talks to, where that is one that Prefect started for it.

    Without the address each worker process would start a server of its own.
    """
    if not get_current_settings().api.url and get_current_settings().server.ephemeral.enabled:
        from prefect.server.api.server import SubprocessASGIServer

        server = SubprocessASGIServer()
        server.start()  # does nothing when it runs already
        # Settings that nobody set are not in a dump, so "api" may be missing.
        settings["settings"].setdefault("api", {})["url"] = server.api_url
    return settings


def task_context(
    task: Task[Any, Any], task_run_id: UUID, inputs: dict[str, set[RunInput]], wait_for: Any = None
) -> dict[str, Any]:
    """The part of the context that differs from task to task, without what is empty.

    Together with the shared part this is what `prefect.context.serialize_context` gives, and what a thread
    has beside it: the transaction, and the span.

    Args:
        wait_for: What it waits for, whose assets are upstream of its own.
    """
    parent, tags, deployment = TaskRunContext.get(), TagsContext.get(), _deployment_id.get()
    context = {
        "task_run_context": _of_parent(parent) if parent else None,
        "tags_context": tags.serialize() if tags.current_tags else None,
        "asset_context": _assets(task, task_run_id, inputs, wait_for),
        "deployment_id": str(deployment) if deployment else None,
        "deployment_parameters": _deployment_parameters.get() or None,
        "transaction": for_worker(),
        "trace": _trace(),
    }
    return {name: value for name, value in context.items() if value}


def _of_parent(parent: TaskRunContext) -> dict[str, Any]:
    """The task that submits, without its parameters: nothing of its own needs those on a worker."""
    return parent.model_copy(update={"parameters": {}}).serialize()


def _trace() -> dict[str, str]:
    """The span that submits the task, as https://www.w3.org/TR/trace-context/ has it; empty without one."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _assets(
    task: Task[Any, Any], task_run_id: UUID, inputs: dict[str, set[RunInput]], wait_for: Any
) -> dict[str, Any] | None:
    """The assets of a task and of what it depends on; None where there are none, as in most flows."""
    flow_run = FlowRunContext.get()
    tracked = flow_run is not None and flow_run.task_run_assets
    if not (tracked or task.asset_deps or isinstance(task, MaterializingTask)):
        return None
    if wait_for:
        inputs = {**inputs, "wait_for": set(collect_task_run_inputs_sync(wait_for))}
    return AssetContext.from_task_and_inputs(
        task=task, task_run_id=task_run_id, task_inputs=inputs, copy_to_child_ctx=True
    ).serialize()
