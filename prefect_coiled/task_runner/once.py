"""A task run that has ended is not run again, though its result is lost with its worker.

Dask computes a lost result again, which for a task means that what it did is done twice. This plugin of the
scheduler puts another computation in its place at that moment, before a worker hears of it: one that gives
the run's state as it was. With a persisted result that is where the result is; without, the state says that
the result is lost, to those who ask for it.

A task with the tag `dask:again` is computed again, as Dask does. Runs in the scheduler; all that it needs to
know it hears from the news of ended runs.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from distributed.diagnostics.plugin import SchedulerPlugin
from prefect.client.schemas.objects import State

from prefect_coiled.errors import TaskLostError
from prefect_coiled.internals.distributed import calls, computation, forget_events, forget_topics
from prefect_coiled.task_runner import store
from prefect_coiled.task_runner.kept_results import OUTLIVES, lose
from prefect_coiled.task_runner.news import PREFIX, Ending
from prefect_coiled.task_runner.worker import run_task

# Seconds after which a client that went without a word does not come back.
GONE_S = 900.0


class Once(SchedulerPlugin):
    """Keeps ended task runs from being run again."""

    name = "prefect-coiled-once"
    idempotent = True

    def __init__(self) -> None:
        self._scheduler: Any = None
        self._ended: dict[str, tuple[bytes, Ending]] = {}

    def __reduce__(self) -> Any:
        return Once, ()

    async def start(self, scheduler: Any) -> None:
        """Take note of the scheduler."""
        self._scheduler = scheduler

    def log_event(self, topic: str, msg: Any) -> None:
        """Hear that a task run has ended."""
        if isinstance(topic, str) and topic.startswith(PREFIX):
            run, key, *ending = msg
            told = Ending(*ending)
            if told.final and not told.again:
                self._ended[key] = run, told
            # Who subscribed has it. Dask keeps a thousand of each topic for ever; each flow run has its own.
            forget_events(self._scheduler, topic)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Nothing is kept of flow runs that are over: a cluster for many flows would grow without end."""
        self._forget(scheduler)
        # One that lost its connection may come back, under the same name, and subscribes to nothing anew.
        asyncio.get_running_loop().call_later(GONE_S, self._forget, scheduler, True)

    def _forget(self, scheduler: Any, of_lost: bool = False) -> None:
        """Forget the news of flow runs, and what their tasks have in common: that may hold an API key."""
        forgotten = {name.removeprefix(PREFIX) for name in forget_topics(scheduler, PREFIX, of_lost=of_lost)}
        spaces = scheduler.task_metadata.get(store.PREFIX, {})
        for space in [name for name, kept in spaces.items() if not kept or name in forgotten]:
            del spaces[space]

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Put what gives the state in the place of the task whose result is gone."""
        if finish == "forgotten":
            self._ended.pop(key, None)
            return
        # From "processing": the news came through, and the worker died before it had told of the result.
        if start not in ("memory", "processing") or finish != "released" or key not in self._ended:
            return
        found = self._scheduler.tasks.get(key)
        # The computation was seen: a task of Dask's own with such a key stays as it is.
        if found is not None and calls(found.run_spec, run_task):
            found.run_spec = computation(key, state_of_lost, *self._ended[key])


def state_of_lost(run: bytes, ending: Ending) -> State[Any]:
    """On a worker: the state of a task run that ended on one that is gone."""
    if ending.completed and ending.persisted is not None:
        kept = ending.with_metadata()
        kept.state_details.task_run_id = UUID(bytes=run)
        return kept
    state = ending.state()
    state.state_details.task_run_id = UUID(bytes=run)
    lost = TaskLostError(
        f"the result of task run {UUID(bytes=run)}, which has ended as {ending.name}",
        f"it was lost with its worker {ending.worker}",
        f"{OUTLIVES} The tag 'dask:again' lets it run again.",
    )
    if ending.completed:
        lose(state, lost)
    state.data = lost
    return state
