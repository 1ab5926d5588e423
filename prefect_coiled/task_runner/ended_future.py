"""The future of a task run that has ended, for whoever is elsewhere: another task, another machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, PrefectTaskRunFuture

from prefect_coiled.task_runner.remote_result import with_result_here

R = TypeVar("R")


def ended_state(future: PrefectFuture[Any]) -> State[Any]:
    """Wait for a future's end; gives the state that it came to, with its result."""
    future.wait()
    return with_result_here(future.state)


class EndedFuture(PrefectTaskRunFuture[R]):
    """A task run that has ended, as who submitted it returned it: to whoever asks the task for its result."""

    def __init__(self, task_run_id: UUID, state: State[R]) -> None:
        super().__init__(task_run_id)
        self._final_state: State[R] = state

    @property
    def done(self) -> bool:
        """It has ended."""
        return True

    def wait(self, timeout: float | None = None) -> None:
        """It has ended."""

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R:
        """The task's return value; its error is raised, or returned."""
        given: R = self._final_state.result(raise_on_failure=raise_on_failure, _sync=True)  # type: ignore[call-overload]
        return given

    def add_done_callback(self, fn: Callable[[PrefectFuture[R]], None]) -> None:
        """Call a function with this future, now."""
        fn(self)
