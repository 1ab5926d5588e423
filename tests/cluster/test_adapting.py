"""Adaptive scaling while AWS refuses machines: said once, without a traceback, and tried again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client

from prefect_coiled import Cluster
from prefect_coiled.cluster import adapting
from prefect_coiled.sandbox import Sandbox

FULL = {"effect": "error", "action": "RunInstances", "code": "InsufficientInstanceCapacity", "status": 500}


@pytest.fixture(autouse=True)
def long_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is not asked for again within a test, but where it says so."""
    monkeypatch.setattr(adapting, "AGAIN", 3600.0)


def test_what_aws_refuses_is_said_once_and_asked_for_again(
    sandbox: Sandbox,
    until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Cluster(n_workers=0, wait_for_workers=False, quiet=True) as cluster, Client(cluster) as client:
        sandbox.faults([FULL])
        try:
            adaptive = cluster.adapt(minimum=0, maximum=2, interval="100ms")
            future = client.submit(time.sleep, 0.01)
            until(lambda: "asks for no more workers" in caplog.text)
            told = len(adaptive.log)
            until(lambda: len(adaptive.log) >= told + 5)
        finally:
            sandbox.faults([])
        loud = [one for one in caplog.records if one.levelno >= logging.WARNING]
        (said,) = [one for one in loud if not one.name.startswith("prefect.")]
        assert "InsufficientInstanceCapacity" in said.getMessage()
        assert said.exc_info is None
        assert said.getMessage().count("us-east-1a") == 1, "each zone is named once"
        adaptive.again["more"] = 0.0
        future.result(timeout=300)
        adaptive.stop()


def test_workers_that_are_not_needed_go_while_more_of_them_are_refused(
    sandbox: Sandbox,
    until: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Cluster(n_workers=1, quiet=True) as cluster, Client(cluster) as client:
        sandbox.faults([FULL])
        try:
            adaptive = cluster.adapt(minimum=0, maximum=3, interval="100ms", target_duration="1s")
            futures = client.map(time.sleep, [0.5] * 20, pure=False)
            until(lambda: "asks for no more workers" in caplog.text)
        finally:
            sandbox.faults([])
        client.gather(futures)
        del futures
        until(lambda: not cluster.workers, seconds=60)
        adaptive.stop()
