"""The end of a machine whose Dask process has a thread that hangs, as in a call that nobody answers."""

from __future__ import annotations

import asyncio
import io
import os
import select
import sys
from typing import Any

import pytest

from prefect_coiled.node import agent, dask_process
from prefect_coiled.node.agent import Agent
from prefect_coiled.plan.node_config import NodeConfig

CONFIG = NodeConfig(
    account="default",
    region="us-east-1",
    cluster="c1",
    role="scheduler",
    secrets_parameter="/keys",
    log_group="default",
)


class Child:
    """A Dask process whose end is told when it is killed."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def terminate(self) -> None:
        """It hangs."""

    def kill(self) -> None:
        self._made._events.put(("exit", -9))


def watching(*events: tuple[str, Any]) -> Any:
    made: Any = Agent(CONFIG, settings={"hang_s": 0.0})
    made._child = Child(made)
    for event in events:
        made._events.put(event)
    return made


def test_a_process_that_said_its_end_is_waited_for_no_longer_than_one_that_was_told_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agent, "STOP_S", 0.0)
    assert watching(("status", "ready"), ("status", "ended idle"))._watch() == ("idle", 0)
    asked = watching(("status", "ready"), ("signal", "stopped"), ("status", "ended stopped"))
    assert asked._watch() == ("stopped", 0)


def test_what_ends_a_process_that_said_its_end_is_known_by_its_return_code() -> None:
    assert watching(("status", "ready"), ("status", "ended idle"), ("exit", -11))._watch() == ("idle", -11)


def test_a_process_says_its_end_before_it_waits_for_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    told: list[bytes] = []

    def hang() -> None:
        if select.select([read], [], [], 30.0)[0]:
            told.append(os.read(read, 100))

    async def live(order: Any, tell: Any) -> str:
        asyncio.get_running_loop().run_in_executor(None, hang)
        return "idle"

    monkeypatch.setattr(sys, "argv", ["dask_process", str(write)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}\n"))
    monkeypatch.setattr(dask_process, "settle", lambda order: None)
    monkeypatch.setattr(dask_process.gc, "set_threshold", lambda *counts: None)
    monkeypatch.setattr(dask_process, "_run", live)
    dask_process.main()
    os.close(read)
    assert told == [b"ended idle\n"]
