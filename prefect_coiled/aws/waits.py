"""Named waits: each has a name for the error text and a stated bound, and ends when a stop is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError, InUseError, StoppedError, ThrottledError, WaitTimeoutError

T = TypeVar("T")

# Bounds in seconds. AWS documents no maxima; these are several times what is usually seen.
CONSISTENCY = 30.0  # a list that lacks a resource for that long is not merely stale
VISIBLE = 60.0  # a resource just created can be described (eventual consistency)
PROFILE_USABLE = 180.0  # EC2 accepts an instance profile just created ("may take two minutes")
ROLE_USABLE = 60.0  # EC2 knows a service-linked role just made
AWS_FAILS = 30.0  # AWS answers again where it failed, or was asked too often
RATE_LIMIT = 120.0  # EC2 takes another launch, however small, or says whether it took the last one
PUBLIC_ADDRESS = 120.0  # an instance has its public address
TERMINATED = 300.0  # an instance is terminated
NAT_AVAILABLE = 300.0
NAT_DELETED = 600.0
DEPENDENTS_GONE = 120.0  # DependencyViolation ends once interfaces are gone


def wait_for(
    aws: Aws,
    what: str,
    probe: Callable[[], T | None],
    *,
    timeout: float,
    interval: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call `probe` until it returns something other than None.

    Args:
        aws: Whose stop event ends the wait.
        what: Name of the wait, such as "waiting for NAT gateway (nat-1) to be available".
        probe: Returns None to go on waiting.
        timeout: Bound in seconds.
        interval: Longest pause between two probes, in seconds; the first pauses are shorter.
        clock: Seconds, monotonic.

    Raises:
        WaitTimeoutError: When the bound is reached.
        StoppedError: When a stop is asked for.
    """
    end = clock() + timeout
    pause = min(0.05, interval)
    while True:
        found = probe()
        if found is not None:
            return found
        if clock() >= end:
            raise WaitTimeoutError(
                what, f"not so after {timeout:.0f} seconds", "Run again, or look in the AWS console."
            )
        if aws.stop.wait(pause):
            raise StoppedError(what, "a stop was asked for")
        pause = min(pause * 1.6, interval)


def persistently(aws: Aws, what: str, action: Callable[[], T], timeout: float = AWS_FAILS) -> T:
    """Do what can be done twice until AWS, which fails or is too busy, has taken it.

    botocore has repeated each call by then. This is for what is not a step that Prefect tries again, and for
    the way down, on which nobody does.

    Args:
        aws: Whose stop event ends it.
        what: What is being done.
        action: Does it.
        timeout: Seconds.

    Raises:
        AwsError: As `retry_while` does.
        StoppedError: When a stop is asked for.
    """
    return retry_while(aws, what, action, (ThrottledError, InUseError), timeout=timeout, interval=5.0)


def retry_while(
    aws: Aws,
    what: str,
    action: Callable[[], T],
    while_error: type[AwsError] | tuple[type[AwsError], ...],
    *,
    timeout: float,
    interval: float = 2.0,
) -> T:
    """Try an action again as long as it fails with an error that passes by itself.

    Raises:
        AwsError: The last such error, when the bound is reached; any other at once.
        StoppedError: When a stop is asked for.
    """
    last: list[AwsError] = []

    def attempt() -> tuple[T] | None:
        try:
            return (action(),)
        except while_error as error:
            if error.retried == "never":
                raise  # by the table of codes it does not pass
            last[:] = [error]
            return None

    try:
        return wait_for(aws, what, attempt, timeout=timeout, interval=interval)[0]
    except WaitTimeoutError as late:
        raise (last[0] if last else late) from late
