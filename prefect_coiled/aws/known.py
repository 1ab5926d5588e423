"""What is known of an account in a region, in a parameter: so that a launch need not look at all of it again.

    a launch that looked ─▶ note it, as version n + 1
    a later one ─▶ read it, who holds the lease, and who has the name, by one call
    whoever changes something ─▶ forget: version n + 1 is "nothing" ─▶ looks, changes

AWS numbers what is written to a parameter. What is noted says which number it expects: where somebody
wrote in between, it has another one, and nobody believes it. Whoever changes something that clusters share
holds the lease, and forgets before looking at what is in use. So a launch that claimed its name, and then
read what is known while nobody held the lease, is seen by whoever comes after: what it uses stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import boto3

from prefect_coiled.aws import leases
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import (
    STANDARD_LIMIT,
    age_in,
    claim,
    intent_of,
    known_of,
    read_parameter,
    renew,
    set_up_lease,
)
from prefect_coiled.aws.waits import persistently
from prefect_coiled.errors import AccessDeniedError
from prefect_coiled.install import library_version
from prefect_coiled.plan.cluster import uid_of
from prefect_coiled.plan.known import NOTHING, Known, wants_of

# Seconds after which all is looked at again: somebody may have changed it in AWS's console.
GOOD_FOR = 3600.0

# What this process has read, so that a launch begins with it; it is read again before machines are launched.
_REMEMBERED: WeakKeyDictionary[boto3.Session, dict[tuple[str, ...], tuple[float, Known]]] = (
    WeakKeyDictionary()
)


class Seen(NamedTuple):
    """What was read at once.

    Attributes:
        version: The number of what is written, believed or not; 0 for nothing.
        leased: Whether somebody makes or removes what clusters share now.
        holder: The uid of the cluster that has the name; None if it is free.
    """

    version: int
    known: Known | None
    leased: bool
    holder: str | None


def see(aws: Aws, cluster: str) -> Seen | None:
    """Read what is known, who holds the lease, and who has a cluster's name, by one call.

    Returns:
        None where the policy is of a version that does not permit the call.
    """
    names = known_of(aws.account), set_up_lease(aws.account), intent_of(aws.account, cluster)
    what = f"reading what is known of account ({aws.account})"
    try:
        reply = aws.call("ssm:GetParameters", what, Names=list(names))
    except AccessDeniedError:
        return None
    found = {str(one["Name"]): one for one in reply["Parameters"]}
    noted, lease, intent = (found.get(name) for name in names)
    version = int(noted["Version"]) if noted is not None else 0
    known = None
    if noted is not None and age_in(reply, noted) <= GOOD_FOR:
        known = Known.decode(str(noted["Value"]))
    if known is not None and not _believed(aws, known, version):
        known = None
    _remember(aws, known)
    return Seen(
        version=version,
        known=known,
        leased=lease is not None and age_in(reply, lease) <= leases.GOOD_FOR,
        holder=uid_of(str(intent["Value"])) if intent is not None else None,
    )


def remembered(aws: Aws) -> Known | None:
    """What this process knows from before."""
    since, known = _REMEMBERED.get(aws.session, {}).get(_place(aws), (0.0, None))
    return known if time.monotonic() - since <= GOOD_FOR else None


def wants(aws: Aws) -> str:
    """See `wants_of`."""
    partition = aws.session.get_partition_for_region(aws.region)
    return wants_of(aws.account, aws.number, aws.boundary, library_version(), partition)


def note(aws: Aws, known: Known) -> bool:
    """Keep what is known, by the number that it expects. Returns whether that is its number."""
    value, name = known.encode(), known_of(aws.account)
    if len(value) > STANDARD_LIMIT:
        return False
    if known.version == 1:
        kept = claim(aws, name, value, aws.labels())
    else:
        kept = renew(aws, name, value) == known.version
    _remember(aws, known if kept else None)
    return kept


def forget(aws: Aws) -> None:
    """Have nobody believe any more what is known."""
    _remember(aws, None)
    renew(aws, known_of(aws.account), NOTHING)


@contextmanager
def changing(aws: Aws, *, ends: bool = False) -> Iterator[None]:
    """Hold the lease of what clusters share. Nothing is known from now on, so that launches look.

    Args:
        ends: Whether the account goes: then nothing is written that is not there.

    Raises:
        PrefectCoiledError: As `lease` does.
    """
    with leases.lease(aws, set_up_lease(aws.account)):
        if ends and read_parameter(aws, known_of(aws.account)) is None:
            yield
            return
        persistently(aws, f"forgetting what is known of account ({aws.account})", lambda: forget(aws))
        yield


def _believed(aws: Aws, known: Known, version: int) -> bool:
    of_account = (known.account.account, known.account.region) == (aws.account, aws.region)
    return known.version == version and of_account and known.wants == wants(aws)


def _place(aws: Aws) -> tuple[str, ...]:
    return aws.endpoint_url or "", aws.account, aws.region


def _remember(aws: Aws, known: Known | None) -> None:
    here = _REMEMBERED.setdefault(aws.session, {})
    if known is None:
        here.pop(_place(aws), None)
    elif (kept := here.get(_place(aws))) is None or kept[1] != known:
        here[_place(aws)] = time.monotonic(), known
