"""Named waits: each has a name for the error text and a stated bound, and ends when a stop is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import (
    AwsError,
    InUseError,
    ProvisionError,
    StoppedError,
    UnavailableError,
    WaitTimeoutError,
)
from prefect_coiled.internals.botocore import waiter

T = TypeVar("T")

# Bounds in seconds. AWS documents no maxima; these are several times what is usually seen.
VISIBLE_SOON = 0.5  # the pause before the first repeat of what did not find what was just made
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
    first: float = 0.05,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call `probe` until it returns something other than None.

    Args:
        what: Name of the wait, such as "waiting for NAT gateway (nat-1) to be available".
        probe: Returns None to go on waiting.
        timeout: Bound in seconds.
        interval: Longest pause between two probes, in seconds; the first pauses are shorter.
        first: The first pause.

    Raises:
        WaitTimeoutError: When the bound is reached.
        StoppedError: When a stop is asked for.
    """
    end = clock() + timeout
    pause = min(first, interval)
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
        timeout: Seconds.

    Raises:
        AwsError: As `retry_while` does.
        StoppedError: When a stop is asked for.
    """
    return retry_while(aws, what, action, (UnavailableError, InUseError), timeout=timeout, interval=5.0)


def retry_while(
    aws: Aws,
    what: str,
    action: Callable[[], T],
    while_error: type[AwsError] | tuple[type[AwsError], ...],
    *,
    timeout: float,
    interval: float = 2.0,
    first: float = 0.05,
) -> T:
    """Try an action again as long as it fails with an error that passes by itself.

    Args:
        timeout: Bound in seconds.
        interval: See `wait_for`; likewise `first`.

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
        return wait_for(aws, what, attempt, timeout=timeout, interval=interval, first=first)[0]
    except WaitTimeoutError as late:
        raise (last[0] if last else late) from late


def wait_as(
    aws: Aws,
    name: str,
    action: str,
    what: str,
    *,
    timeout: float,
    interval: float = 3.0,
    next_step: str = "",
    **parameters: Any,
) -> dict[str, Any]:
    """Wait until one of botocore's waiters is content; what it looks for is its own, when it looks is ours.

    Its own way to wait hears no stop, and passes the door by.

    Args:
        name: Such as "nat_gateway_available".
        action: The call that the waiter looks at, such as "ec2:DescribeNatGateways".
        timeout: Bound in seconds.
        interval: Longest pause between two calls, in seconds.
        next_step: What to do where the resource fails.

    Raises:
        ProvisionError: If the resource failed, by the waiter's own account.
        WaitTimeoutError: When the bound is reached.
        StoppedError: When a stop is asked for.
    """
    acceptors = waiter(action.partition(":")[0], name).acceptors

    def probe() -> dict[str, Any] | None:
        try:
            reply = aws.call(action, what, **parameters)
        except UnavailableError:
            return None  # the next look may be answered
        except AwsError as error:
            # The form in which botocore's acceptors see an error.
            if not any(a.matcher_func(seen := {"Error": {"Code": error.code}}) for a in acceptors):
                raise
            reply = seen
        state = next((a.state for a in acceptors if a.matcher_func(reply)), "retry")
        if state == "failure":
            raise ProvisionError(what, _failure(reply), next_step)
        return reply if state == "success" else None

    return wait_for(aws, what, probe, timeout=timeout, interval=interval)


def _failure(reply: dict[str, Any]) -> str:
    """What AWS says of a resource that failed."""
    for item in (one for value in reply.values() if isinstance(value, list) for one in value):
        said = item.get("FailureMessage") or (item.get("StateReason") or {}).get("Message")
        if said or item.get("State"):
            return str(said or f"AWS says that it is {item['State']}")
    return "it failed"
