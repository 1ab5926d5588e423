"""Callbacks of futures: one that waits, or takes its time, keeps nobody else from hearing of an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.futures import as_completed

from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.callbacks import Callbacks


@task
def double(x: int) -> int:
    return 2 * x


def test_a_callback_may_wait_for_other_tasks_of_its_own(runner: CoiledTaskRunner, tmp_path: Path) -> None:
    @task
    def waits(n: int) -> int:
        deadline = time.monotonic() + 300
        while not (tmp_path / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        return n

    heard: list[int] = []
    over = threading.Event()

    @flow(task_runner=runner)
    def chain() -> list[int]:
        others = [waits.submit(n) for n in range(2)]
        told: list[Any] = []

        def adds(future: Any) -> None:
            # They end while this waits, and have callbacks of their own.
            others[0].add_done_callback(told.append)
            (tmp_path / "go").touch()
            heard.append(future.result() + sum(each.result() for each in as_completed(others, timeout=300)))
            over.set()

        first = double.submit(10)
        first.add_done_callback(adds)
        assert over.wait(300)
        return heard

    assert chain() == [20 + 1]


def test_a_callback_that_takes_its_time_keeps_no_other_flow_waiting(runner: CoiledTaskRunner) -> None:
    goes_on, began = threading.Event(), threading.Event()

    @flow(task_runner=runner)
    def slow() -> None:
        def sleeps(future: Any) -> None:
            began.set()
            goes_on.wait(600)

        double.submit(1).add_done_callback(sleeps)
        assert began.wait(300)

    @flow(task_runner=runner)
    def other() -> list[int]:
        many = double.map(range(3))
        told: list[Any] = []
        ended = threading.Semaphore(0)
        for future in many:
            future.add_done_callback(lambda future: (told.append(future), ended.release()))
        assert all(ended.acquire(timeout=300) for _ in many)
        return sorted(future.result(timeout=300) for future in as_completed(list(many), timeout=300))

    slow()
    try:
        assert other() == [0, 2, 4]
    finally:
        goes_on.set()


def test_what_prefect_leaves_is_called_first_and_where_the_news_comes_in() -> None:
    calls: list[tuple[str, bool]] = []
    over = threading.Event()

    def noted(who: str, then: Callable[[], None]) -> Callable[[Any], None]:
        def note(future: Any) -> None:
            calls.append((who, threading.current_thread() is here))
            then()

        return note

    here = threading.current_thread()
    callbacks = Callbacks()
    callbacks.users.append(noted("user", over.set))
    callbacks.prefects.append(noted("prefect", lambda: None))
    callbacks.call(None)
    assert over.wait(300)
    assert calls == [("prefect", True), ("user", False)]
