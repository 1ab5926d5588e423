"""Flows as people deploy them: with hooks, and with a task that goes on when a file is there."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from prefect import flow, task

from prefect_coiled import Cluster, ClusterSettings, CoiledTaskRunner, load_account


@task
def hold(gate: str) -> str:
    """Wait until the file is there; on the sandbox, whose machines see it."""
    while not Path(gate).exists():
        time.sleep(0.05)
    return gate


def note(flow: Any, flow_run: Any, state: Any) -> None:
    """Write down the state that a hook was called with; Prefect gives its arguments by name."""
    with Path(f"{flow_run.parameters['gate']}-hooks").open("a") as file:
        file.write(f"{state.name}\n")


@flow(
    name="held",
    task_runner=CoiledTaskRunner(n_workers=1, wait_for_workers=True, no_client_timeout="3 s"),
    on_cancellation=[note],
    on_crashed=[note],
    persist_result=True,
)
def held(gate: str, cluster: ClusterSettings = ClusterSettings()) -> str:
    """Hold a cluster until a file is there."""
    return hold.submit(gate).result()


@task
def last(seconds: float, n: int) -> int:
    """Take so many seconds, for the n-th time."""
    time.sleep(seconds)
    return n


@flow(
    name="long enough",
    task_runner=CoiledTaskRunner(n_workers=1, wait_for_workers=True, no_client_timeout="3 s"),
    persist_result=True,
)
def long_enough(gate: str, seconds: float) -> int:
    """Run one task after the other until a file is there."""
    for n in range(600):
        last.submit(seconds, n).result()
        if Path(gate).exists():
            break
    return n


@flow(name="words", task_runner=CoiledTaskRunner())
def words(noted: str) -> None:
    """Ask for a cluster that is not made, and write down what it would have been made with."""

    class Seen(Cluster):
        def __init__(self, **keywords: Any) -> None:
            given = {name: value for name, value in keywords.items() if name not in ("report", "stop")}
            Path(noted).write_bytes(pickle.dumps(given))
            raise InterruptedError("seen")

    with patch("prefect_coiled.cluster.Cluster", Seen):
        hold.submit("")


@flow(name="who")
def who(account: str, noted: str) -> None:
    """Write down as whom AWS knows the program that runs here."""
    found = load_account(account)
    sts = found.session("us-east-1").client("sts", endpoint_url=found.endpoint_url)
    Path(noted).write_text(sts.get_caller_identity()["Arn"])
