"""What is used of dependencies beside their public face is there; with the newest releases too."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar, copy_context
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock
from uuid import uuid4

import boto3
import httpx
import pytest
from botocore.credentials import Credentials
from distributed import Scheduler
from distributed.comm.tcp import TLSListener
from distributed.deploy.spec import SpecCluster
from prefect import tags
from prefect.client.base import PrefectHttpxSyncClient, ServerType
from prefect.client.orchestration import PrefectClient
from prefect.context import TagsContext, TaskRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_CLIENT_CSRF_SUPPORT_ENABLED, temporary_settings
from prefect.transactions import get_transaction, transaction

import prefect_coiled
from prefect_coiled.blocks import Ec2DaskAccount
from prefect_coiled.internals import botocore, prefect
from prefect_coiled.internals import distributed as distributed_internals
from prefect_coiled.internals import prefect as prefect_internals
from prefect_coiled.internals.python import side_by_side

ROOT = Path(prefect_coiled.__file__).parent


@pytest.mark.parametrize("kind", [EventsWorker, APILogWorker])
def test_prefects_services_can_be_listed_waited_for_and_drained(kind: type[Any]) -> None:
    assert isinstance(prefect.running_services(kind), list)
    assert callable(kind._drain)
    assert {"_queue", "_stopped"} <= set(vars(kind(*_key_of(kind))))


def _key_of(kind: type[Any]) -> tuple[Any, ...]:
    from prefect.events.clients import NullEventsClient

    return (NullEventsClient, ()) if kind is EventsWorker else ()


def test_a_flow_run_can_hold_a_slot() -> None:
    run = uuid4()
    held = prefect.slot_holder(run)
    assert (held.type, held.id) == ("flow_run", run)


def test_a_block_knows_the_name_that_it_was_saved_under() -> None:
    block = Ec2DaskAccount(region="us-east-1")
    assert prefect.name_of(block) == ""
    assert not prefect.is_saved_apart(block)
    assert callable(type(block)._from_block_document)


def test_a_session_takes_credentials_that_renew_themselves() -> None:
    made = botocore.session_with(Credentials("key", "secret"), "us-east-1")
    assert made.get_credentials().access_key == "key"
    assert (
        botocore.botocore_session(boto3.Session(region_name="eu-west-1")).get_config_variable("region")
        == "eu-west-1"
    )


class Metadata(BaseHTTPRequestHandler):
    """A machine's metadata service, as far as its role goes."""

    def do_PUT(self) -> None:
        self._answer("token")

    def do_GET(self) -> None:
        keys = {"Code": "Success", "AccessKeyId": "role's", "SecretAccessKey": "s", "Token": "t"}
        listing = self.path.endswith("/security-credentials/")
        self._answer("machines" if listing else json.dumps({**keys, "Expiration": "2999-01-01T00:00:00Z"}))

    def _answer(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: Any) -> None: ...


def test_a_machines_role_is_found_whatever_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody's")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        found = botocore.session_of_role("us-east-1").get_credentials()
        assert found is not None
        assert found.access_key == "role's"
        server.shutdown()


def test_a_function_is_called_while_threads_still_work() -> None:
    script = """
import atexit, threading
from concurrent.futures import ThreadPoolExecutor
from prefect_coiled.internals.python import before_threads_end

def at_the_end():
    with ThreadPoolExecutor(1) as pool:
        print(pool.submit(lambda: "threads work").result())
    print("once more:", before_threads_end(print))

before_threads_end(at_the_end)
atexit.register(print, "atexit")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["threads work", "once more: False", "atexit"]
    assert done.stderr == ""


def test_the_states_of_task_runs_can_be_sent_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails: `internals.prefect.route_task_run_events` says what to look for."""
    import prefect.utilities.engine as engine
    from prefect import task, task_engine
    from prefect.states import Pending
    from prefect.task_engine import _create_task_run_locally

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(engine, "emit_event", engine.emit_event)  # put back afterwards
    prefect_internals.route_task_run_events(lambda emit: lambda **event: seen.append(event))
    run = _create_task_run_locally(task(lambda: None, name="plain"))
    # The engine's own name for it is the one that was routed.
    emit: Any = task_engine.emit_task_run_state_change_event
    emit(task_run=run, initial_state=None, validated_state=Pending())
    assert set(seen[0]) == {"id", "occurred", "event", "payload", "resource", "related", "follows"}
    assert seen[0]["resource"]["prefect.resource.id"] == f"prefect.task-run.{run.id}"
    assert {"validated_state", "task_run", "intended"} <= set(seen[0]["payload"])


def test_the_values_of_a_transaction_can_be_read_and_added_to() -> None:
    from prefect.transactions import Transaction

    transaction = Transaction()
    transaction.set("a", 1)
    prefect_internals.stored_values(transaction)["b"] = 2
    assert (transaction.get("a"), transaction.get("b")) == (1, 2)


def test_a_thread_stands_in_for_one_of_dasks() -> None:
    """Where this fails: `distributed.threadpoolexecutor` tells its threads in another way."""
    import threading

    from distributed import threadpoolexecutor

    pool = threadpoolexecutor.ThreadPoolExecutor(1)

    def waits() -> list[bool]:
        stand_in, found = distributed_internals.StandIn(), []

        def stands() -> None:
            stand_in.enter()
            # It may leave the pool, which makes another thread for what waits.
            threadpoolexecutor.secede()
            found.append(pool.submit(lambda: True).result(10))
            threadpoolexecutor.rejoin()
            found.append(threading.current_thread() in pool._threads)

        thread = threading.Thread(target=stands)
        thread.start()
        thread.join(20)
        stand_in.leave()
        found.append(threading.current_thread() in pool._threads)
        return found

    assert pool.submit(waits).result(30) == [True, True, True]
    pool.shutdown(wait=False)


def test_a_worker_that_is_silent_costs_no_other_workers_answer() -> None:
    """Where this fails: `Client.run` sends what it asks in another way."""
    import distributed

    async def answers(dask_worker: Any) -> str:
        if dask_worker.name == "fails":
            raise ValueError("mine")
        if dask_worker.name == "silent":
            await asyncio.sleep(600)
        return str(dask_worker.name)

    async def asked() -> Any:
        names = ("a", "silent", "b", "fails")
        async with (
            distributed.Scheduler(port=0, dashboard_address=":0") as scheduler,
            AsyncExitStack() as stack,
        ):
            for name in names:
                worker = distributed.Worker(scheduler.address, name=name, nthreads=1, dashboard=False)
                await stack.enter_async_context(worker)
            async with distributed.Client(scheduler.address, asynchronous=True) as client:
                found = await distributed_internals.ask_each(client, 15.0, answers)  # type: ignore[misc]
                of = {address: worker.name for address, worker in scheduler.workers.items()}
                return {of[address]: answer for address, answer in found.items()}

    found = asyncio.run(asked())
    assert {name: repr(answer) for name, answer in found.items()} == {
        "a": "'a'",
        "b": "'b'",
        "fails": "ValueError('mine')",
        "silent": "TimeoutError()",
    }


def test_a_task_of_dasks_is_known_by_the_function_that_it_calls() -> None:
    made = distributed_internals.computation("key", max, 1, 2)
    assert distributed_internals.calls(made, max)
    assert not distributed_internals.calls(made, min)
    assert made() == 2


def test_private_modules_are_imported_in_one_place() -> None:
    """The sandbox corrects moto, which is pinned exactly, and looks into it."""
    found = []
    for path in ROOT.rglob("*.py"):
        if {"internals", "sandbox"} & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [n.name for n in node.names] if isinstance(node, ast.Import) else []
            private = [
                n
                for n in names
                if any(part.startswith("_") and part != "__future__" for part in n.split("."))
            ]
            found += [f"{path.name}: {n}" for n in private]
    assert found == []


def test_what_others_keep_to_themselves_is_touched_in_one_place() -> None:
    """But for what our classes inherit of Dask's, which is listed here."""
    inherited = {
        SpecCluster: {"_cluster_manager_logs", "_log", "_loop_runner"},
        Scheduler: {"_ongoing_background_tasks"},
    }
    of_named_tuples = {"_replace", "_fields"}  # documented by Python
    ours = {*of_named_tuples, *(name for names in inherited.values() for name in names)}
    touched: dict[str, str] = {}
    for path in ROOT.rglob("*.py"):
        if {"internals", "sandbox"} & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                ours.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                ours.add(node.id)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
                    ours.add(node.attr)
                elif not node.attr.startswith("__"):
                    touched[node.attr] = f"{path.name}:{node.lineno}"
    assert {name: where for name, where in touched.items() if name not in ours} == {}
    for kind, names in inherited.items():
        source = "".join(map(inspect.getsource, kind.__mro__[:-1]))
        assert {name for name in names if f"self.{name}" not in source} == set(), "Dask has it no more"


async def test_a_request_is_sent_once_with_prefects_headers() -> None:
    """Where this fails: `PrefectClient` sends in another way."""
    came: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 503 Later\r\nRetry-After: 100\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
        async with PrefectClient(url, api_key="key", server_type=ServerType.CLOUD) as client:
            response = await prefect.send_once(client, "POST", "/logs/?a=b", b"[]")
    assert response.status_code == 503
    assert len(came) == 1
    assert came[0].startswith(b"POST /api/logs/?a=b HTTP/1.1")
    assert b"authorization: bearer key" in came[0].lower()


async def test_an_api_that_wants_a_csrf_token_gets_one() -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.lower())
        body = b"{}"
        if b"/csrf-token" in head:
            token = {"id": str(uuid4()), "token": "tkn", "client": str(uuid4())}
            body = json.dumps({**token, "expiration": "2099-01-01T00:00:00Z"}).encode()
        lines = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(lines % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
        with temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: True}):
            async with PrefectClient(url) as client:
                await prefect.send_once(client, "GET", "/health", None)
                await prefect.send_once(client, "POST", "/logs/", b"[]")
    assert [b"prefect-csrf-token: tkn" in head for head in asked] == [False, False, True]


def test_services_that_ask_the_api_are_one_for_each_api() -> None:
    """In a process of its own: it is changed for good."""
    script = """
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_coiled.internals import prefect as internals

internals.keep_services_by_api()
internals.keep_services_by_api()
made = []
for kind in (EventsWorker, *internals._TAKE_SLOTS):
    kind._new_instance = classmethod(lambda cls, *args: made.append(args) or hash((cls, *args)))
keys = set()
for url in ("http://a/api", "http://b/api", "http://a/api"):
    with temporary_settings({PREFECT_API_URL: url}):
        keys.add(EventsWorker.instance())
        for kind in internals._TAKE_SLOTS:
            key = kind.instance(frozenset(["limit"]))
            assert kind.instance(frozenset(["limit"])) == key
            keys.add(key)
assert len(keys) == 8, keys
assert sorted(made[1][0]) == ["limit"]
assert EventsWorker.instance(NullEventsClient) == hash((EventsWorker, NullEventsClient, ()))
print("RIGHT")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.stdout == "RIGHT\n", ran.stderr


async def test_dasks_listeners_make_their_streams_ready_by_a_method() -> None:
    listener = TLSListener("127.0.0.1:0", lambda comm: None, ssl_context=ssl.create_default_context())
    distributed_internals.prepare_streams(listener, prepared := AsyncMock())
    assert listener._prepare_stream is prepared


def test_threads_of_a_pool_find_what_the_caller_has_in_its_context() -> None:
    who = ContextVar("who", default="nobody")

    def told(n: int) -> str:
        if n > 2:
            raise ValueError(n)
        return f"{n} by {who.get()}"

    who.set("me")
    assert side_by_side(told, [2, 1]) == ["2 by me", "1 by me"]
    with pytest.raises(ValueError, match="3"):
        side_by_side(told, [1, 3, 4], 1)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(told, [1])) == ["1 by nobody"], "what the pool's own way lacks"


def test_a_transaction_that_is_over_is_left_behind_with_all_that_came_with_it() -> None:
    with transaction(), tags("of-another"):
        inherited = copy_context()

    def later() -> None:
        assert get_transaction() is not None
        prefect_internals.leave_all()
        with transaction() as mine:
            assert mine.get_parent() is None
        assert TaskRunContext.get() is None
        assert not TagsContext.get().current_tags

    inherited.run(later)


def test_a_new_client_of_an_api_that_was_reached_tries_again_while_that_is_started_anew() -> None:
    prefect_internals.try_again_where_reached()
    answered = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")
            answered.set()

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    @contextmanager
    def serving(port: int = 0) -> Iterator[str]:
        server = HTTPServer(("127.0.0.1", port), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()
        thread.join()

    with serving() as url, PrefectHttpxSyncClient(base_url=url) as before:
        assert before.get("/hello").status_code == 200
    port = int(url.rpartition(":")[2])
    found: list[int] = []

    def ask() -> None:
        with PrefectHttpxSyncClient(base_url=url) as another:
            found.append(another.get("/hello").status_code)

    asking = threading.Thread(target=ask)
    answered.clear()
    asking.start()
    # It is refused first: nobody listens there before a moment that its pause is longer than.
    asking.join(0.5)
    assert asking.is_alive()
    with serving(port):
        asking.join(60)
    assert found == [200]
    # One that never answered this process still says so at once.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with (
            PrefectHttpxSyncClient(base_url=f"http://127.0.0.1:{free.getsockname()[1]}") as nobodys,
            pytest.raises(httpx.ConnectError),
        ):
            nobodys.get("/hello")
