"""Results as they leave their worker: whole, by their buffers, or as an error that says why not."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from distributed.protocol import deserialize, serialize
from distributed.spill import SpillBuffer
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


class ElsewhereLater:
    """What can be read once something is there that was not."""

    def __reduce__(self) -> Any:
        return _there, ()


_found: list[str] = []


def _there() -> str:
    return _found[0]


def test_a_copy_that_could_not_be_read_is_read_anew_by_who_is_given_it() -> None:
    copy, _ = sent(completed(ElsewhereLater()))
    assert isinstance(copy.data, ResultError)
    _found.append("by now")
    try:
        assert sent(copy)[0].data.result == "by now"
        assert pickle.loads(pickle.dumps(copy, protocol=4)).data.result == "by now"
    finally:
        _found.clear()


def test_what_cannot_be_pickled_stays_in_memory_where_a_worker_spills(tmp_path: Path) -> None:
    buffer = SpillBuffer(str(tmp_path), target=100_000)
    kept = completed(threading.Lock())
    buffer["lock"] = kept
    assert buffer.evict() == -1, "Dask's word for what cannot be written"
    assert buffer["lock"] is kept
    del buffer["lock"]
    buffer["bytes"] = completed(b"x" * 1000)
    assert buffer.evict() > 0
    assert buffer["bytes"].data.result == b"x" * 1000
