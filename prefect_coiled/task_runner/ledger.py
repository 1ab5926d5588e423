"""The tasks of a flow run that have not ended yet, so that none of them is forgotten.

A future is held here until its task has ended, even if the flow let go of it: Dask drops a task
that nobody holds. One that ended well is let go at once, so that Dask may free its result.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any
from uuid import UUID

import distributed
from prefect.client.schemas.objects import State
from prefect.utilities.collections import visit_collection

from prefect_coiled.errors import ResultError, TaskLostError
from prefect_coiled.task_runner.futures import CoiledFuture
from prefect_coiled.task_runner.lost_tasks import Ended
from prefect_coiled.task_runner.remote_result import RemoteRecord


class Ledger:
    """The futures of the tasks that have not ended well so far."""

    def __init__(self) -> None:
        self._open: dict[UUID, CoiledFuture[Any]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, future: CoiledFuture[Any]) -> None:
        """Hold a future until its task has ended."""
        with self._lock:
            self._open[future.task_run_id] = future

    def remove(self, future: CoiledFuture[Any]) -> None:
        """Let go of a future whose task has ended well."""
        with self._lock:
            self._open.pop(future.task_run_id, None)

    def settle(self) -> tuple[list[CoiledFuture[Any]], list[Ended]]:
        """Wait until every task has ended; return the lost ones, and what is to be reported of them."""
        lost: list[CoiledFuture[Any]] = []
        endings: list[Ended] = []
        while True:
            with self._lock:
                futures = list(self._open.values())
            if not futures:
                break
            for future in futures:
                if ending := future.settle():
                    endings.append(ending)
                if future.loss is not None:
                    lost.append(future)
                self.remove(future)
        return lost, endings

    def abandon(self) -> tuple[list[Ended], list[distributed.Future]]:
        """Give up every task; return what to report of them, and the Dask futures to cancel."""
        with self._lock:
            futures = list(self._open.values())
            self._open.clear()
        endings = [ending for future in futures if (ending := future.abandon())]
        return endings, [future._wrapped_future for future in futures if future._wrapped_future is not None]


def unseen(lost: list[CoiledFuture[Any]], returned: Any, in_flow: bool) -> list[CoiledFuture[Any]]:
    """The lost tasks that a flow was not handed the error of, and whose futures it does not return.

    Args:
        in_flow: Whether there is a flow run, whose state must tell of a loss. Without one, who
            waited for a task has its state in hand.
    """
    silent = [future for future in lost if not (future.told if in_flow else future.waited)]
    if not silent:
        return []
    shown: set[int] = set()

    def visit(expression: Any) -> Any:
        if isinstance(expression, CoiledFuture):
            shown.add(id(expression))
        return expression

    visit_collection(returned, visit_fn=visit, return_data=False)
    return [future for future in silent if id(future) not in shown]


def fetch_returned(returned: Any) -> None:
    """Have the results of futures and states that a flow returns here, before the cluster is gone."""

    def visit(expression: Any) -> Any:
        state = expression.state if isinstance(expression, CoiledFuture) else expression
        if isinstance(state, State) and isinstance(state.data, RemoteRecord):
            with suppress(TaskLostError, ResultError):  # raised again when the result is asked for
                state.data.fetch_now()
        return expression

    visit_collection(returned, visit_fn=visit, return_data=False)


def as_one(lost: list[CoiledFuture[Any]]) -> BaseException:
    """One error for lost tasks: the first cause, and how many there are."""
    first = lost[0]
    assert first.loss is not None
    if first.failure is not None:
        return first.failure
    if len(lost) == 1:
        return first.loss
    why = first.loss.diagnosis
    cause = f"the first one: {why.what}: {why.why}"
    return TaskLostError(f"{len(lost)} tasks were lost", cause, why.next_step)
