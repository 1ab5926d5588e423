"""What tasks ask the Prefect API for: the requests that the relay lets through, each with its page."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_coiled.relay import bodies
from prefect_coiled.relay.bodies import Check

PAGES = "https://docs.prefect.io/v3/api-ref/rest-api/server/"


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


# fmt: off
TABLE: tuple[Row, ...] = (
    # Task runs. That they are recorded by events makes most of these rare.
    Row("POST", "/task_runs/", "task-runs/create-task-run", check=bodies.new_task_run, answer="task_run"),
    Row("GET", "/task_runs/{task_run}", "task-runs/read-task-run", answer="task_run"),
    Row("PATCH", "/task_runs/{task_run}", "task-runs/update-task-run", check=bodies.anything),
    Row("POST", "/task_runs/filter", "task-runs/read-task-runs", check=bodies.TASK_RUN_FILTER,
        narrow=("task_runs", "flow_run_id")),
    Row("POST", "/task_runs/count", "task-runs/count-task-runs", check=bodies.TASK_RUN_FILTER,
        narrow=("task_runs", "flow_run_id")),
    Row("POST", "/task_runs/{task_run}/set_state", "task-runs/set-task-run-state", check=bodies.set_state),
    Row("GET", "/task_run_states/", "task-run-states/read-task-run-states", query=("task_run_id",)),
    # Flow runs: this one, and subflows of its tasks.
    Row("POST", "/flows/", "flows/create-flow", check=bodies.anything, answer="flow"),
    Row("GET", "/flows/{flow}", "flows/read-flow"),
    Row("POST", "/flow_runs/", "flow-runs/create-flow-run", check=bodies.new_flow_run, answer="flow_run"),
    Row("GET", "/flow_runs/{flow_run}", "flow-runs/read-flow-run", answer="flow_run"),
    Row("PATCH", "/flow_runs/{flow_run}", "flow-runs/update-flow-run", check=bodies.flow_run_update),
    Row("PATCH", "/flow_runs/{flow_run}/labels", "flow-runs/update-flow-run-labels", check=bodies.anything),
    Row("POST", "/flow_runs/filter", "flow-runs/read-flow-runs", check=bodies.FLOW_RUN_FILTER,
        narrow=("flow_runs", "id"), answer="flow_runs"),
    Row("POST", "/flow_runs/count", "flow-runs/count-flow-runs", check=bodies.FLOW_RUN_FILTER,
        narrow=("flow_runs", "id")),
    Row("POST", "/flow_runs/{flow_run}/set_state", "flow-runs/set-flow-run-state", check=bodies.set_state),
    Row("POST", "/flow_runs/{flow_run}/resume", "flow-runs/resume-flow-run", check=bodies.anything),
    Row("GET", "/flow_run_states/", "flow-run-states/read-flow-run-states", query=("flow_run_id",)),
    # What a flow run is asked and told while it runs. One that was taken is removed by who took it.
    Row("POST", "/flow_runs/{flow_run}/input", "flow-runs/create-flow-run-input", check=bodies.anything),
    Row("POST", "/flow_runs/{flow_run}/input/filter", "flow-runs/filter-flow-run-input",
        check=bodies.anything),
    Row("GET", "/flow_runs/{flow_run}/input/{name}", "flow-runs/read-flow-run-input"),
    Row("DELETE", "/flow_runs/{flow_run}/input/{name}", "flow-runs/delete-flow-run-input"),
    # What the events of a run are related to: read by Prefect for each, without what may hold secrets.
    Row("GET", "/deployments/{deployment}", "deployments/read-deployment", answer="deployment"),
    Row("GET", "/work_queues/{work_queue}", "work-queues/read-work-queue"),
    Row("GET", "/work_pools/{work_pool}", "work-pools/read-work-pool", answer="work_pool"),
    # Logs and events.
    Row("POST", "/logs/", "logs/create-logs", check=bodies.logs),
    Row("POST", "/logs/filter", "logs/read-logs", check=bodies.LOG_FILTER, narrow=("logs", "flow_run_id")),
    Row("POST", "/events", "events/create-events", check=bodies.events),
    # Variables, by name.
    Row("POST", "/variables/", "variables/create-variable", check=bodies.anything),
    Row("GET", "/variables/name/{name}", "variables/read-variable-by-name"),
    Row("PATCH", "/variables/name/{name}", "variables/update-variable-by-name", check=bodies.anything),
    # Blocks, by name or by id: what a task loads, it may load, but for what opens an account (`kept_blocks`).
    Row("GET", "/block_types/slug/{name}", "block-types/read-block-type-by-slug"),
    Row("GET", "/block_types/slug/{name}/block_documents/name/{name}",
        "block-types/read-block-document-by-name-for-block-type", query=("include_secrets",),
        answer="block_document"),
    Row("GET", "/block_documents/{block_document}", "block-documents/read-block-document-by-id",
        query=("include_secrets",), answer="block_document"),
    Row("GET", "/block_schemas/checksum/{name}", "block-schemas/read-block-schema-by-checksum",
        query=("version",)),
    # Artifacts.
    Row("POST", "/artifacts/", "artifacts/create-artifact", check=bodies.artifact, answer="artifact"),
    Row("PATCH", "/artifacts/{artifact}", "artifacts/update-artifact", check=bodies.anything),
    Row("POST", "/artifacts/filter", "artifacts/read-artifacts", check=bodies.artifacts),
    Row("POST", "/artifacts/latest/filter", "artifacts/read-latest-artifacts", check=bodies.artifacts),
    # Slots of concurrency limits: taken, renewed, given back; no limit is made or changed.
    Row("POST", "/concurrency_limits/increment",
        "concurrency-limits/increment-concurrency-limits-v1", check=bodies.slots_v1),
    Row("POST", "/concurrency_limits/decrement",
        "concurrency-limits/decrement-concurrency-limits-v1", check=bodies.slots_v1),
    Row("POST", "/v2/concurrency_limits/increment",
        "concurrency-limits-v2/bulk-increment-active-slots", check=bodies.slots),
    Row("POST", "/v2/concurrency_limits/increment-with-lease",
        "concurrency-limits-v2/bulk-increment-active-slots-with-lease", check=bodies.slots),
    Row("POST", "/v2/concurrency_limits/decrement-with-lease",
        "concurrency-limits-v2/bulk-decrement-active-slots-with-lease", check=bodies.slots),
    Row("POST", "/v2/concurrency_limits/leases/{lease}/renew",
        "concurrency-limits-v2/renew-concurrency-lease", check=bodies.anything),
    # What a client asks before anything else, and where results go by default.
    Row("GET", "/health", "root/health-check"),
    Row("GET", "/hello", "root/hello"),
    Row("GET", "/admin/version", "admin/read-version"),
    Row("GET", "/admin/storage", "admin/read-server-default-result-storage"),
)
# fmt: on
