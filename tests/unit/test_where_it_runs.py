"""A task run's log begins with the worker that it runs on, and with the way to that machine's own log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.task_runner.worker import where_it_runs

LINK = (
    "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1"
    "#logsV2:log-groups/log-group/my-team/log-events/i-0123456789abcdef0"
)


@pytest.fixture(autouse=True)
def a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_COILED_ACCOUNT", "my-team")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


def line(name: Any) -> str:
    worker: Any = SimpleNamespace(name=name, address="tls://10.0.0.7:40001")
    return where_it_runs(worker)


@pytest.mark.parametrize("suffix", ["", "-1"])
def test_a_machine_of_ours_has_a_log(suffix: str) -> None:
    name = f"i-0123456789abcdef0{suffix}"
    assert line(name) == f"Runs on worker {name} at tls://10.0.0.7:40001; its log: {LINK}"


def test_a_worker_of_another_cluster_has_none() -> None:
    assert line(0) == "Runs on worker 0 at tls://10.0.0.7:40001"


def test_the_sandbox_is_not_in_the_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    assert "http" not in line("i-0123456789abcdef0")
