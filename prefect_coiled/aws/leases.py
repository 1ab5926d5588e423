"""Leases: names that AWS keeps unique, so that two provisioners of one thing find out about each other.

A lease is an SSM parameter. Written without `Overwrite`, of two writers one gets it. Its holder writes it
again and again; one that has not been written for a while belongs to a holder that died, and is taken over by
writing over it. AWS numbers what is written, and tells each writer its number
(https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html): whoever takes a lease
over has it only if what was written just before is what was found to be old. Whoever writes over a lease that
lives does no harm: its holder, who has kept it in time, still has it, and writes it again.

Age is told by AWS's clock alone, because the clocks of two clients may differ by minutes; a holder counts the
seconds since its own last write. One that could not write in time has lost the lease, and its door makes no
change any more.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import (
    claim,
    delete_parameters,
    read_version,
    read_with_age,
    renew,
)
from prefect_coiled.aws.waits import persistently, wait_for
from prefect_coiled.errors import AwsError, ProvisionError, StoppedError
from prefect_coiled.plan import tags

# Seconds: how old a lease may get, and how long another one waits for it.
GOOD_FOR, PATIENCE = 60.0, 1200.0
# The parts of that time after which it is renewed, and after which a holder counts itself out, so that a call
# that is on its way ends before.
_RENEWED, _SURE = 0.25, 0.75


def is_held(aws: Aws, name: str) -> bool:
    """Whether somebody holds the lease of that name now."""
    found = read_with_age(aws, name)
    return found is not None and found[1] <= GOOD_FOR


def wait_until_free(aws: Aws, name: str) -> None:
    """Wait until nobody holds the lease of that name.

    Raises:
        WaitTimeoutError: If somebody keeps it for 20 minutes.
        StoppedError: If a stop is asked for while waiting.
    """

    def free() -> bool | None:
        held = persistently(aws, f"looking at the lease ({name})", lambda: is_held(aws, name))
        return None if held else True

    wait_for(aws, f"waiting for the lease ({name})", free, timeout=PATIENCE, interval=2.0)


class Held:
    """A lease that is held.

    Args:
        aws: A door of its own: a stop of its holder does not end the renewals.
        written: When the write that took it was begun, by `now`.
    """

    def __init__(
        self, aws: Aws, name: str, holder: str, written: float, now: Callable[[], float] | None = None
    ) -> None:
        self._aws, self._name, self._holder = aws, name, holder
        self._now = now or _now
        self._written = written
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether it was not renewed in time, so that somebody else may have it."""
        return self._now() - self._written > GOOD_FOR * _SURE

    def check(self) -> None:
        """See that it is still held.

        Raises:
            ProvisionError: If it is not.
        """
        if self.lost:
            raise _lost(self._name)

    def _keep(self) -> None:
        while not self._over.wait(GOOD_FOR * _RENEWED):
            begun = self._now()
            if self.lost:
                return  # to write now would be to take it from whoever took it over
            try:
                renew(self._aws, self._name, self._holder)
            except (AwsError, StoppedError):
                continue  # the next round tries again
            if not self.lost:  # one that took its time may have come after somebody else's
                self._written = begun

    def give_back(self) -> None:
        """Let others have it. One that is lost is left to whoever has it."""
        self._over.set()
        self._thread.join()
        self._aws.fence = self.check
        # What cannot be given back is nobody's in a minute.
        with suppress(AwsError, ProvisionError):
            persistently(self._aws, f"giving the lease back ({self._name})", self._delete)

    def _delete(self) -> None:
        self.check()  # each try: it may have become somebody else's since the one before
        delete_parameters(self._aws, [self._name])


@contextmanager
def lease(aws: Aws, name: str) -> Iterator[Held]:
    """Hold the lease of that name; wait until another holder gives it back or dies.

    As long as it is held, the door changes nothing any more once the lease is lost.

    Raises:
        WaitTimeoutError: If another holder keeps it for 20 minutes.
        StoppedError: If a stop is asked for while waiting.
    """
    holder, begun = _taken(aws, name)
    held = Held(aws.beside(), name, holder, begun)
    before, aws.fence = aws.fence, held.check
    try:
        yield held
    finally:
        aws.fence = before
        held.give_back()


def take(aws: Aws, name: str) -> Callable[[], None]:
    """Take the lease of that name for a few calls, the last of which deletes it; wait as `lease` does.

    Nobody renews it: no thread is started, which a process that ends could not do.

    Returns:
        Raises a `ProvisionError` once it is not sure to be held any more.
    """
    _, begun = _taken(aws, name)

    def check() -> None:
        if _now() - begun >= GOOD_FOR * _SURE:
            raise _lost(name)

    return check


def _lost(name: str) -> ProvisionError:
    return ProvisionError(
        f"holding the lease ({name})",
        f"it was not renewed within {GOOD_FOR * _SURE:.0f} s, so that somebody else may have it",
        "Nothing more is changed. Run it again: it goes on where it stopped.",
    )


def _taken(aws: Aws, name: str) -> tuple[str, float]:
    """Wait until the lease is taken. Returns what its holder is called, and when the write was begun."""
    first = uuid.uuid4().hex

    def try_once() -> tuple[str, float] | None:
        begun = _now()
        holder, age = persistently(aws, f"taking the lease ({name})", lambda: _take(aws, name, first))
        begun -= age
        return (holder, begun) if holder and _now() - begun < GOOD_FOR * _SURE else None

    return wait_for(aws, f"waiting for the lease ({name})", try_once, timeout=PATIENCE, interval=2.0)


def _take(aws: Aws, name: str, first: str) -> tuple[str, float]:
    """Try once to get the lease.

    Returns:
        What its holder is called, empty if somebody else has it; and how many seconds ago it was written.
    """
    if claim(aws, name, first, tags.account_tags(aws.account)):
        return first, 0.0
    found = read_with_age(aws, name)
    if found is None:
        return "", 0.0
    if found[1] <= GOOD_FOR:
        return (first, found[1]) if found[0] == first else ("", 0.0)  # our own claim, whose reply was lost
    # Another name for each try: one that was too late leaves it behind, and must not take it for its own.
    holder = uuid.uuid4().hex
    version = renew(aws, name, holder)
    # The first version of all: the lease was given back meanwhile, and nobody else has it.
    mine = version == 1 or read_version(aws, name, version - 1) == found[0]
    return (holder, 0.0) if mine else ("", 0.0)


def _now() -> float:
    # Of two clocks the one that went further: one stands still while a machine sleeps, one may be set back.
    return max(time.monotonic() - _BEGUN[0], time.time() - _BEGUN[1])


_BEGUN = time.monotonic(), time.time()
