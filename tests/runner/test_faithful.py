"""What Prefect promises of tasks, in the shapes and situations that people report: as with threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span
from prefect import allow_failure, flow, get_run_logger, tags, task
from prefect.assets import Asset, materialize
from prefect.futures import wait
from prefect.settings import PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.transactions import atransaction, transaction

from prefect_coiled.errors import OptionsError
from prefect_coiled.task_runner import CoiledTaskRunner

from .conftest import eventually, states_of, task_runs


@task
def slow() -> float:
    time.sleep(0.7)
    return time.time()


@task
def fails() -> None:
    raise ValueError("as planned")


@task
def now(x: Any = None) -> float:
    return time.time()


SHAPES: dict[str, Callable[[Any], Any]] = {
    "one": lambda f: f,
    "list": lambda f: [f],
    "dictionary": lambda f: {"a": f},
    "nested": lambda f: [[f], {"b": (f,)}],
    "set": lambda f: {f},
    "generator": lambda f: (each for each in [f]),
}


def test_a_task_waits_for_every_shape_of_wait_for(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def waits() -> None:
        for name, shape in SHAPES.items():
            first = slow.submit()
            after = now.submit(wait_for=shape(first))
            assert after.result() > first.result(), name
        first = slow.submit()
        assert min(now.map([1, 2], wait_for=first).result()) > first.result()

    waits()


def test_a_task_that_waits_for_a_failed_one_runs_where_that_is_allowed(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def waits() -> list[str]:
        first = fails.submit()
        allowed = now.submit(wait_for=allow_failure(first))
        among_others = now.submit(wait_for=[allow_failure(first)])
        refused = now.submit(wait_for=first)
        for future in (allowed, among_others, refused):
            future.wait()
        return [allowed.state.name, among_others.state.name, refused.state.name]

    assert waits() == ["Completed", "Completed", "NotReady"]


def test_assets_that_a_task_waits_for_are_upstream_of_its_own(runner: CoiledTaskRunner) -> None:
    raw, refined = Asset(key="s3://bucket/raw"), Asset(key="s3://bucket/refined")

    @materialize(raw)
    def extract() -> int:
        return 1

    @materialize(refined)
    def refine() -> list[str]:
        from prefect.context import AssetContext

        context = AssetContext.get()
        assert context is not None
        return sorted(asset.key for asset in context.upstream_assets)

    @flow(task_runner=runner)
    def pipeline() -> list[str]:
        found: list[str] = refine.submit(wait_for=[extract.submit()]).result()
        return found

    assert pipeline() == [raw.key]


def test_a_synchronous_task_ends_soon_after_its_timeout_though_it_does_not_come_back(
    runner: CoiledTaskRunner,
) -> None:
    @task(timeout_seconds=1)
    def hangs() -> None:
        now()  # a task of its own run, which is over when this one hangs
        time.sleep(25)

    @task(timeout_seconds=20)
    def in_time(n: int) -> int:
        # It has the worker's place: it may give it back to a task that it waits for.
        return now.submit().result() > 0 and n

    told: dict[str, Any] = {}

    @flow(task_runner=runner)
    def waits() -> Any:
        from prefect.runtime import flow_run

        told["id"] = flow_run.id
        others = in_time.map(range(6))
        begun = time.monotonic()
        future = hangs.submit()
        future.wait()
        told["seconds"] = time.monotonic() - begun
        return others.result(), future.state.name

    numbers, name = waits()
    assert numbers == list(range(6))
    assert name == "TimedOut"
    assert told["seconds"] < 20
    eventually(lambda: states_of(told["id"])["hangs"] == ["TimedOut"])


@pytest.mark.long
def test_a_worker_whose_thread_does_not_come_back_is_replaced_and_its_results_are_kept(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security, tmp_path: Path
) -> None:
    def be_quick() -> None:
        from prefect_coiled.task_runner import renewal

        renewal.BACK = renewal.AGAIN = 1.0

    @task(timeout_seconds=0.5)
    def hangs(told: Path) -> None:
        told.write_text(str(os.getpid()))
        time.sleep(600)

    @task
    def large(size: int) -> bytes:
        return bytes(size)

    @task
    def busy(n: int) -> int:
        (tmp_path / f"{n}-{os.getpid()}").touch()
        time.sleep(4)
        return n

    @flow(task_runner=runner)
    def goes_on() -> Any:
        with Client(dask_cluster.scheduler_address, security=security) as client:
            client.run(be_quick)
            before = set(client.run(os.getpid).values())
            results = large.map([200_000] * 8)
            results.wait()
            hangs.submit(tmp_path / "pid").wait()
            others = busy.map(range(4))
            stuck = int((tmp_path / "pid").read_text())
            after = eventually(
                lambda: len(pids := _processes(client)) == len(before) and pids - {stuck} == pids
            )
            return after, [len(result) for result in results.result()], others.result()

    assert goes_on() == (True, [200_000] * 8, [0, 1, 2, 3])
    # What else ran there has ended first: none began again in another process.
    assert len(list(tmp_path.glob("[0-9]-*"))) == 4


def _processes(client: Client) -> set[int]:
    return set(client.run(os.getpid, on_error="ignore").values())


@pytest.mark.parametrize("ending", ["raises", "fails"])
def test_a_transaction_whose_task_fails_rolls_back_what_its_others_did(
    runner: CoiledTaskRunner, tmp_path: Path, ending: str
) -> None:
    @task
    def write(folder: Path) -> None:
        from prefect.transactions import get_transaction

        (folder / "written").touch()
        mine = get_transaction()
        assert mine is not None
        assert mine.get("greeting") == "hello"
        mine.set("path", folder / "written")

    undone: list[str] = []

    @write.on_rollback
    def undo(txn: Any) -> None:
        get_run_logger().info("hooks are the flow's, and log in its run")
        undone.append(txn.get("path").name)
        txn.get("path").unlink()

    @flow(task_runner=runner)
    def writes() -> None:
        with transaction() as outer:
            outer.set("greeting", "hello")
            write.submit(tmp_path).result()
            assert (tmp_path / "written").exists()
            if ending == "raises":
                raise ValueError("as planned")
            fails.submit().wait()
            assert not (tmp_path / "written").exists()

    writes(return_state=True)
    assert undone == ["written"]


async def test_an_async_transaction_whose_task_fails_rolls_back_what_its_others_did(
    runner: CoiledTaskRunner,
) -> None:
    undone: list[str] = []

    @task
    def does() -> None: ...

    @does.on_rollback
    def undo(txn: Any) -> None:
        get_run_logger().info("hooks are the flow's, and log in its run")
        undone.append("does")

    @flow(task_runner=runner)
    async def two() -> list[str]:
        async with atransaction():
            does.submit().wait()
            fails.submit().wait()
            return list(undone)

    assert await two() == ["does"]


@pytest.mark.long
def test_a_task_within_a_transaction_may_submit_tasks_and_run_flows(runner: CoiledTaskRunner) -> None:
    @task
    def inner(n: int) -> int:
        return n + 1

    @flow(task_runner=runner)
    def nested(n: int) -> int:
        return inner.submit(n).result()

    @task
    def outer(n: int) -> tuple[int, int]:
        return inner.submit(n).result(), nested(n)

    @flow(task_runner=runner)
    def wraps() -> tuple[int, int]:
        with transaction():
            found: tuple[int, int] = outer.submit(1).result()
            return found

    assert wraps() == (2, 2)


def test_a_transaction_that_ends_well_is_committed_with_its_results(
    runner: CoiledTaskRunner, tmp_path: Path
) -> None:
    committed: list[str] = []
    runs = tmp_path / "runs"

    @task(persist_result=True, result_storage_key=f"kept-{tmp_path.name}")
    def work() -> int:
        with open(runs, "a") as file:
            file.write("x")
        return 5

    @work.on_commit
    def note(txn: Any) -> None:
        committed.append("committed")

    @flow(task_runner=runner)
    def works() -> int:
        with transaction():
            found: int = work.submit().result()
            before.append(list(committed))
        return found

    before: list[list[str]] = []
    assert works() == 5
    assert (before, committed) == ([[]], ["committed"])
    # What is committed is read from there, by the next flow run.
    assert works() == 5
    assert runs.read_text() == "x"


def test_tags_say_to_dask_where_a_task_runs_and_how_soon(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security
) -> None:
    with Client(dask_cluster.scheduler_address, security=security) as client:
        chosen = next(iter(client.scheduler_info(n_workers=-1)["workers"]))

    @task
    def where() -> tuple[str, Any]:
        from distributed import get_worker

        worker = get_worker()
        return worker.address, worker.state.tasks[worker.get_current_task()].priority[0]

    @flow(task_runner=runner)
    def only() -> set[Any]:
        tagged = where.with_options(tags=[f"dask:workers={chosen}", "dask:priority=7"])
        with pytest.raises(OptionsError, match=r"tag 'dask:prority=7' of task 'where': is not known"):
            where.with_options(tags=["dask:prority=7"]).submit()
        return {future.result() for future in [tagged.submit() for _ in range(3)]}

    assert only() == {(chosen, -7)}


@pytest.mark.parametrize("which", ["threads", "ours"])
def test_tasks_are_in_the_trace_of_their_flow_and_their_states_say_so(
    runner: CoiledTaskRunner, which: str
) -> None:
    @task
    def plain() -> int:
        return 42

    @task
    def nested() -> str | None:
        below = plain.submit()
        below.wait()
        return below.state.state_details.traceparent

    @flow(task_runner=ThreadPoolTaskRunner() if which == "threads" else runner)
    def traced() -> list[str | None]:
        done, failed, both = plain.submit(), fails.submit(), nested.submit()
        wait([done, failed, both])
        states = [done.state, failed.state, both.state]
        return [both.result(), *(state.state_details.traceparent for state in states)]

    span = NonRecordingSpan(SpanContext(0xC0FFEE, 0xBEE, is_remote=False, trace_flags=TraceFlags(1)))
    with temporary_settings({PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY: True}), use_span(span):
        told = traced()
    assert told == [f"00-{0xC0FFEE:032x}-{0xBEE:016x}-01"] * 4


@pytest.mark.parametrize("which", ["threads", "ours"])
def test_the_api_shows_which_tasks_a_task_takes_from_and_its_tags(
    runner: CoiledTaskRunner, which: str
) -> None:
    @task(task_run_name="{name}")
    def takes(name: str, x: Any = None, *more: Any, **others: Any) -> Any:
        return x

    @flow
    def child(x: int) -> int:
        return x

    told: dict[str, Any] = {}

    @flow(task_runner=ThreadPoolTaskRunner() if which == "threads" else runner)
    def takes_from_each_other() -> None:
        from prefect.runtime import flow_run

        told["id"] = flow_run.id
        with tags("a", "b"):
            first = takes.submit("first", 1)
        second = takes.submit("second", x=first)
        deep = takes.submit("deep", [first, {"s": (second, first)}], second, k={first})
        mapped = takes.map(["m1", "m2"], x=[first, second])
        below = takes.map(["n1", "n2"], x=mapped)
        of_flow = takes.submit("of a flow", child(1, return_state=True))
        waits = takes.submit("waits", wait_for={"w": [first, mapped]})
        wait([deep, *below, of_flow, waits])

    takes_from_each_other()
    runs = eventually(lambda: all_ended(told["id"], 9))
    names = {run.id: run.name for run in runs}

    def shown(run: Any) -> dict[str, list[str]]:
        # A flow that is called here is a task run too, with a name of its own.
        return {n: sorted(names.get(one.id, "a flow") for one in v) for n, v in run.task_inputs.items()}

    alone: dict[str, list[str]] = {"name": [], "x": [], "more": [], "others": []}
    assert {run.name: shown(run) for run in runs if not run.name.startswith("child")} == {
        "first": alone,
        "second": {**alone, "x": ["first"]},
        "deep": {**alone, "x": ["first", "second"], "more": ["second"], "others": ["first"]},
        "m1": {"name": [], "x": ["first"]},
        "m2": {"name": [], "x": ["second"]},
        "n1": {"name": [], "x": ["m1"]},
        "n2": {"name": [], "x": ["m2"]},
        "of a flow": {**alone, "x": ["a flow"]},
        "waits": {**alone, "wait_for": ["first", "m1", "m2"]},
    }
    assert {run.name: set(run.tags) for run in runs if run.tags} == {"first": {"a", "b"}}


def all_ended(flow_run_id: Any, number: int) -> list[Any]:
    """The task runs of a flow run, without flows that it calls, once so many have ended."""
    found = [run for run in task_runs(flow_run_id) if not (run.name or "").startswith("child")]
    return (
        found if [run.state is not None and run.state.is_final() for run in found] == [True] * number else []
    )


def test_a_list_of_what_a_task_waits_for_is_taken_as_it_is_when_the_task_is_submitted(
    runner: CoiledTaskRunner,
) -> None:
    @flow(task_runner=runner)
    def queue() -> list[float]:
        before: list[Any] = []
        for _ in range(3):
            before.append(now.submit(wait_for=before))
        return [future.result() for future in before]

    # With threads the third would wait for itself.
    ended = queue()
    assert ended == sorted(ended)


def test_a_task_that_was_given_up_is_not_tried_again_and_its_hook_is_called_at_once(
    runner: CoiledTaskRunner, tmp_path: Path
) -> None:
    def note(task: Any, run: Any, state: Any) -> None:
        with (tmp_path / "noted").open("a") as file:
            file.write(f"{run.id} {state.name} {task.retries}\n")

    @task
    def is_at_it(seconds: float) -> bool:
        time.sleep(seconds)  # so that each worker has some
        return any(thread.name == "prefect-coiled-task" for thread in threading.enumerate())

    @task(timeout_seconds=0.5, retries=2, on_failure=[note])
    def charges(seconds: float) -> None:
        with (tmp_path / "charged").open("a") as file:
            file.write("once\n")
        try:
            time.sleep(seconds)
        finally:
            (tmp_path / "came-back").touch()

    @flow(task_runner=runner)
    def pays() -> Any:
        future = charges.submit(6.0)
        future.wait()
        noted = (tmp_path / "noted").read_text()
        assert not (tmp_path / "came-back").exists()
        eventually((tmp_path / "came-back").exists)
        eventually(lambda: not any(is_at_it.map([0.5] * 4).result()))
        return future.task_run_id, noted

    run, noted = pays()
    assert noted == f"{run} TimedOut 2\n"
    assert (tmp_path / "noted").read_text() == noted
    assert (tmp_path / "charged").read_text() == "once\n"


def test_a_transaction_whose_task_fails_though_nobody_waited_for_it_is_not_committed(
    runner: CoiledTaskRunner,
) -> None:
    told: list[str] = []

    @task
    def fails() -> None:
        raise ValueError("mine")

    @flow(task_runner=runner)
    def writes() -> str:
        with transaction() as whole:
            whole.stage("x", on_commit_hooks=[lambda txn: told.append("committed")])
            fails.submit()
        return whole.state.name

    assert writes() == "ROLLED_BACK"
    assert told == []
