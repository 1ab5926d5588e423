"""Tasks ask the Prefect API through the flow's own process: all that they need."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import Artifact, create_markdown_artifact
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency as aconcurrency
from prefect.concurrency.sync import concurrency, rate_limit
from prefect.context import TaskRunContext
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.settings import (
    get_current_settings,
)
from prefect.variables import Variable

from .conftest import eventually, shown, states_of, task_runs
from .relaying import events_named, logs_of, run

ROOT = Path(__file__).parents[2]


def test_tasks_know_no_way_to_the_api_but_this_machines_forwarder(relayed: Any, client: Any) -> None:
    @task
    def seen() -> tuple[str, str | None, str | None]:
        settings = get_current_settings()
        return str(settings.api.url), settings.ui_url, str(settings.api.key)

    @flow(task_runner=relayed())
    def looks() -> Any:
        return seen.submit().result()

    (url, ui_url, key), id_ = run(looks)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}", url)
    assert key == "None"
    # Where a person finds a run stays what it was.
    assert ui_url == get_current_settings().ui_url
    eventually(
        lambda: (
            "Tasks ask the Prefect API through this process, which keeps its key: api_relay is 'always'"
            in logs_of(client, id_)
        )
    )


def test_tasks_outside_of_a_flow_are_recorded_and_find_nothing_of_others(relayed: Any, client: Any) -> None:
    @flow
    def theirs() -> None:
        get_run_logger().warning("of others")

    @task
    def looks() -> list[int]:
        with get_client(sync_client=True) as api:
            found = (api.read_flow_runs(), api.read_task_runs(), api.request("POST", "/logs/filter").json())
            return [len(one) for one in found]

    _, id_ = run(theirs)
    eventually(lambda: "of others" in logs_of(client, id_))
    with relayed() as runner:
        first = runner.submit(looks, {})
        flow_runs, runs, logs = runner.submit(looks, {}, wait_for=[first]).result()
    assert (flow_runs, logs) == (0, 0)
    assert runs <= 2  # these two
    eventually(lambda: client.read_task_run(first.task_run_id).state.is_completed())


def test_states_and_logs_reach_the_api(relayed: Any, client: Any) -> None:
    @task
    def double(n: int) -> int:
        get_run_logger().warning("logged %d", n)
        return 2 * n

    @flow(task_runner=relayed())
    def doubles() -> list[int]:
        return double.map(range(20)).result()

    value, id_ = run(doubles)
    assert value == [2 * n for n in range(20)]
    shown(id_, double=["Completed"] * 20)
    eventually(lambda: {f"logged {n}" for n in range(20)} <= set(logs_of(client, id_)))
    one = task_runs(id_)[0]
    states = eventually(
        lambda: (s := [x.name for x in client.read_task_run_states(one.id)]) and len(s) >= 3 and s
    )
    assert {"Pending", "Running", "Completed"} <= set(states)


def test_events_of_users_code_reach_the_api_with_their_run(relayed: Any, client: Any) -> None:
    name = f"shop.sold.{secrets.token_hex(4)}"

    @task
    def sell(n: int) -> None:
        emit_event(name, resource={"prefect.resource.id": f"shop.{n}"})

    @flow(task_runner=relayed())
    def sells() -> None:
        sell.map(range(10)).wait()

    _, id_ = run(sells)
    events = eventually(lambda: len(found := events_named(client, name)) == 10 and found)
    related = [{r["prefect.resource.id"] for r in event["related"]} for event in events]
    assert all(f"prefect.flow-run.{id_}" in ids for ids in related)
    assert {event["resource"]["prefect.resource.id"] for event in events} == {f"shop.{n}" for n in range(10)}


def test_variables_blocks_secrets_and_artifacts_are_as_ever(relayed: Any, client: Any) -> None:
    name = secrets.token_hex(4)
    Secret(value="hidden").save(f"relayed-{name}")
    Variable.set(f"relayed_{name}", {"a": 2**60})

    @task
    def uses() -> tuple[Any, ...]:
        made = create_markdown_artifact("# text", key=f"relayed-{name}")
        Variable.set(f"relayed_new_{name}", "new")
        Variable.set(f"relayed_new_{name}", "newer", overwrite=True)
        return (
            Secret.load(f"relayed-{name}").get(),
            Variable.get(f"relayed_{name}"),
            Variable.get(f"relayed_none_{name}", default="default"),
            Artifact.get(f"relayed-{name}").data,
            made,
        )

    @task
    async def uses_async() -> tuple[Any, ...]:
        secret = await Secret.aload(f"relayed-{name}")
        return secret.get(), await Variable.aget(f"relayed_{name}")

    @flow(task_runner=relayed())
    def using() -> Any:
        return uses.submit().result(), uses_async.submit().result()

    (found, found_async), id_ = run(using)
    assert found[:4] == ("hidden", {"a": 2**60}, "default", "# text")
    assert found_async == found[:2]
    assert Variable.get(f"relayed_new_{name}") == "newer"
    body = {"artifacts": {"key": {"any_": [f"relayed-{name}"]}}}
    [artifact] = client.request("POST", "/artifacts/filter", json=body).json()
    assert (artifact["flow_run_id"], artifact["id"]) == (str(id_), str(found[4]))


def test_concurrency_limits_hold(relayed: Any, client: Any) -> None:
    name = f"relayed-{secrets.token_hex(4)}"
    limit = {"name": name, "limit": 1, "active": True}
    rate = {**limit, "name": f"{name}-rate", "slot_decay_per_second": 50.0}
    for body in (limit, rate):
        client.request("POST", "/v2/concurrency_limits/", json=body)

    @task
    def alone() -> tuple[float, float]:
        rate_limit(f"{name}-rate")
        with concurrency(name, occupy=1, strict=True):
            return time.time(), (time.sleep(0.2), time.time())[1]

    @task
    async def alone_async() -> tuple[float, float]:
        async with aconcurrency(name, occupy=1, strict=True):
            began = time.time()
            await asyncio.sleep(0.2)
            return began, time.time()

    @flow(task_runner=relayed())
    def limited() -> Any:
        futures = [alone.submit() for _ in range(2)] + [alone_async.submit() for _ in range(2)]
        return [future.result() for future in futures]

    times, _ = run(limited)
    times.sort()
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(times))
    held = client.request("GET", f"/v2/concurrency_limits/{name}").json()
    assert held["active_slots"] == 0


def test_subflows_of_tasks_and_tasks_of_tasks_are_recorded(relayed: Any, client: Any) -> None:
    @task
    def leaf(n: int) -> tuple[int, str]:
        return n + 1, str(get_current_settings().api.url)

    @flow(name="relayed-child")
    def child(n: int) -> int:
        return leaf(n)[0]

    @task
    def nested(n: int) -> Any:
        value, url = leaf.submit(n).result()
        return child(value), url

    @flow(task_runner=relayed())
    def parent() -> Any:
        return nested.map(range(3)).result()

    value, id_ = run(parent)
    assert [n for n, _ in value] == [2, 3, 4]
    urls = {url for _, url in value}
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
    assert str(get_current_settings().api.url) not in urls
    both = {"nested": ["Completed"] * 3, "leaf": ["Completed"] * 3}
    eventually(lambda: both.items() <= states_of(id_).items())
    children = client.request(
        "POST", "/flow_runs/filter", json={"flows": {"name": {"any_": ["relayed-child"]}}, "limit": 200}
    ).json()
    parents = {str(one.id) for one in task_runs(id_)}
    mine = [one for one in children if one["parent_task_run_id"] in parents]
    assert [one["state_name"] for one in mine] == ["Completed"] * 3
    for one in mine:
        eventually(lambda one=one: states_of(UUID(one["id"])) == {"leaf": ["Completed"]})


def test_async_flows_retries_and_persisted_results(relayed: Any, tmp_path: Path) -> None:
    tried = tmp_path / "tried"

    @task(retries=2, retry_delay_seconds=0, persist_result=True)
    async def second_time() -> str:
        if not tried.exists():
            tried.touch()
            raise RuntimeError("the first time")
        return "kept"

    @flow(task_runner=relayed())
    async def tries() -> tuple[str, UUID]:
        future = second_time.submit()
        return await asyncio.to_thread(future.result), UUID(flow_run.id)

    value, id_ = asyncio.run(tries())
    assert value == "kept"
    eventually(lambda: states_of(id_) == {"second_time": ["Completed"]})


def test_a_plain_client_in_a_task_reads_what_is_the_flow_runs(relayed: Any) -> None:
    @task
    def reads() -> tuple[Any, ...]:
        run = TaskRunContext.get()
        assert run is not None
        id_ = run.task_run.flow_run_id
        with get_client(sync_client=True) as client:
            return (
                client.hello().status_code,
                client.read_flow_run(id_).id == id_,
                [found.id for found in client.read_flow_runs()],
                len({found.flow_run_id for found in client.read_task_runs()}),
            )

    @flow(task_runner=relayed())
    def reading() -> Any:
        return reads.submit().result()

    (hello, own, runs, of), id_ = run(reading)
    # Of all the flow runs that the server has, its own alone.
    assert (hello, own, set(runs) <= {id_}, of <= 1) == (200, True, True, True)
