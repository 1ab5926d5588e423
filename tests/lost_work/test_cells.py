"""Work is not lost: whatever is killed, and when, each task run and the flow run end in a state that is true.

python -m pytest tests/lost_work      # a sample
make lost-work                        # the whole table; writes what came of each cell
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from typing import Any, NamedTuple

import dask
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from .cells import SAMPLE, SPREAD, TABLE, THREADS, Cell
from .machines import Cluster, Machine, Server, until
from .program import run_cell

WANTED = os.environ.get("PREFECT_COILED_LOST_WORK", "")
OUTCOMES = os.environ.get("PREFECT_COILED_LOST_WORK_TABLE")
# Seconds: within which what a cell is hit at is reached; within which the flow ends after that; and within
# which the API has all that it is going to have.
_REACHED, _ENDS, _TOLD = 300.0, 300.0, 300.0
_TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def chosen() -> list[Cell]:
    """The sample; or those cells whose names have all words of the variable; "all", or "spread"."""
    words = WANTED.split()
    if not words:
        return list(SAMPLE)
    cells = SPREAD if "spread" in words else TABLE
    return [c for c in cells if set(words) - {"all", "spread"} <= set(str(c).split("-"))]


class Seen(NamedTuple):
    """What became of a cell.

    Attributes:
        local: The flow's state where it ran; None if nobody is left to know it.
        flow: Its state at the API.
        tasks: The states of each task run at the API, oldest first; None of one that the API does not know.
        starts: When each task's body started, in seconds.
    """

    local: State[Any] | None
    flow: State[Any] | None
    tasks: list[list[State[Any]] | None]
    starts: list[list[float]]

    @property
    def ends(self) -> list[str]:
        """The type of the last state of each task run."""
        return [states[-1].type.value if states else "none" for states in self.tasks]


def wrong_of(cell: Cell, seen: Seen) -> list[str]:
    """What is not as it has to be, in words."""
    wrong: list[str] = []
    ends = Counter(seen.ends)
    flow = seen.flow.type.value if seen.flow is not None else "none"
    unknown = ends.pop("none", 0)
    if stuck := {end: n for end, n in ends.items() if end not in _TERMINAL}:
        wrong.append(f"task runs in no last state: {stuck}")
    for number, (states, starts) in enumerate(zip(seen.tasks, seen.starts, strict=True)):
        done = [state.timestamp.timestamp() for state in states or () if state.is_completed()]
        if done and any(start > done[0] for start in starts):
            wrong.append(f"task {number} ran again after the API had it as Completed")
        # Who runs the flow knows nothing of what ends on workers that it cannot reach any more.
        if done and states and not states[-1].is_completed() and cell.killed != "scheduler":
            wrong.append(f"task {number} was Completed and is {states[-1].name}")
    if cell.killed == "client":
        if flow == "COMPLETED":
            wrong.append("the flow run of a process that was killed is Completed")
        return wrong
    if unknown:
        wrong.append(f"{unknown} task runs that the API does not know")
    local = seen.local.type.value if seen.local is not None else "none"
    if local != flow:
        wrong.append(f"the flow run is {local} here and {flow} at the API")
    whole = seen.ends == ["COMPLETED"] * cell.tasks
    if flow == "COMPLETED" and not whole:
        wrong.append(f"the flow run is Completed, and its task runs are {dict(ends)}")
    # A result that was not kept is gone with its worker: who asks for it is told so.
    gone = cell.killed in ("worker", "machine") and cell.at in ("returning", "done") and not cell.persisted
    told = cell.killed == "scheduler" or (gone and cell.flow == "result")
    if whole and flow != "COMPLETED" and not told:
        wrong.append(f"all task runs are Completed, and the flow run is {flow}: {message_of(seen.local)}")
    if cell.killed != "scheduler" and not whole:
        wrong.append(f"work is lost that could have been done: {dict(ends)}: {message_of(seen.local)}")
    return wrong


def message_of(state: State[Any] | None) -> str:
    return (state.message or "")[:300] if state is not None else ""


class Run:
    """One cell, from its flow's beginning until the API has heard of all of it."""

    def __init__(self, cell: Cell, cluster: Cluster, server: Server | None, folder: Path) -> None:
        self.cell, self.folder = cell, folder
        self._cluster, self._server = cluster, server
        self._state: list[State[Any]] = []

    def __call__(self) -> list[str]:
        """Run it; what is wrong."""
        address = self._cluster.whole()
        client = self._client(address)
        try:
            if not until(self._is_reached, _REACHED):
                return [f"{self.cell.at} was not reached"]
            self._hit(client)
            (self.folder / "gate").touch()
            if self._server is not None:
                self._server.start()
            if isinstance(client, Machine):
                client.kill()
            else:
                client.join(_ENDS)
                if client.is_alive():
                    return ["the flow hangs"]
        finally:
            (self.folder / "gate").touch()
            if isinstance(client, Machine):
                client.kill()
        return self._judged()

    def _client(self, address: str) -> threading.Thread | Machine:
        if self.cell.killed == "client":
            arguments = (json.dumps(self.cell), address, str(self.folder))
            settings = get_current_settings().to_environment_variables(exclude_unset=True)
            return Machine(sys.executable, "-m", "tests.lost_work.program", *arguments, **settings)

        def run() -> None:
            self._state.append(run_cell(self.cell, address, self.folder))

        thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
        thread.start()
        return thread

    def _marked(self, name: str) -> list[list[str]]:
        found = sorted(self.folder.glob(f"{name}-*"))
        return [line.split() for path in found for line in path.read_text().splitlines()]

    def _starts(self, number: int) -> list[float]:
        path = self.folder / f"started-{number}"
        return [float(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []

    def _sends(self) -> bool:
        """Whether a result lets itself be sent: where it is kept, or somebody asks for it."""
        return self.cell.persisted or self.cell.flow in ("result", "return")

    def _is_reached(self) -> bool:
        if not (self.folder / "runs").exists():
            return False
        if self.cell.at == "done":
            return (self.folder / "done").exists()
        if self.cell.at == "returning":
            return bool(self._marked("sent" if self._sends() else "ended"))
        return len(self._marked("started")) >= THREADS

    def _hit(self, client: threading.Thread | Machine) -> None:
        mark = "sent" if self.cell.at == "returning" and self._sends() else "started"
        pid = int(self._marked(mark)[0][1])
        if self.cell.killed == "worker":
            self._cluster.kill_worker(pid)
        elif self.cell.killed == "machine":
            self._cluster.kill_machine(pid)
        elif self.cell.killed == "scheduler":
            self._cluster.kill_scheduler()
        elif isinstance(client, Machine):
            client.kill()
        elif self._server is not None:
            self._server.kill()

    def _judged(self) -> list[str]:
        wrong: list[str] = []

        def right() -> bool:
            wrong[:] = wrong_of(self.cell, self._seen())
            return not wrong

        until(right, _TOLD, pause=0.3)  # a dozen questions each time, to an API that is at work
        return wrong

    def _seen(self) -> Seen:
        told = json.loads((self.folder / "runs").read_text())
        with get_client(sync_client=True) as client:
            flow = client.read_flow_run(told["flow"]).state
            tasks = [_states(client, run) for run in told["tasks"]]
        starts = [self._starts(number) for number in range(self.cell.tasks)]
        return Seen(self._state[0] if self._state else None, flow, tasks, starts)


def _states(client: Any, run: str) -> list[State[Any]] | None:
    try:
        if client.read_task_run(run).state is None:
            return None
    except ObjectNotFound:
        return None
    states: list[State[Any]] = client.read_task_run_states(run)
    return sorted(states, key=lambda state: state.timestamp)


def note(cell: Cell, wrong: list[str]) -> None:
    """Write down what came of a cell, where that is asked for."""
    if OUTCOMES:
        path = Path(OUTCOMES)
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**found, str(cell): wrong}, indent=1) + "\n")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("cell", chosen(), ids=str)
def test_work_is_not_lost(
    cell: Cell,
    machines: Cluster,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        server: Server | None = None
        if cell.killed == "server":
            server = request.getfixturevalue("server")
            stack.enter_context(temporary_settings({PREFECT_API_URL: server.url}))
        # After this a client knows that its scheduler does not come back.
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": "5s"}))
        wrong = Run(cell, machines, server, tmp_path)()
    note(cell, wrong)
    assert not wrong
