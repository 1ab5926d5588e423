"""A slot of an account's limit is free again, whatever becomes of who held it, and of the API."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.errors import StoppedError
from prefect_coiled.events import hearing
from prefect_coiled.provision import slots

Until = Callable[..., Any]
pytestmark = pytest.mark.timeout(300)

_NAME = "prefect-coiled:limited"
# Seconds of a lease, by the setting of the server below.
_LEASE = 3.0
_HOLD = """
import sys, threading
from prefect_coiled.provision import slots
slots.RENEWED_EVERY = 0.5
slot = slots.take_slot("limited", lambda: 0, stop=threading.Event())
print(slot.lease_id, flush=True)
sys.stdin.read()
slot.release()
"""


class Api:
    """A Prefect server whose leases are short, and that can be started anew.

    Attributes:
        environ: Its environment, and that of its clients.
    """

    def __init__(
        self, environ: dict[str, str], serve: Callable[[dict[str, str]], AbstractContextManager[Any]]
    ) -> None:
        self.environ = environ
        self._serve = serve
        self._running = ExitStack()
        self.start()

    def start(self) -> None:
        self._running.enter_context(self._serve(self.environ))

    def stop(self) -> None:
        self._running.close()

    def slots(self) -> int:
        """The slots that it counts as taken."""
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(_NAME).active_slots


@pytest.fixture(scope="module")
def api(another_environ: dict[str, str], serve: Any) -> Iterator[Api]:
    environ = {
        **another_environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "quick_leases",
        "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1",
    }
    with temporary_settings({PREFECT_API_URL: environ["PREFECT_API_URL"]}):
        made = Api(environ, serve)
        yield made
        made.stop()


@pytest.fixture
def one_slot(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A limit of one cluster, and quick tries to get its slot."""
    monkeypatch.setattr(slots, "TRY_AGAIN", 0.1)
    monkeypatch.setattr(slots, "RENEWED_EVERY", 0.5)
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=_NAME, limit=1))
    yield
    with get_client(sync_client=True) as client:
        client.delete_global_concurrency_limit_by_name(_NAME)


@pytest.fixture
def holder(api: Api, one_slot: None) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the only slot."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        env=api.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip()  # its lease
    yield process
    process.kill()
    process.communicate()


def take(stop: threading.Event | None = None, **keywords: Any) -> slots.Slot | None:
    said = keywords.pop("said", [])
    with hearing(lambda event: said.append(event.text)):
        return slots.take_slot("limited", lambda: 0, stop=stop or threading.Event(), **keywords)


def test_the_slot_of_a_killed_process_is_the_next_ones_when_the_lease_has_run_out(
    api: Api, holder: subprocess.Popen[str]
) -> None:
    # As long as it lives the lease does not run out: it is renewed.
    end = time.monotonic() + 2 * _LEASE
    while time.monotonic() < end:
        assert api.slots() == 1
        time.sleep(0.1)
    holder.kill()
    holder.wait()
    assert api.slots() == 1
    began, said = time.monotonic(), []
    slot = take(said=said)
    assert slot is not None
    # Not for ever, and not at once: what renewed last had half a second to go.
    assert _LEASE - 1 < time.monotonic() - began < 60
    assert slot.waited > _LEASE - 1
    assert said == [f"waiting: limit {_NAME} allows 1 clusters, and 0 run"]
    assert api.slots() == 1
    slot.release()
    assert api.slots() == 0


@pytest.mark.parametrize("when", ["before the API has renewed it", "before the answer is there"])
def test_a_slot_that_is_given_back_while_it_is_renewed_costs_nobody_else_his(
    when: str, api: Api, one_slot: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "RENEWED_EVERY", 0.2)
    leases, released = dict[UUID, slots.Slot](), list[UUID]()
    renews = SyncPrefectClient.renew_concurrency_lease
    releases = SyncPrefectClient.release_concurrency_slots_with_lease

    def renew(client: SyncPrefectClient, lease_id: UUID, seconds: float) -> None:
        if lease_id in leases and when.startswith("before the API"):
            leases[lease_id].release()
        renews(client, lease_id, seconds)
        if lease_id in leases:
            leases[lease_id].release()

    def release(client: SyncPrefectClient, lease_id: UUID) -> None:
        released.append(lease_id)
        releases(client, lease_id)

    monkeypatch.setattr(SyncPrefectClient, "renew_concurrency_lease", renew)
    monkeypatch.setattr(SyncPrefectClient, "release_concurrency_slots_with_lease", release)
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(_NAME, GlobalConcurrencyLimitUpdate(limit=2))
    first, second = take(), take()
    assert first is not None
    assert second is not None
    lease = first.lease_id
    assert lease is not None
    leases[lease] = first  # from now on it is given back while it is renewed
    first._thread.join(60)
    # Asked twice at one moment, the API takes two slots off.
    assert released == [lease]
    assert api.slots() == 1
    second.release()
    assert api.slots() == 0


def test_who_lives_keeps_its_slot_when_the_api_is_started_anew_and_gives_it_back(
    api: Api, one_slot: None, until: Until
) -> None:
    slot = take()
    assert slot is not None
    before = slot.lease_id
    api.stop()
    api.start()
    # It counts the slot and knows no lease.
    until(lambda: slot.lease_id not in (None, before), 60)
    assert api.slots() == 1
    slot.release()
    assert api.slots() == 0


def test_a_slot_that_ran_out_while_the_machine_slept_is_taken_again_and_no_other_is_freed(
    api: Api, one_slot: None, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = threading.Event()
    slot = take()
    assert slot is not None
    renew = slot._renew
    monkeypatch.setattr(slot, "_renew", lambda client: None if asleep.is_set() else renew(client))
    asleep.set()
    until(lambda: api.slots() == 0, 60)
    other = take()
    assert other is not None
    slot._renewed -= slots.LEASE  # so long it slept by its own clock
    asleep.clear()
    until(lambda: slot.lease_id is None, 30)
    assert api.slots() == 1
    other.release()
    until(lambda: slot.lease_id is not None, 30)
    slot.release()
    assert api.slots() == 0


def test_a_slot_that_nobody_holds_is_told_of_with_what_frees_it(api: Api, one_slot: None) -> None:
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(_NAME, GlobalConcurrencyLimitUpdate(active_slots=1))
    said: list[str] = []
    stop = threading.Event()
    times = iter([0.0, 1.0, 100.0])

    def clock() -> float:
        now = next(times)
        if now == 100.0:
            stop.set()
        return now

    with pytest.raises(StoppedError):
        take(stop, said=said, clock=clock)
    assert said[-1].endswith(
        f"If no program holds them, free them: prefect gcl update {_NAME} --active-slots 0"
    )
    command = said[-1].partition("free them: ")[2].split()
    subprocess.run(
        [sys.executable, "-m", *command], env=api.environ, check=True, capture_output=True, timeout=120
    )
    slot = take()
    assert slot is not None
    slot.release()
