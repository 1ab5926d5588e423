"""No silent loss: every task ends in one terminal state, and a flow that lost one says so."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import get_run_context
from prefect.futures import as_completed, wait

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.lost_tasks import Ended, crashed, report

from .conftest import eventually, flow_run_state, states_of


@task
def die() -> None:
    os._exit(1)


@task
def live(x: Any = None) -> str:
    return "alive"


def run(a_flow: Any, of: int = 1) -> tuple[Any, str, dict[str, list[str]]]:
    """Run a flow of so many tasks; give its state, and the server's view once it knows how each has ended."""
    state = a_flow(return_state=True)
    flow_run_id = state.state_details.flow_run_id
    terminal = {"Completed", "Crashed", "Failed", "Cancelled", "NotReady"}

    def all_ended() -> dict[str, list[str]] | None:
        states = states_of(flow_run_id)
        listed = [one for of_task in states.values() for one in of_task]
        return states if len(listed) == of and terminal.issuperset(listed) else None

    tasks = eventually(all_ended)
    return state, flow_run_state(flow_run_id), tasks


def test_a_lost_task_raises_from_result_and_fails_the_flow(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def asks() -> None:
        die.submit().result()

    state, on_server, tasks = run(asks)
    assert on_server == "Failed"
    assert tasks == {"die": ["Crashed"]}
    with pytest.raises(TaskLostError, match="Dask gave up on task 'die'"):
        state.result()


@pytest.mark.long
def test_a_lost_task_that_is_only_waited_for_fails_the_flow(runner: CoiledTaskRunner) -> None:
    seen: list[str] = []

    @flow(task_runner=runner)
    def waits() -> str:
        futures = [die.submit()]
        wait(futures)
        seen.extend(f.state.name for f in futures)
        return "fine"

    state, on_server, tasks = run(waits)
    assert (on_server, tasks, seen) == ("Failed", {"die": ["Crashed"]}, ["Crashed"])
    with pytest.raises(TaskLostError):
        state.result()


@pytest.mark.long
def test_a_lost_task_that_nobody_waits_for_fails_the_flow(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def forgets() -> None:
        die.submit()

    _, on_server, tasks = run(forgets)
    assert (on_server, tasks) == ("Failed", {"die": ["Crashed"]})


@pytest.mark.long
async def test_an_async_flow_that_forgets_a_lost_task_fails(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    async def forgets() -> None:
        die.submit()

    state = await forgets(return_state=True)
    assert state.is_failed()
    assert "Dask gave up" in state.message
    assert flow_run_state(state.state_details.flow_run_id) == "Failed"


@pytest.mark.long
def test_a_returned_future_of_a_lost_task_fails_the_flow_by_prefects_own_rule(
    runner: CoiledTaskRunner,
) -> None:
    @flow(task_runner=runner)
    def returns() -> Any:
        return die.submit()

    state, on_server, tasks = run(returns)
    assert (on_server, tasks) == ("Crashed", {"die": ["Crashed"]})
    assert "Dask gave up" in state.message


@pytest.mark.long
def test_what_depends_on_a_lost_task_is_crashed_too(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def chain() -> None:
        first = die.submit()
        by_argument = live.submit(first)
        live.with_options(name="after").submit(wait_for=[first])
        live.with_options(name="third").submit(by_argument)

    state, on_server, tasks = run(chain, of=4)
    assert on_server == "Failed"
    assert tasks == {k: ["Crashed"] for k in ("die", "live", "after", "third")}
    assert "4 tasks were lost" in state.message


@pytest.mark.long
def test_a_flow_that_was_handed_the_error_may_go_on(runner: CoiledTaskRunner) -> None:
    @flow(task_runner=runner)
    def copes() -> str:
        try:
            die.submit().result()
        except TaskLostError:
            return live.submit().result()
        return "not lost"

    state, on_server, tasks = run(copes, of=2)
    assert (on_server, tasks) == ("Completed", {"die": ["Crashed"], "live": ["Completed"]})
    assert state.result() == "alive"


def test_mapped_tasks_report_the_lost_one_and_keep_the_others(runner: CoiledTaskRunner) -> None:
    @task
    def maybe(n: int) -> int:
        if n == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    @flow(task_runner=runner)
    def maps() -> int:
        good = maybe.map([0, 1, 2])
        wait(good)
        bad = maybe.map([3])
        return len(list(as_completed([*good, *bad])))

    _, on_server, tasks = run(maps, of=4)
    assert (on_server, tasks) == ("Failed", {"maybe": ["Completed"] * 3 + ["Crashed"]})


@pytest.mark.long
def test_without_a_flow_a_lost_task_raises_unless_it_was_waited_for(runner: CoiledTaskRunner) -> None:
    with runner.duplicate() as waiting:
        future = waiting.submit(die, {})
        future.wait()
        assert future.state.is_crashed()
    with pytest.raises(TaskLostError), runner.duplicate() as careless:
        careless.submit(die, {})


@pytest.mark.long
def test_what_has_completed_stays_so_though_its_result_is_lost(runner: CoiledTaskRunner) -> None:
    runs: list[Any] = []

    @flow(task_runner=runner)
    def completes() -> None:
        future = live.submit()
        future.wait()
        runs.append(future.task_run_id)

    _, _, tasks = run(completes)
    assert tasks == {"live": ["Completed"]}
    report([Ended(live, runs[0], crashed(TaskLostError("a result", "it is lost")))])
    with get_client(sync_client=True) as client:
        assert client.read_task_run(runs[0]).state.is_completed()


@pytest.mark.long
def test_a_flow_ends_only_after_the_tasks_it_forgot(runner: CoiledTaskRunner) -> None:
    @task
    def slow() -> None:
        time.sleep(1.5)

    @flow(task_runner=runner)
    def forgets() -> None:
        for _ in range(3):
            slow.submit()

    _, on_server, tasks = run(forgets, of=3)
    assert (on_server, tasks) == ("Completed", {"slow": ["Completed"] * 3})


@pytest.mark.long
def test_a_task_that_fails_by_itself_keeps_prefects_rules(runner: CoiledTaskRunner) -> None:
    @task
    def fails() -> None:
        raise ValueError("mine")

    @flow(task_runner=runner)
    def looks_away() -> str:
        first = fails.submit()
        live.submit(first)
        return "fine"

    _, on_server, tasks = run(looks_away, of=2)
    assert (on_server, tasks) == ("Completed", {"fails": ["Failed"], "live": ["NotReady"]})


@pytest.mark.long
def test_tasks_that_a_failing_flow_leaves_behind_are_cancelled(runner: CoiledTaskRunner) -> None:
    @task
    def slow() -> None:
        time.sleep(15)

    @flow(task_runner=runner)
    def breaks() -> None:
        for _ in range(6):
            slow.submit()
        raise RuntimeError("no more")

    _, on_server, tasks = run(breaks, of=6)
    assert on_server == "Failed"
    # Dask cannot interrupt what runs already, and this cluster outlives the flow: such a task may
    # yet report its own end. The two that had no thread to run in never start.
    assert len(tasks["slow"]) == 6
    assert set(tasks["slow"]) <= {"Cancelled", "Completed"}
    assert tasks["slow"].count("Cancelled") >= 2


def test_a_task_that_ended_while_the_flow_had_lost_the_scheduler_shows_what_it_came_to(
    runner: CoiledTaskRunner, tmp_path: Any
) -> None:
    @task
    def works(n: int) -> int:
        (tmp_path / f"began-{n}").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.02)
        (tmp_path / f"ended-{n}").touch()
        return n

    def all_have(what: str) -> bool:
        return len(list(tmp_path.glob(f"{what}-*"))) == 4

    @flow(task_runner=runner)
    def working() -> list[int]:
        client = get_run_context().task_runner.client  # type: ignore[union-attr]
        futures = works.map(range(4))
        eventually(lambda: all_have("began"))
        client.loop.add_callback(client.scheduler_comm.comm.abort)
        eventually(lambda: futures[0].wrapped_future.status == "cancelled")
        # Dask's client cannot be told anything while it connects again.
        eventually(lambda: client.status == "running")
        (tmp_path / "go").touch()
        eventually(lambda: all_have("ended"))
        return futures.result()

    _, on_server, tasks = run(working, of=4)
    # News of an end may have come first, and with it what is tiny.
    assert on_server in ("Failed", "Completed")
    assert tasks == {"works": ["Completed"] * 4}
