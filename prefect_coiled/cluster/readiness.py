"""Waits until a launched cluster is of use: the scheduler answers by TLS, and enough workers have joined.

Fails as soon as the target cannot be reached any more, with the machines' own last words.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable

from prefect_coiled.aws import instances
from prefect_coiled.cluster.base import ClusterBase
from prefect_coiled.cluster.last_words import last_words
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.errors import AwsError, ClusterStartError, StoppedError, UnavailableError

# Seconds between two looks at the machines in AWS, and between two tries to connect.
_LOOK, _TRY = 5.0, 0.1
# Seconds for one try to connect to a scheduler that answers, and to see whether anything does.
_CONNECT = 15.0
_KNOCK = 3.0
_LAST_LINES, _ASKED = 80, 5
_DEAD = ("shutting-down", "terminated", "stopping", "stopped")


async def wait_until_ready(
    cluster: ClusterBase,
    launched: Launched,
    *,
    least: int,
    timeout: float,
    began: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Connect to the scheduler, then wait until `least` workers have joined.

    Args:
        timeout: Seconds from `began` on.
        began: When the machines were launched, by the same clock.

    Raises:
        ClusterStartError: If the time is up, or machines ended so that too few are left.
    """
    end = began + timeout
    next_look = clock() + _LOOK
    pause = _TRY
    connected = False
    last = ""
    told = -1
    while True:
        if cluster.stop_event.is_set():
            raise StoppedError("waiting for the cluster", "a stop was asked for")
        if not connected:
            try:
                await _knock(launched)
                # Dask's own time-out covers only a part of connecting.
                await asyncio.wait_for(
                    cluster.connect(launched.address), min(_CONNECT, max(end - clock(), 0.1))
                )
                connected = True
                cluster.step("scheduler", "ready")
            except (OSError, asyncio.TimeoutError) as error:
                last = str(error) or "no answer"
        if connected:
            ready = len(cluster.observed)
            if ready != told:
                told = ready
                cluster.step("workers", f"{ready} ready (of {len(cluster.workers)})")
            if ready >= least:
                return
        if clock() >= next_look:
            next_look = clock() + _LOOK
            await _check_machines(cluster, launched, least)
        if clock() >= end:
            await _give_up(cluster, launched, timeout, connected, least, last)
        await asyncio.sleep(pause)
        pause = min(pause * 1.2, 0.5) if not connected else _TRY


async def _knock(launched: Launched) -> None:
    """See whether the scheduler's port is open. Dask's own retries wait longer and longer in between.

    Raises:
        OSError: If it is not.
    """
    record = launched.record
    _, writer = await asyncio.wait_for(
        asyncio.open_connection(record.scheduler_host, record.scheduler_port), _KNOCK
    )
    writer.close()


async def _check_machines(cluster: ClusterBase, launched: Launched, least: int) -> None:
    try:
        found = await cluster.in_thread(launched.machines, (*instances.LIVE, *_DEAD))
    except UnavailableError:
        return  # the next look may be answered
    dead = {i.instance_id for i in found if i.state in _DEAD}
    scheduler = launched.record.scheduler.instance_id
    if scheduler in dead:
        reason = next((i.state_reason.rstrip(". ") for i in found if i.instance_id == scheduler), "")
        why = f"the scheduler's machine ended{': ' if reason else ''}{reason}"
        raise await _failure(cluster, launched, why, [scheduler])
    lost = [w for w in cluster.workers if w in dead and w not in cluster.observed]
    if lost and len(cluster.workers) - len(lost) < least:
        why = f"{len(lost)} of {len(cluster.workers)} worker machines ended"
        raise await _failure(cluster, launched, why, lost)


async def _give_up(
    cluster: ClusterBase, launched: Launched, timeout: float, connected: bool, least: int, last: str
) -> None:
    if not connected:
        since = "" if launched.attached else " of its launch"
        why = f"the scheduler did not answer within {timeout:.0f} s{since} ({last})"
        raise await _failure(cluster, launched, why, [launched.record.scheduler.instance_id])
    silent = [w for w in cluster.workers if w not in cluster.observed]
    why = f"{len(cluster.observed)} of {least} workers joined within {timeout:.0f} s of the launch"
    raise await _failure(cluster, launched, why, silent)


async def _failure(
    cluster: ClusterBase, launched: Launched, why: str, ids: Iterable[str]
) -> ClusterStartError:
    """The error, with the last words of some of the machines, the same words counted."""
    await cluster.in_thread(launched.doubt)
    some = list(ids)[:_ASKED]
    texts = await asyncio.gather(*(cluster.in_thread(_log, launched, one) for one in some))
    said = Counter(" | ".join(last_words(t)) for t in texts)
    words = "; ".join(f"{n} x said: {text or 'nothing'}" for text, n in said.most_common())
    name, said_all = launched.record.name, f"{why}. {words}".rstrip(". ")
    if launched.attached:
        next_step = f"It runs on: `prefect-coiled firewall {name}` says who may reach it, `stop` ends it."
        return ClusterStartError(f"attaching to cluster {name!r}", said_all, next_step)
    next_step = "Nothing is left running. The machines' logs stay in CloudWatch for 30 days."
    return ClusterStartError(f"starting cluster {name!r}", said_all, next_step)


def _log(launched: Launched, machine: str) -> str:
    """The end of a machine's log; why it cannot be read is told in its place: it is not the first cause."""
    try:
        return launched.log(machine, _LAST_LINES)
    except AwsError as error:
        return f"(its log cannot be read: {' '.join(str(error).split())})"
