"""The record of a result that is with its worker, as pydantic and Prefect's serializers have it."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import JSONSerializer, PickleSerializer
from prefect.states import Completed

from prefect_coiled.errors import ResultError
from prefect_coiled.task_runner.news import Ending
from prefect_coiled.task_runner.remote_result import with_result_here, with_result_of

THERE: State[Any] = Completed(
    data=ResultRecord(
        result={"rows": [1, 2]},
        metadata=ResultRecordMetadata(serializer=PickleSerializer(), storage_key="one"),
    )
)


def remote(fetch: Any = lambda: THERE) -> State[Any]:
    ending = Ending("COMPLETED", "Completed", None, time.time(), str(uuid4()), None, "worker")
    return with_result_of(uuid4(), None, ending, "a future", fetch)


@pytest.mark.parametrize("mode", ["python", "json"])
def test_it_is_written_down_as_the_record_that_it_stands_for(mode: Any) -> None:
    assert remote().model_dump(mode=mode)["data"] == THERE.model_dump(mode=mode)["data"]
    assert remote().data.model_dump_json() == THERE.data.model_dump_json()


def test_prefects_json_serializer_writes_its_result() -> None:
    (read,) = JSONSerializer().loads(JSONSerializer().dumps([remote()]))
    assert read.data["result"] == {"rows": [1, 2]}


def test_a_copy_of_it_is_the_record_and_changes_nothing_of_it() -> None:
    state = remote()
    copies = [state.data.model_copy(), state.data.model_copy(deep=True), state.model_copy(deep=True).data]
    assert [copy.result for copy in copies] == [{"rows": [1, 2]}] * 3
    assert state.data.model_copy(update={"result": 3}).result == 3
    assert state.data.result == {"rows": [1, 2]}


def test_that_it_cannot_be_sent_is_known_for_good() -> None:
    asked: list[int] = []

    def fails() -> State[Any]:
        asked.append(1)
        raise ResultError("fetching it", "its result cannot be pickled")

    state = remote(fails)
    for _ in range(2):
        with pytest.raises(ResultError):
            _ = state.data.result
    assert len(asked) == 1
    assert with_result_here(state).is_crashed()
