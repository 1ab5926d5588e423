"""Honours a global concurrency limit of Prefect's: how many clusters of an account may run at once.

The limit is named `prefect-coiled:ACCOUNT`; where there is none, nothing is limited. Each cluster takes one
of its slots on a lease, renewed as long as whoever made the cluster lives, and gives it back when the cluster
is gone. After a crash the lease runs out by itself. Clusters that were left running hold no lease: what AWS
shows in the region counts against the limit as well.

A Prefect server counts the slots in its database, but keeps the leases in its memory unless it is told
otherwise. One that was started again has the count without the leases: who lives takes a lease anew; what
the dead held then nobody can tell from what the living hold, so that the user is told how to free it. The
same holds for the temporary servers of programs without an API: those let no lease run out.

`prefect.concurrency` would renew by itself, but is no way here: its wait ends by nobody's stop and cannot
count what AWS shows before each try, and it takes no new lease where a restarted server has lost the old one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext, get_settings_context
from prefect.exceptions import ObjectNotFound

from prefect_coiled import events
from prefect_coiled.errors import StoppedError, UnavailableError
from prefect_coiled.internals.prefect import slot_holder

logger = logging.getLogger(__name__)

# Seconds: Prefect allows no shorter lease; how often it is renewed; and between two tries to get one.
LEASE, RENEWED_EVERY, TRY_AGAIN = 60.0, 20.0, 5.0
# Seconds after which the API has looked for leases that ran out, and taken their slots back.
_LEASES_ARE_OVER = LEASE + 30.0
# What the API answers where no slot is free, and where it does not know the lease.
_LOCKED, _GONE = 423, 410
# Seconds without an answer of the API after which who waits gives up; Prefect's client asks for some itself.
_AWAY = 120.0
# Seconds for which who gives a slot back asks an API that is not there, and between two tries.
_GIVING_BACK, _PAUSE = 20.0, 1.0


class Slot:
    """A slot that is held.

    Args:
        lease_id: The lease at the Prefect API.
        holder: Who holds it, as the API shows it.
        waited: Seconds that it was waited for.
        clock: Seconds, of the wall: they pass for a machine that sleeps as they pass for the API.
    """

    def __init__(
        self,
        limit: str,
        lease_id: UUID,
        holder: Any = None,
        waited: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit = limit
        self.lease_id: UUID | None = lease_id
        self.waited = waited
        self._holder = holder
        self._clock = clock
        self._renewed = clock()
        # Whether the API counts a slot that was this one's, and that nobody holds.
        self._nobodys = False
        self._over = threading.Event()
        # A new thread would have the settings of the process; the API may be another's.
        self._settings = get_settings_context().model_copy()
        # All that is asked of the API is asked by this thread, one thing after the other.
        self._thread = threading.Thread(target=self._keep, name="slot", daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        with self._settings:
            while not self._over.wait(RENEWED_EVERY):
                try:
                    with get_client(sync_client=True) as client:
                        self._renew(client)
                except Exception as error:  # the next round tries again; the cluster goes on in any case
                    logger.info("The lease on a cluster's slot was not renewed: %s", error)
            end = self._clock() + _GIVING_BACK
            while True:
                try:
                    with get_client(sync_client=True) as client:
                        self._give_back(client)
                    return
                except Exception as error:
                    if not isinstance(error, httpx.ConnectError) or self._clock() > end:
                        logger.info("A cluster's slot was not given back, and will be in a minute: %s", error)
                        return
                time.sleep(_PAUSE)  # an API that is started anew, which lets no lease run out that it lost

    def _renew(self, client: SyncPrefectClient) -> None:
        if self._is_leased(client):
            return
        self._free_nobodys(client)
        if not self._over.is_set() and (fresh := _increment(client, self.limit, self._holder)) is not None:
            self._renewed, self.lease_id = self._clock(), fresh

    def _is_leased(self, client: SyncPrefectClient) -> bool:
        """Renew the lease. Returns whether the API knows it."""
        if self.lease_id is None:
            return False
        try:
            client.renew_concurrency_lease(self.lease_id, LEASE)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != _GONE:
                raise
            self.lease_id = None
            # It cannot have run out: the API was started anew, and counts a slot that nobody holds.
            self._nobodys = self._clock() - self._renewed < LEASE
            return False
        self._renewed = self._clock()
        return True

    def _free_nobodys(self, client: SyncPrefectClient) -> None:
        """Have the API count no slot that was this one's, and that nobody holds."""
        if not self._nobodys:
            return
        try:
            client.release_concurrency_slots([self.limit], 1, LEASE)
        except httpx.ConnectError:
            raise  # it was not asked, and is again
        except httpx.HTTPError:
            self._nobodys = False  # asked twice, it would take a slot of another's
            raise
        self._nobodys = False

    def _give_back(self, client: SyncPrefectClient) -> None:
        # It says nothing of a lease that it does not know, but to who renews it.
        if self._is_leased(client):
            lease_id, self.lease_id = self.lease_id, None
            assert lease_id is not None
            client.release_concurrency_slots_with_lease(lease_id)
        else:
            self._free_nobodys(client)

    def release(self) -> None:
        """Give the slot back; again does no harm. Where the API does not answer, the lease runs out."""
        self._over.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(_GIVING_BACK)


def take_slot(
    account: str,
    running: Callable[[], int],
    *,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
) -> Slot | None:
    """Take a slot of the account's limit; wait until there is one.

    Args:
        running: Counts the account's clusters that AWS shows.

    Returns:
        The slot, or None where the account has no limit.

    Raises:
        StoppedError: If a stop is asked for while waiting.
    """
    name, began, told = f"prefect-coiled:{account}", clock(), set[str]()

    def tell(text: str) -> None:
        if text not in told:
            told.add(text)
            events.step("slot", text)

    holder, answered = _holder(), began
    with get_client(sync_client=True) as client:
        while True:
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
                if not limit.active:
                    return None
                there = running()
                if there < limit.limit and (lease_id := _increment(client, name, holder)) is not None:
                    return Slot(name, lease_id, holder, clock() - began)
                answered = clock()
            except ObjectNotFound:
                return None
            except UnavailableError as error:
                if clock() - answered > _AWAY:
                    raise
                tell(f"AWS does not answer, and is asked again: {error.diagnosis.why}")
            except httpx.HTTPError as error:
                # Whoever waits anyway gives an API that is busy, or is started anew, its time.
                if not _passes(error) or clock() - answered > _AWAY:
                    raise
                tell("the Prefect API does not answer, and is asked again")
            else:
                if not any(text.startswith("waiting") for text in told):
                    tell(f"waiting: limit {name} allows {limit.limit} clusters, and {there} run")
                if there < limit.limit and clock() - began > _LEASES_ARE_OVER:
                    tell(
                        f"still waiting: {limit.active_slots} slots of {name} are held, and {there} clusters"
                        " run. If no program holds them, free them:"
                        f" prefect gcl update {name} --active-slots {there}"
                    )
            if stop.wait(TRY_AGAIN):
                raise StoppedError(f"waiting for a slot of the limit {name!r}", "a stop was asked for")


def _passes(error: httpx.HTTPError) -> bool:
    """Whether an error of the API's may pass by itself."""
    if not isinstance(error, httpx.HTTPStatusError):
        return True
    return error.response.status_code >= 500 or error.response.status_code == 429


def _holder() -> Any:
    """The flow run that takes a slot, as the API shows it; None outside of flows."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    return slot_holder(context.flow_run.id)


def _increment(client: SyncPrefectClient, name: str, holder: Any) -> UUID | None:
    """The lease on one slot; None if all are taken."""
    try:
        reply = client.increment_concurrency_slots_with_lease([name], 1, "concurrency", LEASE, holder)
    except httpx.HTTPStatusError as error:
        if error.response.status_code == _LOCKED:
            return None
        raise
    return UUID(reply.json()["lease_id"])
