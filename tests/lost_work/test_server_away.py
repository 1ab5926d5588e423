"""The Prefect API is away in the middle of a flow run: for a while, or for good."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import State

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.recording import wait_until_recorded

from .machines import Cluster, Server, until

pytestmark = pytest.mark.timeout(400)
# Seconds: longer than the pauses of a client that tries three times.
_AWAY = 12.0
_TASKS = 8


@pytest.fixture
def api(server: Server) -> Iterator[Server]:
    """The server that may be killed, as the one of this process."""
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server
        if not server.runs:
            server.start()
        # What is still to be told goes to this one.
        wait_until_recorded()


class Life:
    """A flow of some tasks, each of which goes on when it may, and what becomes of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.options = folder, options
        self.state: State[Any] | None = None
        self.run = self.met = ""

    def begun(self) -> int:
        return len(list(self.folder.glob("began-*")))

    def __call__(self, address: str, relay: str) -> threading.Thread:
        folder = self.folder

        @task(**self.options)
        def part(number: int) -> int:
            (folder / f"began-{number}").touch()
            while not (folder / "gate").exists():
                time.sleep(0.02)
            return number

        @flow(task_runner=CoiledTaskRunner(address=address, api_relay=relay))
        def whole() -> int:
            self.run = str(flow_run.id)
            try:
                return sum(part.map(range(_TASKS)).result())
            except TaskLostError as error:
                self.met = str(error)
                raise

        def run() -> None:
            # Where the API is gone for good, Prefect's engine raises what it met at the flow run's end.
            with suppress(httpx.HTTPError):
                self.state = whole(return_state=True)

        thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
        thread.start()
        return thread

    def told(self) -> tuple[str, list[str]]:
        """What the API says of the flow run and of its tasks."""
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[self.run]))  # type: ignore[list-item]
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(self.run).state  # type: ignore[arg-type]
            runs = client.read_task_runs(flow_run_filter=wanted)
        return str(state and state.name), [str(one.state and one.state.name) for one in runs]


# With a tag a task asks for a slot before it begins; without one it needs no answer.
@pytest.mark.parametrize(
    ("how", "relay", "options"),
    [
        ("killed", "never", {"tags": ["of-a-slot"]}),
        ("killed", "always", {}),
        ("stopped", "never", {}),
        ("stopped", "always", {"tags": ["of-a-slot"]}),
    ],
)
def test_a_server_that_is_away_for_twelve_seconds_loses_nothing(
    machines: Cluster, api: Server, tmp_path: Path, how: str, relay: str, options: dict[str, Any]
) -> None:
    life = Life(tmp_path, **options)
    thread = life(machines.whole(), relay)
    try:
        assert until(life.begun, 60)
        api.stop() if how == "stopped" else api.kill()
        back = time.monotonic() + _AWAY
        # What runs ends meanwhile, and the others begin.
        (tmp_path / "gate").touch()
        until(lambda: time.monotonic() > back, 2 * _AWAY)
        api.go_on() if how == "stopped" else api.start()
        thread.join(120)
    finally:
        (tmp_path / "gate").touch()
    assert not thread.is_alive()
    assert life.state is not None
    assert life.state.name == "Completed", life.state.message
    whole = ("Completed", ["Completed"] * _TASKS)
    assert until(lambda: life.told() == whole, 60), life.told()


def test_a_server_that_does_not_come_back_is_named_where_a_task_needs_it(
    machines: Cluster, api: Server, tmp_path: Path
) -> None:
    life = Life(tmp_path, tags=["of-another-slot"])
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
        thread = life(machines.whole(), "never")
        try:
            assert until(life.begun, 60)
            api.kill()
            (tmp_path / "gate").touch()
            thread.join(200)
        finally:
            (tmp_path / "gate").touch()
    assert not thread.is_alive()
    assert "The Prefect API did not do what the task needs of it: " in life.met
    assert "PREFECT_CLIENT_MAX_RETRIES" in life.met
    assert "out of memory" not in life.met
