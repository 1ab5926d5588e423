"""When a runner makes its cluster, in which context, and how it goes away."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import cloudpickle
import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.context import get_run_context
from prefect.transactions import transaction

from prefect_coiled.errors import OptionsError
from prefect_coiled.task_runner import CoiledTaskRunner

from .conftest import eventually, flow_run_state, states_of

events: list[str] = []
PARENTS: dict[str, list[Any]] = {}


# Of tasks, which run in threads of this process: what they wait for, and what says that they do.
held: dict[str, tuple[threading.Event, threading.Event]] = {}


@pytest.fixture(autouse=True)
def _fresh_events() -> None:
    events.clear()


class Provisioned(LocalCluster):
    """A cluster of threads whose making and closing are flows, as those of `Cluster` are."""

    def __init__(
        self, fail: str = "", delay: float = 0, stop: threading.Event | None = None, n_workers: int = 1
    ) -> None:
        self.told_to_stop = stop

        @flow(name="provision", persist_result=False)
        def provision() -> None:
            events.append(f"provision in {threading.current_thread().name}")
            if stop is not None and stop.wait(delay):
                raise RuntimeError("stopped while provisioning")
            if fail:
                raise RuntimeError(fail)

        provision()
        security = Security.temporary()
        super().__init__(
            n_workers=n_workers,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            protocol="tls://",
            security=security,
        )

    def close(self, timeout: float | None = None) -> Any:
        if "closed" not in events:

            @flow(name="teardown", persist_result=False)
            def teardown() -> None:
                events.append("closed")

            teardown()
        return super().close(timeout)


def subflows(flow_run_id: Any) -> dict[str, str]:
    with get_client(sync_client=True) as client:
        children = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
        )
        return {
            client.read_flow(c.flow_id).name: c.state.name if c.state and c.state.name else ""
            for c in children
        }


def make(**kwargs: Any) -> CoiledTaskRunner:
    return CoiledTaskRunner(cluster_class=Provisioned, cluster_kwargs=kwargs)


@task
def add(x: int, y: int = 1) -> int:
    return x + y


def test_provisioning_and_teardown_are_subflows_of_the_flow_run() -> None:
    @flow(task_runner=make())
    def adds() -> int:
        return add.submit(1).result()

    state = adds(return_state=True)
    assert state.result() == 2
    assert subflows(state.state_details.flow_run_id) == {"provision": "Completed", "teardown": "Completed"}


async def test_in_an_async_flow_they_are_subflows_too_and_the_loop_goes_on() -> None:
    beats: list[float] = []

    async def beat() -> None:
        while True:
            beats.append(time.monotonic())
            await asyncio.sleep(0.05)

    @flow(task_runner=make(delay=1.5))
    async def adds() -> int:
        beating = asyncio.create_task(beat())
        await asyncio.sleep(0)
        first = add.submit(1)
        second = add.submit(first)
        await asyncio.sleep(1.4)
        beating.cancel()
        return second.result()

    state = await adds(return_state=True)
    assert await state.result() == 3
    assert subflows(state.state_details.flow_run_id) == {"provision": "Completed", "teardown": "Completed"}
    assert max(b - a for a, b in itertools.pairwise(beats)) < 1.0


def test_a_flow_without_tasks_makes_no_cluster() -> None:
    @flow(task_runner=make())
    def nothing() -> int:
        return 1

    assert nothing() == 1
    assert events == []


def test_a_cluster_without_workers_is_told_before_tasks_wait_in_it(caplog: pytest.LogCaptureFixture) -> None:
    @flow(task_runner=make(n_workers=0))
    def adds() -> int:
        future = add.submit(1)
        get_run_context().task_runner._cluster.scale(1)
        return future.result()

    assert adds() == 2
    told = [line for line in caplog.messages if "has no workers" in line]
    assert told == ["The cluster has no workers: tasks wait until somebody scales it (`n_workers`)."]


def test_a_cluster_that_cannot_be_made_fails_the_flow_with_the_first_cause() -> None:
    @flow(task_runner=make(fail="no such zone"))
    def adds() -> int:
        return add.submit(1).result()

    state = adds(return_state=True)
    assert state.is_failed()
    assert "no such zone" in state.message
    assert subflows(state.state_details.flow_run_id) == {"provision": "Failed"}


async def test_an_async_flow_that_forgot_its_tasks_fails_with_the_first_cause() -> None:
    @flow(task_runner=make(fail="no such zone"))
    async def adds() -> None:
        add.submit(1)

    state = await adds(return_state=True)
    assert state.is_failed()
    assert "no such zone" in state.message
    assert flow_run_state(state.state_details.flow_run_id) == "Failed"
    flow_run_id = state.state_details.flow_run_id
    eventually(lambda: states_of(flow_run_id) == {"provision": ["Failed"], "add": ["Crashed"]})


async def test_a_callback_that_fails_keeps_no_other_task_from_hearing_that_there_is_no_cluster() -> None:
    seen: list[bool] = []

    @flow(task_runner=make(fail="no such zone"))
    async def asks() -> None:
        first, second = add.submit(1), add.submit(2)
        first.add_done_callback(lambda future: future.result())  # it has none, and raises that
        await asyncio.to_thread(second.wait, 20)
        seen.extend(one.done for one in (first, second))

    assert (await asks(return_state=True)).is_failed()
    assert seen == [True, True]


@pytest.mark.long
def test_each_retry_of_a_flow_gets_a_cluster_and_closes_it() -> None:
    attempts: list[int] = []

    @flow(task_runner=make(), retries=1)
    def flaky() -> int:
        attempts.append(add.submit(1).result())
        if len(attempts) == 1:
            events.remove("closed") if "closed" in events else None
            raise RuntimeError("once more")
        return 7

    assert flaky() == 7
    assert len([e for e in events if e.startswith("provision")]) == 2


def test_nested_flows_that_share_a_runner_each_have_a_cluster() -> None:
    shared = make()

    @flow(task_runner=shared)
    def inner() -> int:
        return add.submit(10).result()

    @flow(task_runner=shared)
    def outer() -> int:
        return add.submit(inner()).result()

    assert outer() == 12
    assert len([e for e in events if e.startswith("provision")]) == 2


def test_a_flow_timeout_while_provisioning_stops_it() -> None:
    @flow(task_runner=make(delay=60), timeout_seconds=1)
    def impatient() -> None:
        add.submit(1)

    started = time.monotonic()
    state = impatient(return_state=True)
    assert state.name == "TimedOut"
    assert time.monotonic() - started < 15
    children = subflows(state.state_details.flow_run_id)
    assert children == {"provision": "Failed"}


def test_an_async_flow_that_times_out_as_its_end_waits_for_tasks_closes_the_cluster() -> None:
    free, runs = threading.Event(), threading.Event()
    held[str(id(free))] = free, runs

    @task
    def waits(name: str) -> None:
        held[name][1].set()
        held[name][0].wait(10)  # Dask's workers wait for their threads as they close

    @flow(task_runner=make(), timeout_seconds=4)
    async def ends_early() -> None:
        assert add.submit(1).result() == 2
        waits.submit(str(id(free)))  # returns, and its end waits in a thread of its own

    try:
        state = asyncio.run(ends_early(return_state=True))
    finally:
        free.set()
    assert (state.name, runs.is_set()) == ("TimedOut", True)
    assert events[-1] == "closed"


def test_a_transaction_that_bears_a_cluster_that_did_not_come_up_ends() -> None:
    said: list[str] = []

    @flow(task_runner=make(fail="no capacity"))
    def bears() -> str:
        with transaction():
            try:
                add.submit(1)
            except RuntimeError as error:
                said.append(str(error))
        return "went on"

    assert bears() == "went on"
    assert said == ["no capacity"]


def test_an_interrupt_closes_the_cluster() -> None:
    ids: list[Any] = []

    @flow(task_runner=make())
    def interrupted() -> None:
        ids.append(get_run_context().flow_run.id)
        add.submit(1).result()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "closed" in events
    assert flow_run_state(ids[0]) == "Crashed"
    assert subflows(ids[0]) == {"provision": "Completed", "teardown": "Completed"}


def test_a_running_cluster_is_used_by_duplicates_and_left_running() -> None:
    with Provisioned() as cluster:

        @flow(task_runner=CoiledTaskRunner(cluster=cluster))
        def adds() -> int:
            return add.submit(1).result()

        assert adds() == 2
        assert cluster.status.name == "running"


def test_duplicates_are_equal_and_other_configurations_are_not() -> None:
    a = CoiledTaskRunner(n_workers=3, account="team", backend_options={"spot": True})
    assert a.duplicate() == a
    assert a.duplicate() is not a
    assert a != CoiledTaskRunner(n_workers=4, account="team", backend_options={"spot": True})
    assert a != object()
    assert CoiledTaskRunner(address="tls://1.2.3.4:8786") != a
    assert CoiledTaskRunner(performance_report_path="a") != CoiledTaskRunner()


def test_the_pickle_holds_configuration_and_no_keys() -> None:
    security = Security.temporary()
    runner = CoiledTaskRunner(address="tls://1.2.3.4:8786", client_kwargs={"security": security})
    data = cloudpickle.dumps(runner)
    assert b"PRIVATE KEY" not in data
    again = cloudpickle.loads(data)
    assert again.address == runner.address
    assert again.client_kwargs == {"set_as_default": False}


def test_nothing_of_the_configuration_travels_with_a_task() -> None:
    from prefect_coiled.task_runner.shipping import dumps

    @flow(task_runner=CoiledTaskRunner(n_workers=2, environ={"TOKEN": "canary"}))
    def a_flow() -> None: ...

    assert b"canary" not in dumps(a_flow)


def test_a_runner_of_a_live_cluster_refuses_to_work_in_another_process() -> None:
    with Provisioned() as cluster:
        again = cloudpickle.loads(cloudpickle.dumps(CoiledTaskRunner(cluster=cluster)))
    with again, pytest.raises(OptionsError, match="another process"):
        again.client  # noqa: B018


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"n_worker": 3}, "Did you mean 'n_workers'"),
        ({"colour": "red"}, "unexpected keyword 'colour'"),
        ({"cluster_kwargs": {"n_worker": 3}}, "Did you mean 'n_workers'"),
        ({"cluster_kwargs": {"asynchronous": True}}, "cannot set `asynchronous`"),
        ({"client_kwargs": {"asynchronous": True}}, "cannot set `asynchronous`"),
        ({"adapt_kwargs": {"minimun": 1}}, "Did you mean 'minimum'"),
        ({"client_kwargs": {"timeot": 1}}, "Did you mean 'timeout'"),
        (
            {"address": "tls://a:1", "client_kwargs": {"set_as_defualt": True}},
            "Did you mean 'set_as_default'",
        ),
        ({"address": "tls://a:1", "n_workers": 2}, "n_workers together with"),
        ({"address": "tls://a:1", "cluster_class": LocalCluster}, "Cannot specify `address`"),
    ],
)
def test_wrong_arguments_are_refused_at_once(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CoiledTaskRunner(**kwargs)


@pytest.mark.long
def test_no_thread_of_a_closed_runner_is_left() -> None:
    @flow(task_runner=make())
    def adds() -> int:
        return add.submit(1).result()

    adds()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "prefect-coiled-open"])
    assert distributed.client._get_global_client() is None
