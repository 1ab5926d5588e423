"""Steps that bring the client's environment into the account's bucket, where the machines install from."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prefect_coiled.aws import bucket
from prefect_coiled.aws.door import Aws
from prefect_coiled.environment import Lock, Locked, Wheel, capture, lock
from prefect_coiled.environment.software import lock_software
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.user_data import Place, check_python
from prefect_coiled.records import Record
from prefect_coiled.tasks.steps import Session, step

# Uploads side by side; each goes through a door of its own pool of 32 connections.
_AT_ONCE = 8


class Delivery(Record):
    """What a delivery into the bucket moved.

    Attributes:
        place: Where the list of packages is, for the machines.
        wheels: Wheels in the list.
        downloaded: Bytes fetched from package indexes.
        uploaded: Bytes put into the bucket.
        sent: Wheels put into the bucket.
    """

    place: Place
    wheels: int
    downloaded: int = 0
    uploaded: int = 0
    sent: int = 0

    def __str__(self) -> str:
        if not self.sent:
            return f"{self.wheels} packages, all in the bucket"
        return f"{self.wheels} packages, {self.sent} uploaded ({self.uploaded / 1e6:.1f} MB)"


def prepare(spec: ClusterSpec, tell: Callable[[str], None] = lambda note: None) -> Locked:
    """Lock what the machines of a cluster shall have. Makes nothing in AWS.

    Args:
        spec: The cluster.
        tell: Called with each thing that a user should know.

    Raises:
        OptionsError: A package cannot be had for the machines, or Python itself.
    """
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
        tell(note)
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
    return send(aws, session.locked, bucket.ensure_bucket(aws, aws_account_id))


def send(aws: Aws, locked: Locked, name: str) -> Delivery:
    """See `deliver`; into the bucket of that name."""
    there = bucket.list_files(aws, name, "wheels/")
    missing = [w for w in locked.lock.files if w.key not in there]
    moved: list[tuple[int, int]] = []

    def move(wheel: Wheel) -> None:
        with tempfile.TemporaryDirectory(prefix="prefect-coiled-wheel-") as folder:
            path = locked.fetch(wheel, Path(folder))
            size = path.stat().st_size
            bucket.put_file(aws, name, wheel.key, path)
            moved.append((0 if wheel.sha256 in locked.built else size, size))

    # The largest first, so that none of them is alone at the end.
    missing.sort(key=lambda wheel: -wheel.size)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wheels") as pool:
        list(pool.map(move, missing))
    made = locked.lock
    # The list last: as long as it is there, so is what it names.
    if missing or made.key not in there:
        bucket.put_file(aws, name, made.key, made.text().encode())
    return Delivery(
        place=Place(name, made.key, made.python),
        wheels=len(made.wheels),
        downloaded=sum(down for down, _ in moved),
        uploaded=sum(up for _, up in moved),
        sent=len(missing),
    )


def read_lock(aws: Aws, name: str, key: str) -> Lock | None:
    """The lock that is kept under a key, if one is and if it can be read."""
    content = bucket.read_file(aws, name, key)
    if content is None:
        return None
    try:
        return Lock.parse(content.decode())
    except (OptionsError, UnicodeDecodeError):
        return None
