"""Leases: names that AWS keeps unique, so that two provisioners of one thing find out about each other.

A lease is an SSM parameter written without `Overwrite`: of two writers one gets it. Its holder writes it
again and again; one that has not been written for a while belongs to a holder that died, and is taken over.
Its age is told by AWS's clock alone, because the clocks of two clients may differ by minutes.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import claim, delete_parameters, read_parameter, read_with_age, renew
from prefect_coiled.aws.waits import wait_for
from prefect_coiled.errors import AwsError, StoppedError
from prefect_coiled.plan import tags

# Seconds: how old a lease may get, how often it is renewed, and how long another one waits for it.
GOOD_FOR, RENEWED_EVERY, PATIENCE = 60.0, 15.0, 1200.0


def is_held(aws: Aws, name: str) -> bool:
    """Whether somebody holds the lease of that name now."""
    found = read_with_age(aws, name)
    return found is not None and found[1] <= GOOD_FOR


@contextmanager
def lease(aws: Aws, name: str) -> Iterator[None]:
    """Hold the lease of that name; wait until another holder gives it back or dies.

    Args:
        aws: The door.
        name: Full name of the parameter.

    Raises:
        WaitTimeoutError: If another holder keeps it for 20 minutes.
        StoppedError: If a stop is asked for while waiting.
    """
    holder = uuid.uuid4().hex

    def take() -> bool | None:
        if claim(aws, name, holder, tags.account_tags(aws.account)):
            return True
        found = read_with_age(aws, name)
        if found is not None and found[0] == holder:  # our own claim, whose reply was lost
            return True
        if found is not None and found[1] > GOOD_FOR:
            delete_parameters(aws, [name])
        return None

    wait_for(aws, f"waiting for the lease ({name})", take, timeout=PATIENCE, interval=2.0)
    over = threading.Event()

    def keep() -> None:
        while not over.wait(RENEWED_EVERY):
            try:
                renew(aws, name, holder)
            except (AwsError, StoppedError):
                continue  # the next round tries again; a lease that gets old is one that nobody needs

    keeper = threading.Thread(target=keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        door = aws.without_stop()
        if read_parameter(door, name) == holder:
            delete_parameters(door, [name])
