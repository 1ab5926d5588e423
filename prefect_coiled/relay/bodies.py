"""What is looked at in the bodies of requests: the runs that they name, and what tasks may not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prefect_coiled.relay.needs import INSTEAD, Needs, RefusedError, as_uuid

Check = Callable[[Any, Needs], None]


def anything(body: Any, needs: Needs) -> None:
    """The path says whose it is, or it is anybody's: any JSON goes through."""


def _object(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError("an object was expected")
    return value


def _state(state: Any, needs: Needs) -> None:
    details = _object(_object(state).get("state_details"))
    for name in ("flow_run_id", "child_flow_run_id"):
        needs.flow_run(details.get(name))
    needs.task_run(details.get("task_run_id"))
    if details.get("deferred"):
        # A server hands such a task run to whichever process serves tasks.
        raise RefusedError(403, f"The relay starts no background tasks. {INSTEAD}")


def set_state(body: Any, needs: Needs) -> None:
    """A state for a run that the path names."""
    _state(_object(body)["state"], needs)


def new_task_run(body: Any, needs: Needs) -> None:
    """A task run, of the flow run."""
    needs.flow_run(_object(body).get("flow_run_id"), required=True)
    needs.task_run(body.get("id"))
    _state(body.get("state"), needs)


# With these a flow run would be started by a worker of a pool, or be one that is there already.
_NOT_OF_SUBFLOWS = (
    "deployment_id",
    "work_pool_name",
    "work_queue_name",
    "work_queue_id",
    "job_variables",
    "infrastructure_document_id",
    "idempotency_key",
)


def new_flow_run(body: Any, needs: Needs) -> None:
    """A flow run: a subflow of one of the flow run's tasks."""
    _refuse_any(body, _NOT_OF_SUBFLOWS)
    if body.get("parent_task_run_id") is None:
        raise RefusedError(403, f"The relay makes flow runs as subflows of its own alone. {INSTEAD}")
    needs.task_run(body["parent_task_run_id"])
    _state(body.get("state"), needs)


def flow_run_update(body: Any, needs: Needs) -> None:
    """What a flow run is called, and what its engine says of it; not where it goes."""
    _refuse_any(body, ("job_variables",))


def _refuse_any(body: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if _object(body).get(name):
            raise RefusedError(403, f"The relay lets no {name} of a flow run through. {INSTEAD}")


def _filter(section: str, ids: Mapping[str, str]) -> Check:
    """Look at the runs that a filter names.

    Args:
        section: The part of the body that is about what is asked for.
        ids: Fields of it that name runs, and of which kind.
    """

    def check(body: Any, needs: Needs) -> None:
        _object(body)
        for name in ("flow_runs", "task_runs", section):
            part = _object(body.get(name))
            if str(part.get("operator") or "and_") != "and_":
                raise RefusedError(403, "The relay takes filters that must all hold: operator 'and_'.")
        for field_, kind in ids.items():
            named = _object(_object(body.get(section)).get(field_)).get("any_")
            if named is not None:
                getattr(needs, kind).update(as_uuid(one) for one in named)

    return check


def artifacts(body: Any, needs: Needs) -> None:
    """Artifacts by their key, as `Artifact.get` reads them, or those of the flow run."""
    _ARTIFACT_FILTER(body, needs)
    keys = _object(_object(_object(body).get("artifacts")).get("key")).get("any_")
    if not needs.flow_runs and not (isinstance(keys, list) and keys):
        raise RefusedError(403, f"The relay reads artifacts by their keys. {INSTEAD}")


def logs(body: Any, needs: Needs) -> None:
    """Lines, each of a run."""
    if not isinstance(body, list):
        raise ValueError("a list was expected")
    for line in body:
        needs.flow_run(_object(line).get("flow_run_id"), required=True)
        needs.task_run(line.get("task_run_id"))
        if line.get("worker_id") is not None:
            raise RefusedError(403, "The relay takes the logs of runs, and of no worker of a work pool.")


def artifact(body: Any, needs: Needs) -> None:
    """An artifact of a run, or of none."""
    needs.flow_run(_object(body).get("flow_run_id"))
    needs.task_run(body.get("task_run_id"))


def slots_v1(body: Any, needs: Needs) -> None:
    """Slots of limits by tag, for a task run."""
    needs.task_run(_object(body)["task_run_id"])


def slots(body: Any, needs: Needs) -> None:
    """Slots of limits by name, for a run or for nobody."""
    holder = _object(_object(body).get("holder"))
    if holder:
        needs.note(str(holder["type"]), str(holder["id"]))


# Whoever looks at events (automations, the recorder of task runs) takes such as the API's own, or a worker's.
_OWN_EVENTS = (
    "prefect.task-run.",
    "prefect.flow-run.heartbeat",
    "prefect.block.",
    "prefect.block-document.",
    "prefect.concurrency-limit.",
    "prefect.asset.",
)
_OTHERS = ("deployment", "work-pool", "work-queue", "worker", "automation", "runner", "flow")


def events(body: Any, needs: Needs) -> None:
    """https://docs.prefect.io/v3/concepts/events: an event of a task run sets that run's state."""
    if not isinstance(body, list):
        raise ValueError("a list was expected")
    for event in body:
        name = _object(event)["event"]
        if name.lower().startswith(("prefect.", "prefect-cloud.")) and not name.startswith(_OWN_EVENTS):
            raise RefusedError(403, f"The relay sends no {name} events: the API makes them itself.")
        kind = _resource(event["resource"], needs)
        if kind in _OTHERS:
            raise RefusedError(403, f"The relay sends no events of a {kind}.")
        for related in event.get("related") or ():
            _resource(related, needs)
        if name.startswith("prefect.task-run."):
            if kind != "task-run":
                raise ValueError("an event of a task run names none")
            # What is here holds over what the resources say.
            run = _object(_object(event.get("payload")).get("task_run"))
            needs.task_run(run.get("id"))
            needs.flow_run(run.get("flow_run_id"))


def _resource(resource: Any, needs: Needs) -> str:
    """The kind of a resource that is Prefect's; empty for others."""
    if not isinstance(resource, dict):
        raise ValueError("a resource was expected")
    name = str(resource["prefect.resource.id"])
    if not name.startswith("prefect."):
        return ""
    kind, _, id_ = name.removeprefix("prefect.").partition(".")
    if kind == "flow-run":
        needs.flow_run(id_)
    elif kind == "task-run":
        needs.task_run(id_)
    return kind


_ARTIFACT_FILTER = _filter("artifacts", {"flow_run_id": "flow_runs"})
TASK_RUN_FILTER = _filter("task_runs", {"flow_run_id": "flow_runs"})
FLOW_RUN_FILTER = _filter("flow_runs", {"id": "flow_runs", "parent_task_run_id": "task_runs"})
LOG_FILTER = _filter("logs", {"flow_run_id": "flow_runs"})
