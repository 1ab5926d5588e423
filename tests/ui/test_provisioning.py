"""What a person sees in Prefect of a flow run whose tasks run on a cluster, and of one that got none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from prefect_coiled import CoiledTaskRunner
from prefect_coiled.sandbox import Sandbox

from .person import open_page

Until = Callable[..., Any]


@task
def square(x: int) -> int:
    return x * x


def run_flow(name: str, seen: list[UUID], **options: Any) -> Any:
    """A flow run with a cluster of that name."""

    @flow(
        name="squares",
        flow_run_name=f"squares on {name}",
        task_runner=CoiledTaskRunner(name=name, n_workers=2, wait_for_workers=True, **options),
    )
    def squares() -> int:
        seen.append(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        return sum(square.map(range(4)).result())

    return squares(return_state=True)


def artifacts(*run_ids: UUID) -> dict[str, Artifact]:
    """The artifacts of flow runs, by their keys without the account."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(run_ids))),
        )
    return {str(a.key).removeprefix("dask-").removesuffix("-default"): a for a in found}


def runs_named(*names: str) -> dict[str, FlowRun]:
    with get_client(sync_client=True) as client:
        return {r.name: r for r in client.read_flow_runs() if r.name in names}


def task_runs_of(run_id: UUID) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])), limit=200
        )
    return {t.name: t for t in found}


@pytest.fixture(scope="module")
def told(sandbox: Sandbox, until: Until) -> UUID:
    """A flow run on a cluster `seen`; one call to AWS fails once on the way."""
    runs: list[UUID] = []
    rule = {"service": "ec2", "action": "CreateSecurityGroup", "effect": "error", "times": 1}
    sandbox.faults([{**rule, "code": "RequestLimitExceeded", "status": 503}])
    try:
        state = run_flow("seen", runs, spot=True)
    finally:
        sandbox.faults([])
    assert state.result() == 14
    return runs[0]


def test_provisioning_is_a_subflow_with_readable_names_tags_and_retries(told: UUID, until: Until) -> None:
    runs = runs_named("provision seen", "set up default in us-east-1", "remove seen")
    assert set(runs) == {"provision seen", "set up default in us-east-1", "remove seen"}
    assert all(set(r.tags) == {"coiled", "default", "seen"} for r in runs.values())
    steps = {"2 x m6i.xlarge spot", "scheduler m6i.xlarge on demand", "security groups of seen"}
    provision = runs["provision seen"].id
    until(lambda: steps <= set(task_runs_of(provision)))
    found = task_runs_of(provision)
    # For each tag of a task run Prefect would ask its API for a slot, and fail the step without an answer.
    assert not any(t.tags for n, t in found.items() if not n.startswith("set up account"))
    until(lambda: "create VPC" in task_runs_of(runs["set up default in us-east-1"].id))
    retried = [t for t in task_runs_of(provision).values() if t.run_count > 1]
    assert [(t.name, t.run_count) for t in retried] == [("security groups of seen", 2)]
    with get_client(sync_client=True) as client:
        path = "/task_run_states/"
        states = client.request("GET", path, params={"task_run_id": str(retried[0].id)}).json()
    assert {"Retrying", "Completed"} <= {s["name"] for s in states}
    # The user's own tasks have the user's own tags.
    assert all(not t.tags for n, t in task_runs_of(told).items() if n.startswith("square"))


def test_progress_resources_links_and_summary_are_artifacts(told: UUID, sandbox: Sandbox) -> None:
    provision = runs_named("provision seen")["provision seen"].id
    launch, own = artifacts(provision), artifacts(told)
    assert launch["workers"].type == "progress"
    assert float(launch["workers"].data) == 100.0
    assert "2 of 2 workers" in launch["workers"].description
    rows = json.loads(launch["resources"].data)
    assert set(rows[0]) == {"kind", "id", "zone", "note"}
    kinds = [r["kind"] for r in rows]
    assert (kinds.count("worker"), kinds.count("scheduler"), kinds.count("network")) == (2, 1, 1)
    ids = {r["id"] for r in rows if r["kind"] in ("worker", "scheduler")}
    assert ids <= set(sandbox.instances())
    assert all("spot" in r["note"] for r in rows if r["kind"] == "worker")
    assert own["dashboard"].data.startswith("[Dask dashboard of seen](https://")
    assert own["dashboard"].data.endswith(":8787/status)")
    summary = own["summary"].data
    for part in ("2 x m6i.xlarge spot", "| launch |", "| workers boot |", "Total: $", "- instance: i-"):
        assert part in summary
    assert own["time-line"].type == "image"
    assert own["time-line"].data.startswith("data:image/svg+xml;base64,")
    everything = json.dumps([str(a.data) + str(a.description) for a in {**launch, **own}.values()])
    assert "token=" not in everything


def test_the_flow_runs_page_shows_the_subflow_and_the_artifacts(url: str, told: UUID, until: Until) -> None:
    # The end of a cluster waits some seconds for them, and no longer; a page shows what there is as it opens.
    until(lambda: {"dashboard", "summary", "time-line"} <= set(artifacts(told)))
    until(lambda: {"provision seen", "remove seen"} <= set(runs_named("provision seen", "remove seen")))
    with open_page(url) as page:
        page.goto(f"runs/flow-run/{told}?tab=Artifacts")
        for key in ("dask-dashboard-default", "dask-summary-default", "dask-time-line-default"):
            page.get_by_text(key).first.wait_for()
        page.goto(f"runs/flow-run/{told}?tab=SubflowRuns")
        for name in ("provision seen", "remove seen"):
            page.get_by_text(name).first.wait_for()
        page.goto(f"artifacts/artifact/{artifacts(told)['summary'].id}")
        page.get_by_role("heading", name="Time line").wait_for()
        page.wait_for_function(
            "[...document.images].some(i => i.src.startsWith('data:image/svg') && i.naturalWidth > 300)"
        )


def test_what_failed_and_why_and_what_to_do_next_is_on_one_screen(url: str, sandbox: Sandbox) -> None:
    runs: list[UUID] = []
    sandbox.set(capacity=[{"instance_type": "*", "zone": "*", "free": 0}])
    try:
        state = run_flow("starved", runs, zone="us-east-1a")
    finally:
        sandbox.set(capacity=[])
    assert state.is_failed() or state.is_crashed()
    assert "InsufficientInstanceCapacity" in str(state.message)
    provision = runs_named("provision starved")["provision starved"]
    assert "launching 1 scheduler" in str(provision.state.message if provision.state else "")
    for run in (runs[0], provision.id):
        text = artifacts(run)["failure"].data
        assert "**What failed:** launching 1 scheduler" in text
        assert "InsufficientInstanceCapacity" in text
        assert "**What to do next:** Allow more vm_types or zones" in text
    with open_page(url) as page:
        page.goto(f"artifacts/artifact/{artifacts(runs[0])['failure'].id}")
        page.get_by_role("heading", name="Cluster starved did not come up").wait_for()
        page.get_by_role("heading", name="How far it came").wait_for()
        for part in ("What failed:", "Why:", "What to do next:"):
            box = page.get_by_text(part).first.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] < 900
