"""The flow of a cell, in this process or in one of its own: some tasks for four threads, and a gate.

What happens is written into a folder that all processes see: each task's body marks when it starts and
when it is about to return; a task goes on, and a result lets itself be sent, once the gate is open.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.runtime import flow_run
from prefect.states import State

from prefect_coiled.task_runner import CoiledTaskRunner
from tests.lost_work.cells import Cell

# Seconds: nothing waits for the gate for ever, whatever the test that opens it comes to.
PATIENCE = 40.0


def mark(folder: Path, name: str) -> None:
    """Write down that something happened: when, and in which process."""
    with (folder / name).open("a") as file:
        file.write(f"{time.time()} {os.getpid()}\n")


def is_open(folder: Path, deadline: float) -> bool:
    return (folder / "gate").exists() or time.time() > deadline


class Result:
    """What a task returns: too large to come along with the news, and sent only once the gate is open."""

    def __init__(self, folder: Path, number: int, waits: bool) -> None:
        self.folder, self.number, self.waits, self.data = folder, number, waits, b"x" * 5000

    def __getstate__(self) -> dict[str, Any]:
        mark(self.folder, f"sent-{self.number}")
        deadline = time.time() + PATIENCE
        while self.waits and not is_open(self.folder, deadline):
            time.sleep(0.02)
        return self.__dict__


def begin(cell: Cell, folder: Path, number: int) -> float:
    if cell.retries and not (folder / f"tried-{number}").exists():
        mark(folder, f"tried-{number}")
        raise ValueError("not at the first try")
    mark(folder, f"started-{number}")
    return time.time() + (PATIENCE if cell.at in ("queued", "running") else 0.0)


def end(cell: Cell, folder: Path, number: int) -> Result:
    mark(folder, f"ended-{number}")
    return Result(folder, number, cell.at == "returning")


def body(cell: Cell, folder: Path, number: int) -> Result:
    deadline = begin(cell, folder, number)
    while not is_open(folder, deadline):
        time.sleep(0.02)
    return end(cell, folder, number)


async def async_body(cell: Cell, folder: Path, number: int) -> Result:
    deadline = begin(cell, folder, number)
    while not is_open(folder, deadline):
        await asyncio.sleep(0.02)
    return end(cell, folder, number)


def submitted(cell: Cell, folder: Path) -> list[Any]:
    """Submit the tasks; writes down the flow run and theirs."""
    options = {"name": "part", "retries": int(cell.retries), "persist_result": cell.persisted}
    part: Any = task(async_body if cell.is_async else body, **options)
    futures = [part.submit(cell, folder, number) for number in range(cell.tasks)]
    told = {"flow": str(flow_run.id), "tasks": [str(future.task_run_id) for future in futures]}
    (folder / "runs.part").write_text(json.dumps(told))
    (folder / "runs.part").rename(folder / "runs")
    return futures


def are_done(cell: Cell, folder: Path, futures: list[Any]) -> bool:
    """Whether what the cell waits for before it is hit has happened, and it was hit."""
    if cell.at != "done":
        return True
    if all(future.done for future in futures) and not (folder / "done").exists():
        mark(folder, "done")
    return (folder / "gate").exists()


def outcome(cell: Cell, futures: list[Any]) -> Any:
    """What the flow does with its futures."""
    if cell.flow == "result":
        return sum(future.result().number for future in futures)
    if cell.flow == "wait":
        for future in futures:
            future.wait()
    return futures if cell.flow == "return" else None


def run_cell(cell: Cell, address: str, folder: Path) -> State[Any]:
    """Run the flow of a cell on a cluster; its final state."""
    runner = CoiledTaskRunner(address=address)

    @flow(name="lost work", task_runner=runner)
    def sync_flow() -> Any:
        futures = submitted(cell, folder)
        while not are_done(cell, folder, futures):
            time.sleep(0.05)
        return outcome(cell, futures)

    @flow(name="lost work", task_runner=runner)
    async def async_flow() -> Any:
        futures = submitted(cell, folder)
        while not are_done(cell, folder, futures):
            await asyncio.sleep(0.05)
        return outcome(cell, futures)

    run: Any = async_flow if cell.is_async else sync_flow
    made = run(return_state=True)
    state: State[Any] = asyncio.run(made) if cell.is_async else made
    return state


if __name__ == "__main__":
    run_cell(Cell(*json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
