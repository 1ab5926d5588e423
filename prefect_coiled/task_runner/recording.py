"""The states of task runs that the API has not got yet when a flow's tasks have ended.

    the workers' outboxes ─▶ here ─▶ the API      while the cluster goes, and the flow run ends
    runs of workers that are gone, or silent ─▶ "which of these have you as ended?" ─▶ the others ─▶ the API

So no machine waits for the API. The process that runs the flow does, at its end.
"""

from __future__ import annotations

import time
from contextvars import copy_context
from typing import Any
from uuid import UUID
from weakref import WeakSet

from prefect.context import FlowRunContext
from prefect.logging import get_logger, get_run_logger

from prefect_coiled.internals.distributed import ask_each
from prefect_coiled.internals.python import before_threads_end
from prefect_coiled.task_runner.event_batches import Batch
from prefect_coiled.task_runner.events import Outbox
from prefect_coiled.task_runner.lost_tasks import Ended, report
from prefect_coiled.task_runner.outboxes import present, related_of_flow_run
from prefect_coiled.task_runner.submission import Submission
from prefect_coiled.task_runner.worker import flush_worker

logger = get_logger("prefect_coiled.task_runner.recording")

# Seconds without any progress after which the end of this process waits no more.
_STUCK = 60.0


class Recording:
    """Sees the states of a flow run's tasks through to the API.

    Attributes:
        ends: The task runs whose last states are on their way. The API may show them as Running for a while,
            and whoever tells it another end meanwhile would have the last word.
    """

    def __init__(self) -> None:
        self.ends: set[UUID] = set()
        self._outbox: Outbox | None = None

    def take_over(self, client: Any, submission: Submission, seconds: float) -> None:
        """Take what the workers of a flow run still hold, and what those that are gone have not told.

        Args:
            seconds: How long the workers may take.
        """
        context = FlowRunContext.get()
        flow_run = context.flow_run if context is not None else None
        try:
            id_ = str(flow_run.id) if flow_run else ""
            answers = ask_each(client, seconds, flush_worker, id_, seconds / 4)
        except Exception as error:  # what it is about is asked of the API below
            logger.warning("The workers could not be asked for what they have not sent yet: %r", error)
            answers = {}
        held = {worker: batches for worker, batches in answers.items() if isinstance(batches, list)}
        for worker in answers.keys() - held.keys():
            logger.warning("The worker %s did not send its last logs: %r", worker, answers[worker])
        taken = [batch for batches in held.values() for batch in batches]
        self.ends |= {event.run for batch in taken for event in batch.events if event.final}
        self._take(taken)
        gone = [ended for worker, ended in submission.news.ended.items() if worker not in held]
        submission.news.ended.clear()
        if gone:
            report(Ended(task, run, ending.state()) for runs in gone for run, (task, ending) in runs.items())

    def _take(self, batches: list[Batch]) -> None:
        if not batches:
            return
        if (outbox := present()) is not None:
            # A flow that runs in a task: the worker goes on.
            outbox.take(batches)
            return
        if self._outbox is None:
            self._outbox = Outbox(copy_context(), related_of_flow_run)
            _see_through(self._outbox)
        runs = len({event.run for batch in batches for event in batch.events})
        log = get_run_logger() if FlowRunContext.get() else logger
        log.info("All tasks have ended. The Prefect API has yet to record the states of %d of them.", runs)
        self._outbox.take(batches)


# Those of flow runs whose states are not all recorded; an outbox that has something is held by its thread.
_outboxes: WeakSet[Outbox] = WeakSet()


def _see_through(outbox: Outbox) -> None:
    if not _outboxes:
        before_threads_end(wait_until_recorded)
    _outboxes.add(outbox)


def wait_until_recorded() -> None:
    """Wait until the API has all states of task runs, for as long as it takes any of them."""
    waiting = list(_outboxes)
    left, since = sum(map(len, waiting)), time.monotonic()
    while waiting := [outbox for outbox in waiting if not outbox.settle(1.0 / len(waiting))]:
        now, unrecorded = time.monotonic(), sum(map(len, waiting))
        if unrecorded < left:
            left, since = unrecorded, now
        elif now - since > _STUCK:
            logger.error("%d states of task runs did not reach the Prefect API", left)
            return
