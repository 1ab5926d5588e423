"""Tasks ask the Prefect API through the flow's own process: all that they need, and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.artifacts import Artifact, create_markdown_artifact
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.concurrency.asyncio import concurrency as aconcurrency
from prefect.concurrency.sync import concurrency, rate_limit
from prefect.context import TaskRunContext, get_run_context
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    get_current_settings,
    temporary_settings,
)
from prefect.variables import Variable

from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.parcel import FlowRunParcel
from prefect_coiled.task_runner.recording import wait_until_recorded

from .conftest import FAST, eventually, flow_run_state, states_of, task_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def relayed(dask_cluster: LocalCluster, security: Security) -> Callable[..., CoiledTaskRunner]:
    """Makes runners on the shared cluster whose tasks ask through the flow's process."""

    def make(**more: Any) -> CoiledTaskRunner:
        dask_cluster.sync(dask_cluster._correct_state)
        kwargs = {"client_kwargs": {"security": security}, "api_relay": "always", **more}
        return CoiledTaskRunner(address=dask_cluster.scheduler_address, **kwargs)

    return make


@pytest.fixture
def client() -> Iterator[Any]:
    with get_client(sync_client=True) as made:
        yield made


def run(a_flow: Any, *arguments: Any) -> tuple[Any, UUID]:
    """Run a flow; what it returned, and its id, once the API has all of its tasks as ended."""
    state = a_flow(*arguments, return_state=True)
    id_ = state.state_details.flow_run_id
    value = state.result()
    eventually(lambda: all(s == "Completed" for found in states_of(id_).values() for s in found))
    return value, id_


def logs_of(client: Any, id_: UUID) -> list[str]:
    filter_ = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[id_]))
    return [line.message for line in client.read_logs(filter_, limit=200)]


def events_named(client: Any, name: str) -> list[dict[str, Any]]:
    body = {"filter": {"event": {"name": [name]}}, "limit": 50}
    return list(client.request("POST", "/events/filter", json=body).json()["events"])


def what_refused(call: Callable[[], Any]) -> tuple[int, str]:
    try:
        call()
    except PrefectHTTPStatusError as error:
        return error.response.status_code, str(error.response.json()["detail"])
    return 0, "let through"


# What tasks do


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
    assert states_of(id_) == {"double": ["Completed"] * 20}
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
    assert states_of(id_)["nested"] == ["Completed"] * 3
    assert states_of(id_)["leaf"] == ["Completed"] * 3
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


# What is not let through


def test_what_tasks_do_not_need_is_refused_in_words(relayed: Any, client: Any) -> None:
    @flow
    def other() -> UUID:
        return UUID(flow_run.id)

    theirs = other()

    @task
    def attacks() -> dict[str, tuple[int, str]]:
        context: Any = get_run_context()
        own = context.task_run.flow_run_id
        foreign = {"flow_run_id": str(theirs), "message": "evil", "level": 20, "name": "a"}
        with get_client(sync_client=True) as api:
            asked: dict[str, Any] = {
                "read another": lambda: api.read_flow_run(theirs),
                "rename another": lambda: api.update_flow_run(theirs, name="evil"),
                "end another": lambda: api.request(
                    "POST", f"/flow_runs/{theirs}/set_state", json={"state": {"type": "FAILED"}}
                ),
                "log as another": lambda: api.request("POST", "/logs/", json=[foreign]),
                "delete own": lambda: api.delete_flow_run(own),
                "deployments": lambda: api.read_deployments(),
                "run a deployment": lambda: api.create_flow_run_from_deployment(uuid4()),
                "work pools": lambda: api.read_work_pools(),
                "all variables": lambda: api.read_variables(),
                "settings": lambda: api.request("GET", "/admin/settings"),
            }
            return {name: what_refused(call) for name, call in asked.items()}

    @flow(task_runner=relayed())
    def attacking() -> Any:
        return attacks.submit().result()

    found, _ = run(attacking)
    assert {name: status for name, (status, _) in found.items()} == dict.fromkeys(found, 403)
    assert "is not of the flow run that this task belongs to" in found["read another"][1]
    assert "tasks do not need it" in found["deployments"][1]
    after = client.read_flow_run(theirs)
    assert (after.name != "evil", after.state.name) == (True, "Completed")
    assert "evil" not in logs_of(client, theirs)


def test_the_state_of_another_flow_runs_task_is_not_changed_by_an_event(relayed: Any, client: Any) -> None:
    @task
    def victim() -> None:
        pass

    @flow
    def other() -> UUID:
        victim()
        return UUID(flow_run.id)

    theirs = other()
    [target] = eventually(lambda: task_runs(theirs))
    eventually(lambda: states_of(theirs) == {"victim": ["Completed"]})

    @task
    def forges() -> None:
        import orjson

        at = "2099-01-01T00:00:00+00:00"
        resource = {"prefect.resource.id": f"prefect.task-run.{target.id}", "prefect.state-type": "FAILED"}
        state = {"type": "FAILED", "name": "Failed", "message": "evil", "state_details": {}, "data": None}
        run = orjson.loads(target.model_dump_json(include={"task_key", "dynamic_key", "name"}))
        event = {
            "id": str(uuid4()),
            "occurred": at,
            "event": "prefect.task-run.Failed",
            "resource": resource,
            "related": [],
            "payload": {"validated_state": state, "task_run": run},
        }
        with get_client(sync_client=True) as api:
            status, _ = what_refused(lambda: api.request("POST", "/events", json=[event]))
            assert status == 403
        # By Prefect's socket too.
        emit_event("prefect.task-run.Failed", resource=resource, payload=event["payload"])

    @flow(task_runner=relayed())
    def forging() -> None:
        forges.submit().result()

    run(forging)
    assert states_of(theirs) == {"victim": ["Completed"]}


def test_a_body_that_is_too_large_is_refused_in_words(relayed: Any) -> None:
    @task
    def sends() -> tuple[int, str]:
        with get_client(sync_client=True) as api:
            return what_refused(lambda: api.request("POST", "/variables/", json={"value": "x" * 11_000_000}))

    @flow(task_runner=relayed())
    def sending() -> Any:
        return sends.submit().result()

    (status, words), _ = run(sending)
    assert status == 413
    assert "10,000,000 bytes" in words


# The key stays


def _in_memory(pattern: bytes) -> list[str]:
    """Where in a process something is: in its environment, its settings, its memory."""
    found = []
    with open("/proc/self/environ", "rb") as environ:
        found += ["environ"] if re.search(pattern, environ.read()) else []
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            for at in range(start, end, 1 << 24):
                try:
                    memory.seek(at)
                    data = memory.read(min(1 << 24, end - at) + 100)
                except (OSError, ValueError, OverflowError):
                    break
                found += [f"memory at {line.split()[-1]}: {m[0]!r}" for m in re.finditer(pattern, data)]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's memory by /proc")
def test_no_worker_has_the_key_anywhere_in_its_memory(
    relayed: Any, dask_cluster: LocalCluster, security: Security
) -> None:
    canaries = {n: f"canary-{secrets.token_hex(16)}" for n in ("key", "header")}

    @task
    def works(n: int) -> int:
        Variable.get("relayed_nothing", default=None)
        get_run_logger().info("works %d", n)
        emit_event("shop.works", resource={"prefect.resource.id": "shop.1"})
        return n

    @flow(task_runner=relayed())
    def working() -> list[int]:
        return works.map(range(20)).result()

    settings = {
        PREFECT_API_KEY: canaries["key"],
        PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Way": canaries["header"]},
    }
    with temporary_settings(settings):
        assert run(working)[0] == list(range(20))
    with distributed.Client(dask_cluster.scheduler_address, security=security) as asker:
        # Not the canary itself, which would be there for having been asked about.
        found = asker.run(_in_memory, rb"canary-[0-9a-f]{32}")
    assert len(found) == 2
    assert not any(found.values()), found


def test_the_search_for_a_key_finds_one() -> None:
    held = f"canary-{secrets.token_hex(16)}"
    assert any(held in place for place in _in_memory(rb"canary-[0-9a-f]{32}"))


def test_what_tasks_get_has_no_secret_of_the_settings() -> None:
    canary = f"canary-{secrets.token_hex(16)}"
    settings = {
        PREFECT_API_KEY: canary,
        PREFECT_API_AUTH_STRING: f"user:{canary}",
        PREFECT_API_URL: f"http://user:{canary}@127.0.0.1:4200/api",
        PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Way": canary},
    }
    with temporary_settings(settings):
        direct, relayed = FlowRunParcel(), FlowRunParcel()
        relayed.relay = "abc"
        assert canary.encode() in direct.data()
        assert canary.encode() not in relayed.data()


def test_what_tasks_get_has_no_variables_of_a_deployments_jobs(relayed: Any) -> None:
    canary = f"canary-{secrets.token_hex(16)}"

    @flow
    def deployed() -> tuple[bytes, bytes]:
        context: Any = get_run_context()
        context.flow_run.job_variables = {"env": {"PREFECT_API_KEY": canary}}
        direct, relay = FlowRunParcel(), FlowRunParcel()
        relay.relay = "abc"
        return direct.data(), relay.data()

    direct, relay = deployed()
    assert canary.encode() in direct
    assert canary.encode() not in relay


# Ends


class Gate:
    """Passes connections on to the API, until it is shut."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = parts.hostname, parts.port
        self._path = parts.path
        self.open = True
        self.refused = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._came, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()

    async def _came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.open:
            self.refused += 1
            writer.close()
            return
        there, back = await asyncio.open_connection(*self._target)
        self._writers |= {writer, back}
        await asyncio.gather(self._pass(reader, back), self._pass(there, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self._writers.discard(writer)

    def shut(self) -> None:
        """End all connections, and take no more."""
        self.open = False
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in list(self._writers)])

    def close(self) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate(str(get_current_settings().api.url))
    yield made
    made.close()


def test_an_api_that_is_away_for_a_while_gets_all_of_it_later(
    relayed: Any, gate: Gate, tmp_path: Path
) -> None:
    began, ended = tmp_path / "began", tmp_path / "ended"

    @task
    def works(n: int) -> int:
        (began / str(n)).touch()
        while not ended.exists():
            time.sleep(0.05)
        get_run_logger().info("worked %d", n)
        return n

    began.mkdir()

    def goes_away() -> None:
        eventually(lambda: len(list(began.iterdir())) == 4)
        gate.shut()
        ended.touch()
        eventually(lambda: gate.refused >= 3)
        gate.open = True

    @flow(task_runner=relayed())
    def working() -> list[int]:
        thread = threading.Thread(target=goes_away, daemon=True)
        thread.start()
        try:
            return works.map(range(4)).result()
        finally:
            thread.join()

    with temporary_settings({PREFECT_API_URL: gate.url}):
        value, id_ = run(working)
        # What is still to be sent goes by the gate.
        wait_until_recorded()
    assert value == [0, 1, 2, 3]
    assert flow_run_state(id_) == "Completed"


def test_two_flow_runs_share_a_cluster_and_one_that_ends_leaves_the_other_alone(
    relayed: Any, client: Any, tmp_path: Path
) -> None:
    name = f"relayed-{secrets.token_hex(4)}"
    client.request("POST", "/v2/concurrency_limits/", json={"name": name, "limit": 4, "active": True})
    first_is_over = tmp_path / "over"

    @task
    def uses(who: str) -> str:
        with concurrency(name, strict=True):
            emit_event(f"{name}.{who}", resource={"prefect.resource.id": who})
        return str(get_current_settings().api.url)

    @task
    def waits() -> None:
        while not first_is_over.exists():
            time.sleep(0.05)

    @flow(task_runner=relayed())
    def first() -> set[str]:
        return set(uses.map(["first"] * 8).result())

    @flow(task_runner=relayed())
    def second() -> set[str]:
        before = uses.map(["second"] * 8).result()
        waiting = waits.submit()
        waiting.result()
        return set(before + uses.map(["second"] * 8).result())

    found: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: found.update(second=run(second)))
    thread.start()
    found["first"] = run(first)
    first_is_over.touch()
    thread.join(120.0)
    urls = [found[name][0] for name in ("first", "second")]
    assert not urls[0] & urls[1]
    for who, count in (("first", 8), ("second", 16)):
        events = eventually(
            lambda who=who, count=count: len(e := events_named(client, f"{name}.{who}")) == count and e
        )
        own = f"prefect.flow-run.{found[who][1]}"
        assert all(own in {r["prefect.resource.id"] for r in event["related"]} for event in events)


def test_a_worker_that_dies_with_unsent_news_takes_no_truth_with_it(relayed: Any) -> None:
    @task
    def quick(n: int) -> int:
        return n

    @task
    def dies(after: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @flow(task_runner=relayed())
    def loses() -> Any:
        done = quick.map(range(10))
        lost = dies.submit(done)
        return lost.result(raise_on_failure=False), [future.state.name for future in done]

    state = loses(return_state=True)
    id_ = state.state_details.flow_run_id
    eventually(lambda: states_of(id_) == {"quick": ["Completed"] * 10, "dies": ["Crashed"]})


SCRIPT = """
import os, sys, time
from distributed.security import Security
from prefect import flow, task
from prefect.runtime import flow_run
from prefect_coiled import CoiledTaskRunner

address, ca, cert, key = sys.argv[1:]
security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)

@task
def slow():
    print("TASK", flush=True)
    time.sleep(1.0)
    from prefect.variables import Variable
    return Variable.get("relayed_nothing", default=None)

@flow(task_runner=CoiledTaskRunner(address=address, client_kwargs={"security": security}, api_relay="always"))
def slowly():
    print("RUN", flow_run.id, flush=True)
    futures = [slow.submit() for _ in range(40)]
    print("SUBMITTED", flush=True)
    [future.result() for future in futures]

slowly()
"""


def test_a_flows_process_that_is_killed_leaves_no_task_hanging(
    relayed: Any, dask_cluster: LocalCluster, security: Security, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    files = []
    for number, text in enumerate((security.tls_ca_file, security.tls_client_cert, security.tls_client_key)):
        file = tmp_path / f"{number}.pem"
        file.write_text(str(text))
        files.append(str(file))
    environ = {
        **os.environ,
        **FAST,
        "PREFECT_API_URL": str(get_current_settings().api.url),
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [sys.executable, str(script), dask_cluster.scheduler_address, *files],
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        next(line for line in lines if line.startswith("SUBMITTED"))
        # Wait until tasks of it run.
        with distributed.Client(dask_cluster.scheduler_address, security=security) as asker:
            eventually(lambda: any(asker.processing().values()))
    finally:
        process.kill()
        process.wait(30)

    @task
    def well(n: int) -> int:
        return n

    @flow(task_runner=relayed())
    def next_one() -> list[int]:
        return well.map(range(8)).result()

    # The workers are free for the next flow run, whose tasks are recorded.
    assert run(next_one)[0] == list(range(8))


# No server at all

TEMPORARY = """
import sys
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect_coiled import CoiledTaskRunner
from prefect.runtime import flow_run

class Elsewhere(LocalCluster):
    def __init__(self):
        super().__init__(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None,
                         protocol="tls://", security=Security.temporary())

@task
def square(n):
    get_run_logger().info("squaring %d", n)
    return n * n, str(get_current_settings().api.url)

@flow(task_runner=CoiledTaskRunner(cluster_class=Elsewhere, api_relay="always"))
def squares():
    return square.map(range(5)).result(), flow_run.id

if __name__ == "__main__":
    from prefect_coiled.task_runner.recording import wait_until_recorded
    found, id_ = squares()
    assert [n for n, _ in found] == [0, 1, 4, 9, 16]
    wait_until_recorded()
    with get_client(sync_client=True) as client:
        runs = client.request("POST", "/task_runs/filter", json={
            "task_runs": {"flow_run_id": {"any_": [str(id_)]}}}).json()
        logs = client.request("POST", "/logs/filter", json={
            "logs": {"flow_run_id": {"any_": [str(id_)]}}}).json()
    assert [run["state_name"] for run in runs] == ["Completed"] * 5, runs
    said = {line["message"] for line in logs}
    assert {f"squaring {n}" for n in range(5)} <= said, said
    assert str(client.api_url).rstrip("/") not in {url for _, url in found}
    print("RIGHT")
"""


def test_prefects_temporary_server_is_enough(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TEMPORARY)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environ |= {
        **FAST,
        "PREFECT_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=170, env=environ, check=False
    )
    assert "RIGHT" in ended.stdout, ended.stdout[-2000:] + ended.stderr[-4000:]
