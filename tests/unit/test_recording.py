"""What workers hand over at a flow run's end: whose last states are on their way gets no other one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect import task

from prefect_coiled.task_runner import CoiledTaskRunner, lost_tasks, recording, runner
from prefect_coiled.task_runner.event_batches import Batch, Event
from prefect_coiled.task_runner.lost_tasks import Ended, unfinished
from prefect_coiled.task_runner.recording import Recording


@task
def work() -> None: ...


class Workers:
    """A client whose workers hold these batches, and a connection that runs what it is given."""

    status = "running"

    def __init__(self, batches: list[Batch]) -> None:
        self.ready, self.stop, self._batches = self, SimpleNamespace(set=lambda: None), batches

    def run(self, what: Any, *args: Any, **_: Any) -> Any:
        return {"tcp://a": self._batches} if what is recording.flush_worker else what(*args)

    def close(self) -> None: ...


def test_a_task_whose_end_is_on_its_way_is_not_told_as_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Ended] = []
    monkeypatch.setattr(runner, "report", lambda endings, seconds: told.extend(endings))
    monkeypatch.setattr(Recording, "_take", lambda self, batches: None)
    completed, running = uuid4(), uuid4()
    batch = Batch([Event(completed, uuid4(), b"{}", final=True), Event(running, uuid4(), b"{}", final=False)])
    ours = CoiledTaskRunner(address="tcp://127.0.0.1:1")
    ours._prepare_run()
    ours._connection = cast(Any, Workers([batch]))
    ours._submission = cast(Any, SimpleNamespace(news=SimpleNamespace(ended={})))
    both = [Ended(work, run, unfinished()) for run in (completed, running)]
    monkeypatch.setattr(ours._ledger, "abandon", lambda: (both, []))
    ours._shut_down(RuntimeError)
    assert [each.task_run_id for each in told] == [running]


def test_what_has_ended_at_the_api_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Api:
        def __enter__(self) -> Api:
            return self

        def __exit__(self, *error: Any) -> None: ...

        def read_task_run(self, run: Any) -> Any:
            asked.append("read")
            return SimpleNamespace(state=SimpleNamespace(is_final=lambda: True))

        def set_task_run_state(self, *_: Any, **__: Any) -> None:
            asked.append("set")

    monkeypatch.setattr(lost_tasks, "get_client", lambda **_: Api())
    lost_tasks.report([Ended(work, uuid4(), unfinished())])
    assert asked == ["read"]
