"""Steps that bring the client's environment into the account's bucket, where the machines install from."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from prefect_coiled import events
from prefect_coiled.aws import bucket
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.uploads import Notes
from prefect_coiled.environment import Lock, Locked, Wheel, capture, lock
from prefect_coiled.environment.software import lock_software
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError
from prefect_coiled.internals import kept
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.user_data import Place, check_python
from prefect_coiled.records import Record
from prefect_coiled.tasks.steps import Session, step

# Uploads side by side; each goes through a door of its own pool of 32 connections.
_AT_ONCE = 8
# Seconds for what machines with a way out could fetch from an index themselves: a slow line is slower.
PATIENCE = 15.0
# Seconds between two words on the progress.
_TELL_EVERY = 5.0


class Delivery(Record):
    """What a delivery into the bucket moved.

    Attributes:
        place: Where the list of packages is, for the machines.
        uploaded: Bytes put into the bucket.
        sent: Wheels put into the bucket.
        left: Wheels that the machines fetch from their index.
        left_bytes: Their size.
    """

    place: Place
    wheels: int
    uploaded: int = 0
    sent: int = 0
    left: int = 0
    left_bytes: int = 0

    def __str__(self) -> str:
        parts = [f"{self.wheels} packages"]
        if self.sent:
            parts.append(f"{self.sent} uploaded ({self.uploaded / 1e6:.1f} MB)")
        if self.left:
            parts.append(f"{self.left} fetched by the machines ({self.left_bytes / 1e6:.1f} MB)")
        return ", ".join(parts) if len(parts) > 1 else f"{parts[0]}, all in the bucket"


def prepare(spec: ClusterSpec) -> Locked:
    """Lock what the machines of a cluster shall have, and tell what a user should know. Makes nothing in AWS.

    Raises:
        OptionsError: A package cannot be had for the machines, or Python itself.
    """
    events.step("environment", "locking")
    environment = capture(
        ignore=spec.package_sync_ignore,
        strict=spec.package_sync_strict and not spec.software,
    )
    way_out = spec.egress != "none"
    check_python(environment.python, way_out=way_out)
    target = Target(environment.python, spec.architecture)
    if spec.software:
        locked = lock_software(spec.software, environment, target)
    else:
        locked = lock(environment, target, strict=spec.package_sync_strict)
    for note in locked.notes:
        events.step("environment", note)
    return locked


@step("wheels")
def deliver(session: Session, aws_account_id: str) -> Delivery:
    """Put the lock and those of its wheels into the bucket that are not there yet.

    Raises:
        OptionsError: A wheel cannot be downloaded.
    """
    assert session.locked is not None
    aws = session.aws
    # Set-up made it; whoever starts clusters need not be allowed to.
    name = bucket.ensure_bucket(aws, aws_account_id)
    return send(aws, session.locked, name, patience=session.patience)


def send(
    aws: Aws,
    locked: Locked,
    name: str,
    *,
    patience: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Delivery:
    """See `deliver`; into the bucket of that name.

    What only the client has is put there in any case. What everybody can fetch goes there as well where that
    takes no longer than `patience`, at the speed that was measured so far, and only with the first delivery
    of a list; the rest is left to the machines.

    Args:
        patience: Seconds for what the machines could fetch themselves.
        clock: Gives seconds.
    """
    made = locked.lock
    there = bucket.list_files(aws, name, "wheels/")
    # The largest first, so that none of them is alone at the end.
    missing = sorted((w for w in made.files if w.key not in there), key=lambda wheel: -wheel.size)
    public = [w for w in missing if w.is_public and w.sha256 not in locked.built and patience < math.inf]
    own = [w for w in missing if w not in public]
    moving = _Moving(aws, locked, name, clock)
    moving.all(own)
    left = list(public)
    if made.key not in there:
        # The smallest first: as many as there is time for.
        left = moving.within(patience, sorted(public, key=lambda wheel: wheel.size))
    # The list last: as long as it is there, so is what it names.
    if moving.moved or made.key not in there:
        bucket.put_file(aws, name, made.key, made.text().encode())
    return Delivery(
        place=Place(name, made.key, made.python),
        wheels=len(made.wheels),
        uploaded=sum(moving.moved),
        sent=len(moving.moved),
        left=len(left),
        left_bytes=sum(wheel.size for wheel in left),
    )


class _Moving:
    """Wheels on their way from an index, or from this machine, into the bucket."""

    def __init__(self, aws: Aws, locked: Locked, name: str, clock: Callable[[], float]) -> None:
        self._aws, self._locked, self._name = aws, locked, name
        self._clock = clock
        self._started = self._told = clock()
        self._total = 0
        self._lock = threading.Lock()
        self.moved: list[int] = []

    def all(self, wheels: Sequence[Wheel]) -> None:
        """Move them, some at a time; those that were moved stay where they are if one fails."""
        self._total += sum(wheel.size for wheel in wheels)
        side_by_side(self._move, wheels, _AT_ONCE)

    def within(self, patience: float, wheels: Sequence[Wheel]) -> list[Wheel]:
        """Move as many as there is time for; gives the others."""
        begun = self._clock()

        def move(wheel: Wheel) -> Wheel | None:
            with self._lock:
                so_far, taken = sum(self.moved), self._clock() - self._started
            speed = so_far / taken if so_far and taken > 0 else math.inf
            if self._clock() - begun + wheel.size / speed > patience:
                return wheel
            self._total += wheel.size
            self._move(wheel)
            return None

        if patience <= 0:
            return list(wheels)
        return [wheel for wheel in side_by_side(move, wheels, _AT_ONCE) if wheel is not None]

    def _move(self, wheel: Wheel) -> None:
        with tempfile.TemporaryDirectory(prefix="prefect-coiled-wheel-") as folder:
            path = self._locked.fetch(wheel, Path(folder))
            size = path.stat().st_size
            notes = Notes(kept.folder("uploads"), kept.read, kept.write)
            bucket.put_file(self._aws, self._name, wheel.key, path, notes)
        with self._lock:
            self.moved.append(size)
            now = self._clock()
            if now - self._told < _TELL_EVERY:
                return
            self._told = now
            done = sum(self.moved)
        of = f" of {self._total / 1e6:.1f}" if self._total > done else ""
        events.step("environment", f"{done / 1e6:.1f}{of} MB uploaded in {now - self._started:.0f} s")


def read_lock(aws: Aws, name: str, key: str) -> Lock | None:
    """The lock that is kept under a key, if one is and if it can be read."""
    content = bucket.read_file(aws, name, key)
    if content is None:
        return None
    try:
        return Lock.parse(content.decode())
    except (OptionsError, UnicodeDecodeError):
        return None
