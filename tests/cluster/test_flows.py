"""`CoiledTaskRunner` on machines that boot: what a person sees of a flow, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import dask
import pytest
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.context import FlowRunContext
from prefect_dask import get_dask_client

from prefect_coiled import Cluster, CoiledTaskRunner
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]
ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"n_workers": 1, "wait_for_workers": True, "nthreads": 2}


@task
def square(x: int) -> int:
    get_run_logger().info("squaring %s", x)
    return x * x


@task
def sum_by_dask(values: list[int]) -> int:
    with get_dask_client() as client:
        total: int = client.submit(sum, values).result()
        return total


def children(flow_run_id: UUID) -> dict[str, str]:
    """The subflows of a flow run, by flow name, with their states."""
    below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=below)
        return {client.read_flow(r.flow_id).name: str(r.state_name) for r in runs}


def test_a_flow_gets_a_cluster_of_its_own_shown_as_subflows_and_gone_afterwards(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    seen: list[UUID] = []

    @flow(task_runner=CoiledTaskRunner(**SMALL))
    def squares() -> int:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        seen.append(context.flow_run.id)
        parts = square.map(range(6))
        return sum_by_dask.submit(parts).result()

    assert squares() == 55
    assert live() == []
    (run_id,) = seen
    assert children(run_id) == {"provision cluster": "Completed", "remove cluster": "Completed"}

    def messages() -> set[str]:
        with get_client(sync_client=True) as client:
            found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200)
        return {log.message for log in found}

    until(lambda: {f"squaring {x}" for x in range(6)} <= messages())
    where = "the sandbox on this machine"
    until(lambda: any(f"at list prices, in {where}" in message for message in messages()))
    text = " ".join(messages())
    assert f"account default: {where}" in text
    assert "token=" not in text
    assert "workers: 1 ready (of 1)" in text


@pytest.mark.long
async def test_an_async_flow_waits_for_its_cluster_without_blocking(sandbox: Sandbox, live: Live) -> None:
    @flow(task_runner=CoiledTaskRunner(**SMALL))
    async def squares() -> int:
        context = FlowRunContext.get()
        assert context is not None
        await context.task_runner.ready()  # type: ignore[attr-defined]
        return sum(f.result() for f in square.map(range(4)))

    assert await squares() == 14
    assert live() == []


@pytest.mark.long
def test_flow_runs_share_a_cluster_by_its_name_and_leave_it(sandbox: Sandbox, live: Live) -> None:
    @flow(task_runner=CoiledTaskRunner(name="shared-by-flows"))
    def one(x: int) -> int:
        return square.submit(x).result()

    with Cluster(**SMALL, name="shared-by-flows", quiet=True):
        assert [one(2), one(3)] == [4, 9]
        assert len(live()) == 2
    assert live() == []


@pytest.mark.long
def test_a_task_whose_workers_keep_dying_is_crashed_and_its_flow_fails(
    sandbox: Sandbox, live: Live, until: Until
) -> None:
    seen: list[UUID] = []

    @task
    def deadly() -> None:
        os._exit(1)

    @flow(task_runner=CoiledTaskRunner(**SMALL))
    def doomed() -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        seen.append(context.flow_run.id)
        deadly.submit()
        return "all is well"

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        state = doomed(return_state=True)
    assert not state.is_completed()
    assert live() == []

    def states() -> list[str]:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=seen)))
        return [str(t.state_name) for t in found if t.name.startswith("deadly")]

    until(lambda: states() == ["Crashed"])


def test_a_launch_that_fails_fails_the_flow_with_the_first_cause(sandbox: Sandbox, live: Live) -> None:
    @flow(task_runner=CoiledTaskRunner(**SMALL, zone="us-east-1a"))
    def squares() -> int:
        return square.submit(2).result()

    sandbox.set(capacity=[{"instance_type": "*", "zone": "*", "free": 0}])
    try:
        state = squares(return_state=True)
    finally:
        sandbox.set(capacity=[])
    assert state.is_failed() or state.is_crashed()
    assert "InsufficientInstanceCapacity" in str(state.result(raise_on_failure=False))
    assert live() == []


FLOW = """
    import json, sys, time
    import prefect_coiled.sandbox.control as control
    info = control.SandboxInfo(**json.loads(sys.argv[1]))
    control.ensure_started = lambda: info
    from prefect import flow, task
    from prefect_coiled import CoiledTaskRunner

    @task
    def slow():
        print("working", flush=True)
        time.sleep(600)

    @flow(task_runner=CoiledTaskRunner(n_workers=1, wait_for_workers=True))
    def long():
        future = slow.submit()
        print("submitted", flush=True)
        future.wait()

    long()
"""


def test_a_flow_that_is_terminated_leaves_no_machine(
    told: str, environ: dict[str, str], live: Live, until: Until
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FLOW), told],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until(lambda: len([i for i in live() if i["State"]["Name"] == "running"]) == 2, 90)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=300)  # Prefect leaves 30 seconds
    finally:
        process.kill()
    assert process.returncode != 0, output
    assert live() == []


@pytest.mark.long
def test_the_demo_gives_the_answer_and_leaves_nothing(tmp_path: Path) -> None:
    """`make demo` but for making the environment, in a state folder of its own."""
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "WARNING"}
    script = [sys.executable, str(ROOT / "flows" / "quickstart.py"), "--workers", "1"]
    try:
        done = subprocess.run(script, env=environ, capture_output=True, text=True, timeout=170, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "336,776 flights" in done.stdout
        told = ["Mean departure delay", "removed", "what pandas makes of all 336,776 flights"]
        places = [done.stdout.index(part) for part in told]
        assert places == sorted(places)
        status = [sys.executable, "-m", "prefect_coiled.cli", "sandbox", "status"]
        shown = subprocess.run(status, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert "0" in shown.stdout
    finally:
        stop = [sys.executable, "-m", "prefect_coiled.cli", "sandbox", "stop"]
        subprocess.run(stop, env=environ, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:4200/api"])
def test_a_remote_cluster_without_the_relay_needs_an_api_that_it_can_reach(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from prefect_coiled.errors import OptionsError
    from prefect_coiled.task_runner.api_url import check_api_url

    with temporary_settings({PREFECT_API_URL: url}), pytest.raises(OptionsError, match="PREFECT_API_URL"):
        check_api_url(shares_loopback=False)

    @flow(task_runner=CoiledTaskRunner(**SMALL, api_relay="never"))
    def squares() -> int:
        return square.submit(2).result()

    # The suite's own server is at a loopback address, which the machines of a real account cannot reach.
    monkeypatch.setattr(Cluster, "shares_loopback", staticmethod(lambda account=None: False))
    sandbox.clear_calls()
    state = squares(return_state=True)
    assert "PREFECT_API_URL" in str(state.result(raise_on_failure=False))
    assert sandbox.calls() == []


@task
def read_s3(bucket: str) -> int:
    import fsspec

    with fsspec.open(f"s3://{bucket}/one.csv") as file:
        return len(file.read())


@pytest.mark.long
def test_a_task_that_may_not_read_a_bucket_says_how_to_let_it(sandbox: Sandbox, until: Until) -> None:
    runs: list[UUID] = []
    sandbox.client("s3").create_bucket(Bucket="somebodys")
    sandbox.client("s3").put_object(Bucket="somebodys", Key="one.csv", Body=b"1,2,3")

    @flow(task_runner=CoiledTaskRunner(**SMALL))
    def reads() -> str:
        runs.append(FlowRunContext.get().flow_run.id)  # type: ignore[union-attr]
        future = read_s3.submit("somebodys")
        future.wait()
        return str(future.state.message)

    # Only what the shipped policy of the machines' role allows.
    sandbox.set(iam="on")
    try:
        message = reads()
    finally:
        sandbox.set(iam="off")
    hint = "role attach-policy arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess --account default"
    assert hint in message

    def told() -> bool:
        wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=runs))
        with get_client(sync_client=True) as client:
            return any(hint in log.message for log in client.read_logs(log_filter=wanted))

    until(told)
