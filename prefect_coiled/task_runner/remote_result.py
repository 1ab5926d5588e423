"""The Completed state of a task run whose result is with its worker until somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from pydantic import SerializationInfo, model_serializer

from prefect_coiled.errors import ResultError, TaskLostError
from prefect_coiled.task_runner.lost_tasks import crashed
from prefect_coiled.task_runner.news import Ending

_OF_THE_RECORD = frozenset(
    {"result", "metadata", "expiration", "serializer", "is_persisted", "serialize", "serialize_result"}
)


class RemoteRecord(ResultRecord[Any]):
    """The record of a result, which is fetched when something of it is asked for."""

    @classmethod
    def of(cls, future: Any, ending: Ending, fetch: Callable[[], State[Any]]) -> RemoteRecord:
        """The record of what a task returned."""
        made: Any = cls.model_construct(metadata=None, result=None)  # type: ignore[arg-type]
        made.__dict__.clear()
        made.__dict__.update(remote_future=future, ending=ending, fetch=fetch)
        record: RemoteRecord = made
        return record

    def __getattribute__(self, name: str) -> Any:
        if name not in _OF_THE_RECORD:
            return super().__getattribute__(name)
        known = self.__dict__
        if name == "result" and "record" not in known:
            there, value = known["ending"].known_result()
            if there:
                return value
        return getattr(self.fetch_now(), name)

    def fetch_now(self) -> Any:
        """The record itself, which is here from now on."""
        known = self.__dict__
        if "failure" in known:
            raise known["failure"]
        if "record" not in known:
            try:
                known["record"] = known["fetch"]().data
            except ResultError as failure:  # for good, and the worker that knows why may go
                known["failure"] = failure
                raise
        return known["record"]

    def model_copy(self, **more: Any) -> Any:
        """A copy of the record itself."""
        return self.fetch_now().model_copy(**more)

    @model_serializer(mode="plain")
    def _as_data(self, info: SerializationInfo) -> dict[str, Any]:
        """Whoever writes it down, as JSON say, has the result fetched."""
        written: dict[str, Any] = self.fetch_now().model_dump(mode=info.mode)
        return written

    def __reduce__(self) -> Any:
        """Elsewhere it is what it stands for."""
        return as_it_is, (self.fetch_now(),)

    def __copy__(self) -> RemoteRecord:
        return self

    def __deepcopy__(self, memo: Any = None) -> RemoteRecord:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__dict__['remote_future']})"


def as_it_is(value: Any) -> Any:
    """What one is pickled as whose place is taken by another one."""
    return value


def is_remote(state: State[Any]) -> bool:
    """Whether the result of a state is with its worker, as far as this process knows."""
    return isinstance(state.data, RemoteRecord)


def with_result_here(state: State[Any]) -> State[Any]:
    """A state that has its result itself, to be sent elsewhere; Crashed if the result is not to be had."""
    if not isinstance(state.data, RemoteRecord):
        return state
    try:
        return state.model_copy(update={"data": state.data.fetch_now()})
    except (TaskLostError, ResultError) as lost:
        gone = crashed(lost)
        gone.state_details = state.state_details
        return gone


def with_result_of(
    run: UUID, flow_run: UUID | None, ending: Ending, future: Any, fetch: Callable[[], State[Any]]
) -> State[Any]:
    """The state of a task run that has completed, without its result being moved.

    Args:
        future: The Dask future, which keeps the result where it is.
    """
    state = ending.state()
    state.state_details.task_run_id, state.state_details.flow_run_id = run, flow_run
    state.data = RemoteRecord.of(future, ending, fetch)
    return state
