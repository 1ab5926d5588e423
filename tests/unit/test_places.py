"""A worker's pool has as many places after tasks that waited, and were interrupted, as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import distributed
import pytest
from distributed.threadpoolexecutor import ThreadPoolExecutor
from distributed.utils import thread_state
from prefect.utilities.timeout import timeout

from prefect_coiled.internals.distributed import Place, StandIn
from prefect_coiled.task_runner.slot import slot_given_back


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker's pool with one place, whose tasks think themselves on a worker."""
    loop = SimpleNamespace(add_callback=lambda *args: None)
    worker = SimpleNamespace(loop=loop, handle_stimulus=lambda event: None)
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(distributed.worker, "get_worker", lambda: worker)
    monkeypatch.setattr("prefect_coiled.internals.distributed.get_worker", lambda: worker)
    made = ThreadPoolExecutor(1, thread_name_prefix="places")
    yield made
    made.shutdown(wait=False)


def on(pool: Any, task: Callable[[], Any]) -> Any:
    def run() -> Any:
        thread_state.key, thread_state.start_time = "key", time.time()
        return task()

    return pool.submit(run)


def test_a_time_limit_that_strikes_within_a_wait_waits_for_no_place(pool: Any) -> None:
    free = threading.Event()

    def waits_for_long() -> None:
        with slot_given_back():
            on(pool, free.wait)  # who has the place now keeps it
            for _ in range(2_000):
                time.sleep(0.005)

    def waits() -> float:
        begun = time.monotonic()
        with pytest.raises(TimeoutError), timeout(0.3, timeout_exc_type=TimeoutError):
            waits_for_long()
        return time.monotonic() - begun

    waiting = on(pool, waits)
    assert waiting.result(30) < 5
    free.set()
    assert on(pool, lambda: 42).result(30) == 42


def test_a_thread_that_comes_back_too_late_leaves_its_place(pool: Any) -> None:
    over, back = threading.Event(), threading.Event()

    def limited() -> None:
        stand_in = StandIn()

        def work() -> None:
            stand_in.enter()
            with slot_given_back():
                over.wait(30)
            back.set()
            stand_in.end()

        thread = threading.Thread(target=work)
        thread.start()
        while thread in pool._threads or not pool._threads:  # until it has given its place back
            time.sleep(0.01)
        stand_in.leave()  # its time is over
        over.set()
        told.append(thread)

    told: list[threading.Thread] = []
    on(pool, limited).result(30)
    assert back.wait(30)
    told[0].join(30)
    assert told[0] not in pool._threads
    assert on(pool, lambda: 42).result(30) == 42


def test_what_a_task_left_running_has_no_place_to_leave(pool: Any) -> None:
    places: list[Place] = []

    def task() -> None:
        place = Place()
        places.append(place)
        place.end()

    on(pool, task).result(30)
    before = set(pool._threads)
    places[0].leave()
    assert set(pool._threads) == before
