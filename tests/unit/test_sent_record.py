"""Results as they leave their worker: whole, by their buffers, or as an error that says why not."""

from __future__ import annotations

import pickle
import threading
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize
from prefect.client.schemas.objects import State
from prefect.results import ResultRecord, ResultRecordMetadata  # type: ignore[attr-defined]
from prefect.serializers import PickleSerializer
from prefect.states import Completed

from prefect_coiled.errors import ResultError
from prefect_coiled.task_runner.kept_results import bring, lacks_result
from prefect_coiled.task_runner.sent_record import SentRecord

RUN = UUID(int=7)


def completed(result: Any) -> State[Any]:
    metadata = ResultRecordMetadata(serializer=PickleSerializer(), storage_key="one")
    state: State[Any] = Completed(data=ResultRecord(result=result, metadata=metadata))
    SentRecord.take_place(state, "reads", RUN)
    return state


def sent(state: State[Any]) -> tuple[State[Any], list[Any]]:
    header, frames = serialize(state)
    found: State[Any] = deserialize(header, frames)
    return found, frames


class Here:
    """What comes back nowhere."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


@pytest.mark.parametrize("result", [[1, "two"], b"x" * 100, None, {"rows": (1, 2)}])
def test_a_result_comes_as_it_was(result: Any) -> None:
    state, _ = sent(completed(result))
    assert (type(state.data), state.data.result) == (ResultRecord, result)
    assert state.data.metadata.storage_key == "one"
    assert pickle.loads(pickle.dumps(completed(result), protocol=4)).data.result == result


def test_an_array_is_not_copied_on_its_way() -> None:
    array = np.arange(1_000_000.0)
    state, frames = sent(completed(array))
    assert any(np.shares_memory(np.frombuffer(frame, dtype="u1"), array) for frame in frames)
    assert (state.data.result == array).all()
    state.data.result[0] = 7.0  # its own, and one that may be written to


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (threading.Lock(), "cannot be pickled: .*_thread.lock"),
        (Here(), "cannot be read here: ValueError: .*no number"),
    ],
)
def test_what_cannot_be_sent_or_read_comes_as_an_error_that_names_the_run(result: Any, why: str) -> None:
    state, _ = sent(completed(result))
    through_scheduler = pickle.loads(pickle.dumps(completed(result), protocol=4))
    assert str(state.data) == str(through_scheduler.data)
    with pytest.raises(ResultError, match=rf"'reads' \(run {RUN}\), which has completed: its result {why}"):
        raise state.data


def test_a_task_that_is_given_it_has_a_parameter_that_did_not_complete() -> None:
    state, _ = sent(completed(threading.Lock()))
    assert lacks_result(state)
    bring(state)
    assert (state.name, state.is_crashed()) == ("ResultLost", True)
    assert not lacks_result(completed(1))
