"""What workers hand over at a flow run's end: whose last states are on their way gets no other one."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect import task

from prefect_coiled.task_runner import CoiledTaskRunner, lost_tasks, recording, runner
from prefect_coiled.task_runner.event_batches import Batch, Event
from prefect_coiled.task_runner.lost_tasks import Ended, unfinished
from prefect_coiled.task_runner.recording import Recording


@task
def work() -> None: ...


class Workers:
    """A client whose workers hold these batches, or never answer; a connection that runs what it is given."""

    status = "running"

    def __init__(self, held: dict[str, list[Batch] | None]) -> None:
        self.ready, self.stop, self.scheduler = self, SimpleNamespace(set=lambda: None), self
        self._held = held

    def run(self, what: Any, *args: Any, **_: Any) -> Any:
        if what is recording.flush_worker:
            raise TimeoutError  # as Dask's client does where one is silent
        return what(*args)

    def sync(self, what: Any, callback_timeout: float) -> Any:
        return asyncio.run(what())

    async def ncores(self) -> dict[str, int]:
        return dict.fromkeys(self._held, 1)

    async def _run(self, what: Any, *args: Any, workers: list[str], on_error: str) -> Any:
        if None in (held := {worker: self._held[worker] for worker in workers}).values():
            await asyncio.sleep(60)
        return held

    def close(self) -> None: ...


class Api:
    """An API that has some task runs as ended, and says what it is asked."""

    def __init__(self, ended: set[UUID], down: bool = False) -> None:
        self.ended, self.down, self.made = ended, down, 0
        self.asked: list[tuple[str, int]] = []
        self.told: set[UUID] = set()

    def client(self, **_: Any) -> Api:
        self.made += 1
        return self

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def read_task_runs(self, task_run_filter: Any, limit: int) -> list[Any]:
        ids = task_run_filter.id.any_
        self.asked.append(("which have ended", len(ids)))
        if self.down:
            raise RuntimeError("it does not list any")
        return [SimpleNamespace(id=run) for run in ids if run in self.ended]

    def read_task_run(self, run: UUID) -> Any:
        self.asked.append(("read", 1))
        return SimpleNamespace(state=SimpleNamespace(is_final=lambda: run in self.ended))

    def set_task_run_state(self, run: UUID, *_: Any, **__: Any) -> None:
        self.told.add(run)


def test_a_task_whose_end_is_on_its_way_is_not_told_as_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Ended] = []
    monkeypatch.setattr(runner, "report", lambda endings, seconds: told.extend(endings))
    monkeypatch.setattr(Recording, "_take", lambda self, batches: None)
    completed, running = uuid4(), uuid4()
    batch = Batch([Event(completed, uuid4(), b"{}", final=True), Event(running, uuid4(), b"{}", final=False)])
    ours = CoiledTaskRunner(address="tcp://127.0.0.1:1")
    ours._prepare_run()
    ours._connection = cast(Any, Workers({"tcp://a": [batch]}))
    ours._submission = cast(Any, SimpleNamespace(news=SimpleNamespace(ended={})))
    both = [Ended(work, run, unfinished()) for run in (completed, running)]
    monkeypatch.setattr(ours._ledger, "abandon", lambda: (both, []))
    ours._shut_down(RuntimeError)
    assert [each.task_run_id for each in told] == [running]


def test_a_worker_that_does_not_answer_keeps_no_other_workers_states_from_the_api(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[Batch] = []
    told: list[UUID] = []
    monkeypatch.setattr(Recording, "_take", lambda self, batches: taken.extend(batches))
    monkeypatch.setattr(recording, "report", lambda endings: told.extend(one.task_run_id for one in endings))
    here, silent, gone = uuid4(), uuid4(), uuid4()
    held = Batch([Event(here, uuid4(), b"{}", final=True)])
    workers: Any = Workers({"tcp://a": [held], "tcp://silent": None})
    ended = {
        worker: {run: (work, SimpleNamespace(state=unfinished))}
        for worker, run in (("tcp://a", here), ("tcp://silent", silent), ("tcp://gone", gone))
    }
    submission: Any = SimpleNamespace(news=SimpleNamespace(ended=ended))
    ours = Recording()
    ours.take_over(workers, submission, 0.2)
    assert taken == [held]
    assert ours.ends == {here}
    assert sorted(told) == sorted([silent, gone])


@pytest.mark.parametrize("down", [False, True])
def test_what_has_ended_at_the_api_keeps_its_state(monkeypatch: pytest.MonkeyPatch, down: bool) -> None:
    ended, running = uuid4(), uuid4()
    api = Api({ended}, down)
    monkeypatch.setattr(lost_tasks, "get_client", api.client)
    lost_tasks.report([Ended(work, run, unfinished()) for run in (ended, running)])
    assert api.told == {running}


def test_of_many_task_runs_the_api_is_asked_at_a_time_and_told_only_of_those_that_it_lacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [uuid4() for _ in range(450)]
    lacking = set(runs[::100])
    api = Api(set(runs) - lacking)
    monkeypatch.setattr(lost_tasks, "get_client", api.client)
    lost_tasks.report([Ended(work, run, unfinished()) for run in runs])
    assert api.told == lacking
    assert sorted(api.asked) == [("read", 1)] * 5 + [("which have ended", n) for n in (50, 200, 200)]
    assert api.made == 1
    assert not caplog.records


def test_the_password_in_the_address_of_the_api_is_in_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("401 for url 'http://me:hunter2@host/api/csrf-token'")

    api = Api(set())
    monkeypatch.setattr(lost_tasks, "get_client", api.client)
    monkeypatch.setattr(Api, "set_task_run_state", refuse)
    lost_tasks.report([Ended(work, uuid4(), unfinished())])
    monkeypatch.setattr(lost_tasks, "get_client", refuse)
    lost_tasks.report([Ended(work, uuid4(), unfinished())])
    assert caplog.text.count("http://host/api/csrf-token") == 2
    assert "hunter2" not in caplog.text


def test_task_runs_that_an_api_was_not_told_of_in_time_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs, over = [uuid4() for _ in range(250)], threading.Event()
    api = Api(set())
    monkeypatch.setattr(lost_tasks, "get_client", api.client)
    monkeypatch.setattr(Api, "set_task_run_state", lambda *_, **__: over.wait(20))
    try:
        lost_tasks.report([Ended(work, run, unfinished()) for run in runs], timeout=0.3)
    finally:
        over.set()
    assert "250 task runs ended, but the Prefect API did not take it in 0 s" in caplog.text
