"""What goes away while tasks ask through the flow's process: Prefect shows what is true, nothing hangs."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import distributed
import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event
from prefect.settings import (
    PREFECT_API_URL,
    get_current_settings,
    temporary_settings,
)

from prefect_coiled.task_runner.recording import wait_until_recorded

from .conftest import FAST, eventually, flow_run_state, states_of
from .relaying import events_named, run

ROOT = Path(__file__).parents[2]


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
