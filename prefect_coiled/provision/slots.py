"""Honours a global concurrency limit of Prefect's: how many clusters of an account may run at once.

The limit is named `prefect-coiled:ACCOUNT`; where there is none, nothing is limited. Each cluster takes one
of its slots on a lease, renewed as long as whoever made the cluster lives, and gives it back when the cluster
is gone. After a crash the lease runs out by itself. Clusters that were left running hold no lease: what AWS
shows in the region counts against the limit as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound

from prefect_coiled.errors import StoppedError

__all__ = ["LEASE", "Slot", "limit_name", "take_slot"]

logger = logging.getLogger(__name__)

# Seconds: Prefect allows no shorter lease; how often it is renewed; and between two tries to get one.
LEASE, RENEWED_EVERY, TRY_AGAIN = 60.0, 20.0, 5.0
_LOCKED = 423  # what the API answers where no slot is free


def limit_name(account: str) -> str:
    """Name of the limit of an account."""
    return f"prefect-coiled:{account}"


class Slot:
    """A slot that is held.

    Args:
        lease_id: The lease at the Prefect API.
        waited: Seconds that it was waited for.
    """

    def __init__(self, lease_id: UUID, waited: float = 0.0) -> None:
        self.lease_id = lease_id
        self.waited = waited
        self._over = threading.Event()
        threading.Thread(target=self._keep, name="slot", daemon=True).start()

    def _keep(self) -> None:
        while not self._over.wait(RENEWED_EVERY):
            try:
                with get_client(sync_client=True) as client:
                    client.renew_concurrency_lease(self.lease_id, LEASE)
            except Exception as error:  # the next round tries again; the cluster goes on in any case
                logger.info("The lease on a cluster's slot was not renewed: %s", error)

    def release(self) -> None:
        """Give the slot back; again does no harm. Where the API does not answer, the lease runs out."""
        if self._over.is_set():
            return
        self._over.set()
        try:
            with get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(self.lease_id)
        except Exception as error:
            logger.info("A cluster's slot was not given back, and will be in a minute: %s", error)


def take_slot(
    account: str,
    running: Callable[[], int],
    *,
    report: Callable[[str, str], None],
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> Slot | None:
    """Take a slot of the account's limit; wait until there is one.

    Args:
        account: The account's slug.
        running: Counts the account's clusters that AWS shows.
        report: Called with (step, state) while it waits.
        stop: Ends the wait.
        clock: Seconds, monotonic.

    Returns:
        The slot, or None where the account has no limit.

    Raises:
        StoppedError: If a stop is asked for while waiting.
    """
    name, began, told = limit_name(account), clock(), False
    with get_client(sync_client=True) as client:
        while True:
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                return None
            if not limit.active:
                return None
            there = running()
            if there < limit.limit and (lease_id := _increment(client, name)) is not None:
                return Slot(lease_id, clock() - began)
            if not told:
                told = True
                report("slot", f"waiting: limit {name} allows {limit.limit} clusters, and {there} run")
            if stop.wait(TRY_AGAIN):
                raise StoppedError(f"waiting for a slot of the limit {name!r}", "a stop was asked for")


def _increment(client: Any, name: str) -> UUID | None:
    """The lease on one slot; None if all are taken."""
    context = FlowRunContext.get()
    holder = None
    if context is not None and context.flow_run is not None:
        from prefect.types._concurrency import ConcurrencyLeaseHolder

        holder = ConcurrencyLeaseHolder(type="flow_run", id=context.flow_run.id)
    try:
        reply = client.increment_concurrency_slots_with_lease([name], 1, "concurrency", LEASE, holder)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == _LOCKED:
            return None
        raise
    return UUID(reply.json()["lease_id"])
