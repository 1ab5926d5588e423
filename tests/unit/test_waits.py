"""Waits with a name and a bound, which a stop ends."""

from __future__ import annotations

import threading

import boto3
import pytest

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import wait_for
from prefect_coiled.errors import StoppedError, WaitTimeoutError


def test_a_stop_ends_a_wait_that_asks_aws_nothing() -> None:
    stop = threading.Event()
    aws = Aws(boto3.Session("key", "secret"), "us-east-1", "team", stop=stop)
    looks: list[int] = []

    def probe() -> None:
        looks.append(len(looks))
        if len(looks) == 2:
            stop.set()

    with pytest.raises(StoppedError, match="waiting for nothing"):
        wait_for(aws, "waiting for nothing", probe, timeout=3.0)
    assert looks == [0, 1]


def test_a_wait_ends_at_its_bound_and_says_what_it_waited_for() -> None:
    times = iter([0.0, 5.0, 10.0])
    aws = Aws(boto3.Session("key", "secret"), "us-east-1", "team")
    with pytest.raises(WaitTimeoutError, match=r"waiting for nothing.*10 seconds"):
        wait_for(aws, "waiting for nothing", lambda: None, timeout=10.0, clock=lambda: next(times))
