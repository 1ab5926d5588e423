"""The futures that a `map` gives."""

from __future__ import annotations

from typing import Any, TypeVar

from prefect.futures import PrefectFutureList

from prefect_coiled.task_runner.slot import slot_given_back

R = TypeVar("R")


class CoiledFutureList(PrefectFutureList[R]):
    """The futures of a map; a task that waits for all of them lets others have its slot meanwhile."""

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all have ended, or for `timeout` seconds."""
        if self._have_ended():
            return super().wait(timeout)
        with slot_given_back() as slot:
            super().wait(timeout)
            if not self._have_ended():
                slot.stay_away()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[Any]:
        """The tasks' return values; see `CoiledFuture.result`."""
        if self._have_ended():
            return super().result(timeout, raise_on_failure)
        with slot_given_back():
            return super().result(timeout, raise_on_failure)

    def _have_ended(self) -> bool:
        futures: Any = self
        return all(future.done for future in futures)
