"""What tasks may ask of the Prefect API through the relay: a table, and nothing that is not in it.

`judge` reads a request, and gives what is to be sent in its place, and which runs it is about. Whether those
are the flow run's own is for `answering` to prove. Pure: asks nobody.

Paths are put together anew from their parts, bodies from what was read in them, and of queries what a row
names: what is read here and what is read by the API cannot differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode
from uuid import UUID

PAGES = "https://docs.prefect.io/v3/api-ref/rest-api/server/"

#: Bytes of a request's body, and of an answer's.
LARGEST = 10_000_000

_INSTEAD = (
    "Do it in the flow, outside of its tasks; or let machines talk to the API themselves, by"
    ' CoiledTaskRunner(api_relay="never").'
)


class RefusedError(Exception):
    """A request that does not go to the API.

    Attributes:
        status: The HTTP status that who asked gets.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass
class Needs:
    """Whose a request is: each of these has to be the flow run's own.

    Attributes:
        flow_runs: Flow runs: this one, or one that was made through this relay.
        task_runs: Task runs of those flow runs. One that the API has not seen yet becomes theirs.
        artifacts: Artifacts of those flow runs.
        flows: Flows of those flow runs; likewise the others.
        without_flow_run: Whether it is about a task run outside of a flow.
    """

    flow_runs: set[UUID] = field(default_factory=set)
    task_runs: set[UUID] = field(default_factory=set)
    artifacts: set[UUID] = field(default_factory=set)
    flows: set[UUID] = field(default_factory=set)
    deployments: set[UUID] = field(default_factory=set)
    work_queues: set[UUID] = field(default_factory=set)
    work_pools: set[str] = field(default_factory=set)
    without_flow_run: bool = False

    def flow_run(self, value: Any, required: bool = False) -> None:
        """Take note of a flow run that is named, if one is."""
        if value is not None:
            self.flow_runs.add(_uuid(value))
        elif required:
            self.without_flow_run = True

    def task_run(self, value: Any) -> None:
        """Take note of a task run that is named, if one is."""
        if value is not None:
            self.task_runs.add(_uuid(value))


Check = Callable[[Any, Needs], None]


@dataclass(frozen=True)
class Row:
    """One kind of request that tasks need.

    Attributes:
        path: The path; a part in braces is an id of that kind, or a name.
        page: Where Prefect documents it, below `PAGES`.
        query: Names that the query may have; one that ends in `_id` is that of a run.
        check: Looks at the body; without one there may be none.
        narrow: The filter of the body in which the API is told to look among the flow run's own alone, and
            the field of it that names those.
        answer: What is in the answer, where that has to be looked at.
    """

    method: str
    path: str
    page: str
    query: tuple[str, ...] = ()
    check: Check | None = None
    narrow: tuple[str, str] | None = None
    answer: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return tuple(part for part in self.path.split("/") if part)


@dataclass(frozen=True)
class Judged:
    """A request that may go to the API, once what it needs is proven.

    Attributes:
        target: Path and query, below the API's own address.
        body: The body, read; None where there is none.
        narrow: See `Row`.
        answer: See `Row`.
    """

    method: str
    target: str
    body: Any
    needs: Needs
    narrow: tuple[str, str] | None
    answer: str


def judge(method: str, target: str, body: bytes) -> Judged:
    """What is to be asked of the API where a task asks this.

    Args:
        target: Path and query, as the task's HTTP client sent them.

    Raises:
        RefusedError: Tasks do not need it, or it is no such request.
    """
    path, _, query = target.partition("?")
    parts = _parts(path)
    for row in TABLE:
        if row.method == method and (found := _match(row.parts, parts)) is not None:
            break
    else:
        shown = "/".join(parts)
        raise RefusedError(
            403, f"The relay lets no {method} /{shown} through: tasks do not need it. {_INSTEAD}"
        )
    needs = Needs()
    try:
        for kind, value in found:
            _note(kind, value, needs)
        canonical = "/".join(quote(part, safe="") for part in parts)
        asked = _query(row, query, needs)
        content = _body(row, body, needs)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise RefusedError(400, f"The relay cannot read this {method} /{'/'.join(parts)}: {error}") from error
    end = "/" if row.path.endswith("/") else ""
    return Judged(
        method,
        f"/{canonical}{end}{f'?{asked}' if asked else ''}",
        content,
        needs,
        row.narrow,
        row.answer,
    )


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path; none that a server, or what is before it, could read in another way."""
    if not path.startswith("/") or len(path) > 2_000:
        raise RefusedError(400, "The relay takes paths alone, such as /flow_runs/.")
    found = path[1:].removesuffix("/").split("/")
    parts = []
    for raw in found:
        part = unquote(raw) if raw.isascii() else ""
        if not part or part in (".", "..") or re.search(r"[/\\%;\x00-\x1f\x7f\ufffd]", part):
            raise RefusedError(400, "The relay cannot read this path.")
        parts.append(part)
    return tuple(parts)


_IDS = ("flow_run", "task_run", "artifact", "flow", "deployment", "work_queue", "lease", "block_document")


def _match(pattern: tuple[str, ...], parts: tuple[str, ...]) -> list[tuple[str, str]] | None:
    if len(pattern) != len(parts):
        return None
    found = []
    for wanted, part in zip(pattern, parts, strict=True):
        if not wanted.startswith("{"):
            if wanted != part:
                return None
            continue
        kind = wanted[1:-1]
        if kind in _IDS and not _is_uuid(part):
            return None
        found.append((kind, part))
    return found


def _note(kind: str, value: str, needs: Needs) -> None:
    if kind == "work_pool":
        needs.work_pools.add(value)
    elif kind in ("flow_run", "task_run", "artifact", "flow", "deployment", "work_queue"):
        getattr(needs, f"{kind}s").add(_uuid(value))


def _query(row: Row, query: str, needs: Needs) -> str:
    pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=20)
    for name, value in pairs:
        if name not in row.query:
            raise ValueError(f"the query {name!r} is not known here")
        if name in ("flow_run_id", "task_run_id"):
            _note(name.removesuffix("_id"), value, needs)
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("something is said twice in the query")
    return urlencode(pairs)


def _body(row: Row, body: bytes, needs: Needs) -> Any:
    if len(body) > LARGEST:
        raise RefusedError(413, too_large(len(body)))
    if row.check is None:
        if body:
            raise ValueError("it has a body")
        return None
    content = json.loads(body or b"{}")
    row.check(content, needs)
    return content


def too_large(size: int) -> str:
    """Why a body does not go through.

    Args:
        size: Bytes.
    """
    return (
        f"The relay takes {LARGEST:,} bytes at a time, and this has {size:,}. Keep large things in a result"
        " store or a bucket; or let machines talk to the API themselves, by"
        ' CoiledTaskRunner(api_relay="never").'
    )


# What is looked at in bodies


def _anything(body: Any, needs: Needs) -> None:
    pass


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
        raise RefusedError(403, f"The relay starts no background tasks. {_INSTEAD}")


def _set_state(body: Any, needs: Needs) -> None:
    _state(_object(body)["state"], needs)


def _new_task_run(body: Any, needs: Needs) -> None:
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


def _new_flow_run(body: Any, needs: Needs) -> None:
    _refuse_any(body, _NOT_OF_SUBFLOWS)
    if body.get("parent_task_run_id") is None:
        raise RefusedError(403, f"The relay makes flow runs as subflows of its own alone. {_INSTEAD}")
    needs.task_run(body["parent_task_run_id"])
    _state(body.get("state"), needs)


def _flow_run_update(body: Any, needs: Needs) -> None:
    _refuse_any(body, ("job_variables",))


def _refuse_any(body: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if _object(body).get(name):
            raise RefusedError(403, f"The relay lets no {name} of a flow run through. {_INSTEAD}")


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
                getattr(needs, kind).update(_uuid(one) for one in named)

    return check


def _artifacts(section: str) -> Check:
    within = _filter(section, {"flow_run_id": "flow_runs"})

    def check(body: Any, needs: Needs) -> None:
        """By its key, as `Artifact.get` does, or those of the flow run."""
        within(body, needs)
        keys = _object(_object(_object(body).get(section)).get("key")).get("any_")
        if not needs.flow_runs and not (isinstance(keys, list) and keys):
            raise RefusedError(403, f"The relay reads artifacts by their keys. {_INSTEAD}")

    return check


def _logs(body: Any, needs: Needs) -> None:
    if not isinstance(body, list):
        raise ValueError("a list was expected")
    for line in body:
        needs.flow_run(_object(line).get("flow_run_id"), required=True)
        needs.task_run(line.get("task_run_id"))
        if line.get("worker_id") is not None:
            raise RefusedError(403, "The relay takes the logs of runs, and of no worker of a work pool.")


def _artifact(body: Any, needs: Needs) -> None:
    needs.flow_run(_object(body).get("flow_run_id"))
    needs.task_run(body.get("task_run_id"))


def _slots_v1(body: Any, needs: Needs) -> None:
    needs.task_run(_object(body)["task_run_id"])


def _slots(body: Any, needs: Needs) -> None:
    holder = _object(_object(body).get("holder"))
    if holder:
        _note(str(holder["type"]), str(holder["id"]), needs)


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


def _events(body: Any, needs: Needs) -> None:
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


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _is_uuid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is not None


_TASK_RUN_FILTER = _filter("task_runs", {"flow_run_id": "flow_runs"})
_FLOW_RUN_FILTER = _filter("flow_runs", {})
_OWN_FLOW_RUN_FILTER = _filter("flow_runs", {"id": "flow_runs"})
_LOG_FILTER = _filter("logs", {"flow_run_id": "flow_runs"})

# fmt: off
TABLE: tuple[Row, ...] = (
    # Task runs. That they are recorded by events makes most of these rare.
    Row("POST", "/task_runs/", "task-runs/create-task-run", check=_new_task_run, answer="task_run"),
    Row("GET", "/task_runs/{task_run}", "task-runs/read-task-run", answer="task_run"),
    Row("PATCH", "/task_runs/{task_run}", "task-runs/update-task-run", check=_anything),
    Row("POST", "/task_runs/filter", "task-runs/read-task-runs", check=_TASK_RUN_FILTER,
        narrow=("task_runs", "flow_run_id")),
    Row("POST", "/task_runs/count", "task-runs/count-task-runs", check=_TASK_RUN_FILTER,
        narrow=("task_runs", "flow_run_id")),
    Row("POST", "/task_runs/{task_run}/set_state", "task-runs/set-task-run-state", check=_set_state),
    Row("GET", "/task_run_states/", "task-run-states/read-task-run-states", query=("task_run_id",)),
    # Flow runs: this one, and subflows of its tasks.
    Row("POST", "/flows/", "flows/create-flow", check=_anything, answer="flow"),
    Row("GET", "/flows/{flow}", "flows/read-flow"),
    Row("POST", "/flow_runs/", "flow-runs/create-flow-run", check=_new_flow_run, answer="flow_run"),
    Row("GET", "/flow_runs/{flow_run}", "flow-runs/read-flow-run", answer="flow_run"),
    Row("PATCH", "/flow_runs/{flow_run}", "flow-runs/update-flow-run", check=_flow_run_update),
    Row("PATCH", "/flow_runs/{flow_run}/labels", "flow-runs/update-flow-run-labels", check=_anything),
    Row("POST", "/flow_runs/filter", "flow-runs/read-flow-runs", check=_FLOW_RUN_FILTER, answer="flow_runs"),
    Row("POST", "/flow_runs/count", "flow-runs/count-flow-runs", check=_OWN_FLOW_RUN_FILTER,
        narrow=("flow_runs", "id")),
    Row("POST", "/flow_runs/{flow_run}/set_state", "flow-runs/set-flow-run-state", check=_set_state),
    Row("POST", "/flow_runs/{flow_run}/resume", "flow-runs/resume-flow-run", check=_anything),
    Row("GET", "/flow_run_states/", "flow-run-states/read-flow-run-states", query=("flow_run_id",)),
    # What a flow run is asked and told while it runs. One that was taken is removed by who took it.
    Row("POST", "/flow_runs/{flow_run}/input", "flow-runs/create-flow-run-input", check=_anything),
    Row("POST", "/flow_runs/{flow_run}/input/filter", "flow-runs/filter-flow-run-input", check=_anything),
    Row("GET", "/flow_runs/{flow_run}/input/{name}", "flow-runs/read-flow-run-input"),
    Row("DELETE", "/flow_runs/{flow_run}/input/{name}", "flow-runs/delete-flow-run-input"),
    # What the events of a run are related to: read by Prefect for each, without what may hold secrets.
    Row("GET", "/deployments/{deployment}", "deployments/read-deployment", answer="deployment"),
    Row("GET", "/work_queues/{work_queue}", "work-queues/read-work-queue"),
    Row("GET", "/work_pools/{work_pool}", "work-pools/read-work-pool", answer="work_pool"),
    # Logs and events.
    Row("POST", "/logs/", "logs/create-logs", check=_logs),
    Row("POST", "/logs/filter", "logs/read-logs", check=_LOG_FILTER, narrow=("logs", "flow_run_id")),
    Row("POST", "/events", "events/create-events", check=_events),
    # Variables, by name.
    Row("POST", "/variables/", "variables/create-variable", check=_anything),
    Row("GET", "/variables/name/{name}", "variables/read-variable-by-name"),
    Row("PATCH", "/variables/name/{name}", "variables/update-variable-by-name", check=_anything),
    # Blocks, by name or by id: what a task loads, it may load.
    Row("GET", "/block_types/slug/{name}", "block-types/read-block-type-by-slug"),
    Row("GET", "/block_types/slug/{name}/block_documents/name/{name}",
        "block-types/read-block-document-by-name-for-block-type", query=("include_secrets",)),
    Row("GET", "/block_documents/{block_document}", "block-documents/read-block-document-by-id",
        query=("include_secrets",)),
    Row("GET", "/block_schemas/checksum/{name}", "block-schemas/read-block-schema-by-checksum",
        query=("version",)),
    # Artifacts.
    Row("POST", "/artifacts/", "artifacts/create-artifact", check=_artifact, answer="artifact"),
    Row("PATCH", "/artifacts/{artifact}", "artifacts/update-artifact", check=_anything),
    Row("POST", "/artifacts/filter", "artifacts/read-artifacts", check=_artifacts("artifacts")),
    Row("POST", "/artifacts/latest/filter", "artifacts/read-latest-artifacts", check=_artifacts("artifacts")),
    # Slots of concurrency limits: taken, renewed, given back; no limit is made or changed.
    Row("POST", "/concurrency_limits/increment",
        "concurrency-limits/increment-concurrency-limits-v1", check=_slots_v1),
    Row("POST", "/concurrency_limits/decrement",
        "concurrency-limits/decrement-concurrency-limits-v1", check=_slots_v1),
    Row("POST", "/v2/concurrency_limits/increment",
        "concurrency-limits-v2/bulk-increment-active-slots", check=_slots),
    Row("POST", "/v2/concurrency_limits/increment-with-lease",
        "concurrency-limits-v2/bulk-increment-active-slots-with-lease", check=_slots),
    Row("POST", "/v2/concurrency_limits/decrement-with-lease",
        "concurrency-limits-v2/bulk-decrement-active-slots-with-lease", check=_slots),
    Row("POST", "/v2/concurrency_limits/leases/{lease}/renew",
        "concurrency-limits-v2/renew-concurrency-lease", check=_anything),
    # What a client asks before anything else, and where results go by default.
    Row("GET", "/health", "root/health-check"),
    Row("GET", "/hello", "root/hello"),
    Row("GET", "/admin/version", "admin/read-version"),
    Row("GET", "/admin/storage", "admin/read-server-default-result-storage"),
)
# fmt: on
