"""What tasks may ask of the Prefect API through the relay, and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID, uuid4

import pytest

from prefect_coiled.relay.needs import LARGEST, RefusedError
from prefect_coiled.relay.rules import Judged, judge
from prefect_coiled.relay.table import TABLE

# Fixed: they are in the names of cases.
RUN, TASK, OTHER = (UUID(int=number, version=4) for number in (1, 2, 3))
STATE = {"type": "RUNNING", "name": "Running", "state_details": {}}


def event(name: str = "shop.sold", resource: str = "shop.1", **more: Any) -> dict[str, Any]:
    related = [{"prefect.resource.id": f"prefect.flow-run.{RUN}", "prefect.resource.role": "flow-run"}]
    return {"event": name, "resource": {"prefect.resource.id": resource}, "related": related, **more}


def of_task_run(task_run: UUID = TASK, **run: Any) -> dict[str, Any]:
    payload = {"task_run": run, "validated_state": {"type": "COMPLETED", "name": "Completed"}}
    return event("prefect.task-run.Completed", f"prefect.task-run.{task_run}", payload=payload)


# A request for each row of the table.
ASKED: dict[tuple[str, str], tuple[str, Any]] = {
    ("POST", "/task_runs/"): (
        "",
        {"flow_run_id": str(RUN), "task_key": "a", "dynamic_key": "0", "state": STATE},
    ),
    ("PATCH", "/task_runs/{task_run}"): ("", {"name": "a"}),
    ("POST", "/task_runs/filter"): ("", {"task_runs": {"id": {"any_": [str(TASK)]}}}),
    ("POST", "/task_runs/count"): ("", {"task_runs": {"flow_run_id": {"any_": [str(RUN)]}}}),
    ("POST", "/task_runs/{task_run}/set_state"): ("", {"state": STATE, "force": False}),
    ("GET", "/task_run_states/"): (f"?task_run_id={TASK}", None),
    ("POST", "/flows/"): ("", {"name": "a"}),
    ("POST", "/flow_runs/"): ("", {"flow_id": str(uuid4()), "parent_task_run_id": str(TASK), "state": STATE}),
    ("PATCH", "/flow_runs/{flow_run}"): ("", {"name": "a", "tags": []}),
    ("PATCH", "/flow_runs/{flow_run}/labels"): ("", {"a": "b"}),
    ("POST", "/flow_runs/filter"): ("", {"flow_runs": {"parent_task_run_id": {"any_": [str(TASK)]}}}),
    ("POST", "/flow_runs/count"): ("", {"flow_runs": {"id": {"any_": [str(RUN)]}}}),
    ("POST", "/flow_runs/{flow_run}/set_state"): ("", {"state": STATE}),
    ("POST", "/flow_runs/{flow_run}/resume"): ("", {"run_input": {}}),
    ("GET", "/flow_run_states/"): (f"?flow_run_id={RUN}", None),
    ("POST", "/flow_runs/{flow_run}/input"): ("", {"key": "a", "value": "1"}),
    ("POST", "/flow_runs/{flow_run}/input/filter"): ("", {"prefix": "a", "limit": 1}),
    ("POST", "/logs/"): ("", [{"flow_run_id": str(RUN), "task_run_id": str(TASK), "message": "a"}]),
    ("POST", "/logs/filter"): ("", {"logs": {"flow_run_id": {"any_": [str(RUN)]}}}),
    ("POST", "/events"): ("", [event(), of_task_run()]),
    ("POST", "/variables/"): ("", {"name": "a", "value": 1}),
    ("PATCH", "/variables/name/{name}"): ("", {"value": 2}),
    ("GET", "/block_types/slug/{name}/block_documents/name/{name}"): ("?include_secrets=true", None),
    ("GET", "/block_documents/{block_document}"): ("?include_secrets=true", None),
    ("GET", "/block_schemas/checksum/{name}"): ("?version=1", None),
    ("POST", "/artifacts/"): ("", {"flow_run_id": str(RUN), "task_run_id": str(TASK), "key": "a"}),
    ("PATCH", "/artifacts/{artifact}"): ("", {"data": "1"}),
    ("POST", "/artifacts/filter"): ("", {"artifacts": {"key": {"any_": ["a"]}}}),
    ("POST", "/artifacts/latest/filter"): ("", {"artifacts": {"key": {"any_": ["a"]}}}),
    ("POST", "/concurrency_limits/increment"): ("", {"names": ["a"], "task_run_id": str(TASK)}),
    ("POST", "/concurrency_limits/decrement"): ("", {"names": ["a"], "task_run_id": str(TASK)}),
    ("POST", "/v2/concurrency_limits/increment"): ("", {"names": ["a"], "slots": 1, "mode": "rate_limit"}),
    ("POST", "/v2/concurrency_limits/increment-with-lease"): (
        "",
        {"names": ["a"], "slots": 1, "holder": {"type": "task_run", "id": str(TASK)}},
    ),
    ("POST", "/v2/concurrency_limits/decrement-with-lease"): ("", {"lease_id": str(uuid4())}),
    ("POST", "/v2/concurrency_limits/leases/{lease}/renew"): ("", {"lease_duration": 60}),
}


def filled(path: str) -> str:
    ids = {"{flow_run}": str(RUN), "{task_run}": str(TASK), "{name}": "a", "{work_pool}": "pool"}
    return re.sub(r"\{\w+\}", lambda part: ids.get(part[0], str(OTHER)), path)


def ask(method: str, target: str, body: Any = None) -> Judged:
    return judge(method, target, b"" if body is None else json.dumps(body).encode())


def refusal(method: str, target: str, body: Any = None) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        ask(method, target, body)
    return caught.value


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method} {row.path}")
def test_each_row_lets_its_request_through_as_it_is(row: Any) -> None:
    query, body = ASKED.get((row.method, row.path), ("", None))
    target = filled(row.path)
    judged = ask(row.method, target + query, body)
    assert (judged.method, judged.target, judged.body) == (row.method, target + query, body)
    # Whoever names a run has to prove whose it is.
    named = json.dumps(body) + target + query
    assert (str(RUN) in named) == (RUN in judged.needs.flow_runs)
    if row.path != "/task_runs/filter":  # which finds those of the flow run alone
        assert (str(TASK) in named) == (TASK in judged.needs.task_runs)


def test_each_row_is_a_route_of_prefects_server_and_names_its_page() -> None:
    from prefect.server.api import server

    known = {}
    for router in server.API_ROUTERS:
        for route in router.routes:
            for method in getattr(route, "methods", None) or ():
                path = re.sub(r"\{\w+(:\w+)?\}", "{}", route.path)
                known[method, path.rstrip("/")] = route.name.replace("_", "-")
    missing = []
    for row in TABLE:
        name = known.get((row.method, re.sub(r"\{\w+\}", "{}", row.path).rstrip("/")))
        if row.path == "/health":
            continue  # made with the application
        if name is None or name != row.page.partition("/")[2]:
            missing.append((row.method, row.path, row.page, name))
    assert missing == []


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("DELETE", f"/flow_runs/{RUN}"),
        ("DELETE", f"/task_runs/{TASK}"),
        ("DELETE", "/variables/name/a"),
        ("DELETE", f"/block_documents/{OTHER}"),
        ("DELETE", f"/artifacts/{OTHER}"),
        ("POST", "/flow_runs/bulk_delete"),
        ("POST", "/flow_runs/bulk_set_state"),
        ("POST", "/flow_runs/paginate"),
        ("POST", "/deployments/"),
        ("POST", f"/deployments/{OTHER}/create_flow_run"),
        ("PATCH", f"/deployments/{OTHER}"),
        ("POST", "/deployments/filter"),
        ("GET", "/deployments/name/a/b"),
        ("POST", "/work_pools/"),
        ("POST", "/work_pools/filter"),
        ("PATCH", "/work_pools/a"),
        ("POST", "/work_pools/a/get_scheduled_flow_runs"),
        ("POST", "/work_pools/a/workers/heartbeat"),
        ("POST", "/work_queues/filter"),
        ("POST", "/block_documents/"),
        ("POST", "/block_documents/filter"),
        ("POST", "/block_types/filter"),
        ("PATCH", f"/block_documents/{OTHER}"),
        ("POST", "/variables/filter"),
        ("POST", "/automations/"),
        ("POST", "/concurrency_limits/"),
        ("POST", "/v2/concurrency_limits/"),
        ("PATCH", "/v2/concurrency_limits/a"),
        ("POST", "/v2/concurrency_limits/decrement"),
        ("POST", "/events/filter"),
        ("GET", "/admin/settings"),
        ("PUT", "/admin/storage"),
        ("POST", "/admin/database/clear"),
        ("GET", "/"),
        ("GET", "/unknown"),
        ("TRACE", f"/flow_runs/{RUN}"),
        ("get", f"/flow_runs/{RUN}"),
    ],
)
def test_what_no_row_has_is_refused_with_what_to_do(method: str, target: str) -> None:
    refused = refusal(method, target, {} if method in ("POST", "PATCH", "PUT") else None)
    assert refused.status in (400, 403)
    if target != "/":
        assert "tasks do not need it" in refused.words
        assert 'api_relay="never"' in refused.words


@pytest.mark.parametrize(
    "target",
    [
        f"//flow_runs/{RUN}",
        "//evil.example.com/health",
        f"/flow_runs//{RUN}",
        f"/flow_runs/{RUN}/..",
        f"/flow_runs/./{RUN}",
        f"/flow_runs/%2e%2e/deployments/{OTHER}",
        f"/flow_runs/{RUN}%2f..%2f..%2fadmin%2fsettings",
        f"/flow_runs/{RUN}%252f..",
        f"/flow_runs/{RUN}\\..",
        f"/flow_runs/{RUN};a=b",
        f"/flow_runs/{RUN}%00",
        f"/flow_runs/{RUN}%0d%0aHost:%20evil",
        "/variables/name/a%2f..%2f..%2fadmin",
        "/variables/name/%c3%28",
        "/health#/../admin",
        "http://evil.example.com/health",
        "health",
        "",
        f"/flow_runs/{RUN}?x=1",
        "/block_documents/filter",
        f"/task_run_states/?task_run_id={TASK}&task_run_id={OTHER}",
        f"/task_run_states/?task_run_id={TASK}&limit=1",
        "/health?" + "a=b&" * 30,
        "/" + "a" * 3_000,
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(target: str) -> None:
    assert refusal("GET", target).status in (400, 403)


def test_a_path_is_put_together_anew() -> None:
    assert ask("GET", "/variables/name/a%20b%3F%23").target == "/variables/name/a%20b%3F%23"
    assert ask("GET", "/%68ealth").target == "/health"
    assert ask("POST", "/logs", []).target == "/logs/"
    assert ask("GET", "/block_types/slug/%61").target == "/block_types/slug/a"


def test_a_body_is_what_was_read_in_it() -> None:
    twice = b'{"flow_run_id": "%s", "flow_run_id": "%s"}' % (str(RUN).encode(), str(OTHER).encode())
    judged = judge("POST", "/task_runs/", twice)
    assert judged.needs.flow_runs == {OTHER}
    assert judged.body == {"flow_run_id": str(OTHER)}
    # Whole numbers of any size stay what they are.
    assert ask("POST", "/variables/", {"name": "a", "value": 10**40}).body["value"] == 10**40


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/logs/", b"{"),
        ("/logs/", b"\xff\xfe"),
        ("/logs/", b"[" * 200_000),
        ("/logs/", b"{}"),
        ("/logs/", b'["text"]'),
        ("/events", b"{}"),
        ("/events", b"[{}]"),
        ("/events", b'[{"event": 1, "resource": {"prefect.resource.id": "a"}}]'),
        ("/events", b'[{"event": "a", "resource": []}]'),
        ("/events", b'[{"event": "a", "resource": {"prefect.resource.id": "prefect.flow-run.none"}}]'),
        ("/task_runs/", b'{"flow_run_id": "none"}'),
        (f"/flow_runs/{RUN}/set_state", b"{}"),
        ("/concurrency_limits/increment", b"{}"),
    ],
)
def test_what_cannot_be_read_is_refused(target: str, body: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        judge("POST", target, body)
    assert caught.value.status == 400


def test_a_request_that_has_no_body_may_not_bring_one() -> None:
    assert refusal("GET", "/health", {}).status == 400


def test_a_body_that_is_too_large_is_refused_with_what_to_do() -> None:
    with pytest.raises(RefusedError) as caught:
        judge("POST", "/artifacts/", b" " * (LARGEST + 1))
    assert caught.value.status == 413
    assert "10,000,000 bytes" in caught.value.words
    assert "result store" in caught.value.words


@pytest.mark.parametrize(
    "more",
    [
        {"deployment_id": str(OTHER)},
        {"work_pool_name": "pool"},
        {"work_queue_name": "queue"},
        {"work_queue_id": str(OTHER)},
        {"job_variables": {"env": {"A": "b"}}},
        {"infrastructure_document_id": str(OTHER)},
        {"idempotency_key": "a"},
        {"parent_task_run_id": None},
    ],
)
def test_a_flow_run_that_is_no_subflow_is_not_made(more: dict[str, Any]) -> None:
    body = {"flow_id": str(OTHER), "parent_task_run_id": str(TASK), **more}
    assert refusal("POST", "/flow_runs/", body).status == 403


def test_where_a_flow_run_goes_is_not_changed() -> None:
    assert refusal("PATCH", f"/flow_runs/{RUN}", {"job_variables": {"image": "evil"}}).status == 403


def test_no_background_task_is_started() -> None:
    state = {"type": "SCHEDULED", "state_details": {"deferred": True}}
    assert refusal("POST", "/task_runs/", {"flow_run_id": str(RUN), "state": state}).status == 403
    assert refusal("POST", f"/task_runs/{TASK}/set_state", {"state": state}).status == 403


def test_runs_that_a_state_names_are_to_be_proven() -> None:
    details = {"flow_run_id": str(OTHER), "task_run_id": str(TASK), "child_flow_run_id": str(RUN)}
    judged = ask("POST", f"/flow_runs/{RUN}/set_state", {"state": {**STATE, "state_details": details}})
    assert judged.needs.flow_runs == {RUN, OTHER}
    assert judged.needs.task_runs == {TASK}


@pytest.mark.parametrize("section", ["task_runs", "flow_runs"])
def test_a_filter_whose_parts_are_alternatives_is_refused(section: str) -> None:
    body = {section: {"operator": "or_", "id": {"any_": []}}}
    assert refusal("POST", f"/{section}/count", body).status == 403
    assert refusal("POST", "/logs/filter", {"logs": {"operator": "or_"}}).status == 403


def test_a_flow_run_that_a_filter_names_is_to_be_proven() -> None:
    named = {"flow_run_id": {"any_": [str(OTHER)]}}
    assert ask("POST", "/task_runs/count", {"task_runs": named}).needs.flow_runs == {OTHER}
    assert ask("POST", "/logs/filter", {"logs": named}).needs.flow_runs == {OTHER}
    assert ask("POST", "/flow_runs/count", {"flow_runs": {"id": {"any_": [str(OTHER)]}}}).needs.flow_runs == {
        OTHER
    }


@pytest.mark.parametrize("body", [{}, {"artifacts": {}}, {"artifacts": {"key": {"like_": "%"}}}])
def test_artifacts_are_not_listed(body: dict[str, Any]) -> None:
    assert refusal("POST", "/artifacts/filter", body).status == 403


@pytest.mark.parametrize(
    "name",
    [
        "prefect.flow-run.Completed",
        "prefect.deployment.created",
        "Prefect.work-pool.ready",
        "prefect.automation.triggered",
        "prefect-cloud.login",
    ],
)
def test_no_event_is_sent_in_the_name_of_the_api(name: str) -> None:
    assert refusal("POST", "/events", [event(name)]).status == 403


@pytest.mark.parametrize("kind", ["deployment", "work-pool", "work-queue", "automation", "flow"])
def test_no_event_tells_of_what_is_not_of_tasks(kind: str) -> None:
    assert refusal("POST", "/events", [event("a", f"prefect.{kind}.{OTHER}")]).status == 403


def test_all_runs_that_events_name_are_to_be_proven() -> None:
    sly = of_task_run(TASK, id=str(OTHER), flow_run_id=str(OTHER))
    needs = ask("POST", "/events", [sly, event("a", f"prefect.flow-run.{RUN}")]).needs
    assert needs.task_runs == {TASK, OTHER}
    assert needs.flow_runs == {RUN, OTHER}
    assert refusal("POST", "/events", [event("prefect.task-run.Completed", "shop.1")]).status == 400


def test_a_line_of_a_log_belongs_to_a_run() -> None:
    assert ask("POST", "/logs/", [{"message": "a"}]).needs.without_flow_run
    assert refusal("POST", "/logs/", [{"worker_id": str(OTHER), "flow_run_id": str(RUN)}]).status == 403


def test_one_among_many_is_seen() -> None:
    lines = [{"flow_run_id": str(RUN)}] * 500 + [{"flow_run_id": str(OTHER)}]
    assert OTHER in ask("POST", "/logs/", lines).needs.flow_runs
