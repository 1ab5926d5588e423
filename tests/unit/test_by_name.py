"""A worker imports a user's code: functions behind decorators and inside of others belong to their module."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from prefect import flow

from prefect_coiled.task_runner.by_name import Pickler
from prefect_coiled.task_runner.flow_identity import identity_of

SOURCE = """
import functools, threading
from prefect import task

GUARD = threading.Lock()
COUNT = 0

def twice(function):
    @functools.wraps(function)
    def inner(*args):
        return 2 * function(*args)
    return inner

@task(retries=2)
@twice
def decorated(x):
    global COUNT
    with GUARD:
        COUNT += 1
    return x + COUNT

class Holder:
    @staticmethod
    def held(x):
        with GUARD:
            return x

def made(y):
    @task
    def local(x):
        with GUARD:
            return x + y + COUNT
    return local
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "own_code.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("own_code")
    del sys.modules["own_code"]


def dumps(value: Any) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def on_worker(own: ModuleType, data: bytes) -> tuple[Any, Any]:
    """The module as another process imports it, and what that process reads."""
    del sys.modules[own.__name__]
    return importlib.import_module(own.__name__), cloudpickle.loads(data)


def test_tasks_of_a_module_are_those_of_the_worker_s_module_with_its_state(own: Any) -> None:
    assert len(dumps(own.decorated.fn)) < 200, "a name, not the code"
    data = dumps([own.decorated, own.decorated.with_options(retries=7), own.made(10), own.Holder.held])
    there, (one, other, local, held) = on_worker(own, data)
    assert there is not own
    assert [one.fn(1), other.fn(1), there.COUNT, local.fn(1), held(3)] == [4, 6, 2, 13, 3]
    assert (one.retries, other.retries) == (2, 7)
    assert one.fn is other.fn is there.decorated.fn
    assert local.fn.__globals__ is vars(there)


def test_what_the_main_script_and_the_cells_of_a_notebook_define_goes_by_value() -> None:
    made: dict[str, Any] = {"__name__": "__main__"}
    exec("class Row: ...\ndef cell(x):\n    return x + FACTOR\nFACTOR = 2\n", made)
    data = dumps([made["cell"], made["Row"]])
    cell, row = cloudpickle.loads(data)
    assert cell(1) == 3
    assert cell is not made["cell"]
    assert row is made["Row"], "what comes back to this process is of the class that went out"


def test_what_the_user_wants_sent_by_value_is(own: Any) -> None:
    def plain() -> int:
        return 1

    cloudpickle.register_pickle_by_value(own)
    try:
        with pytest.raises(TypeError, match="lock"):
            dumps(own.decorated)
    finally:
        cloudpickle.unregister_pickle_by_value(own)
    assert cloudpickle.loads(dumps(plain))() == 1


def test_a_worker_gets_a_flow_s_identity_and_not_its_body(own: Any) -> None:
    guard = own.GUARD

    def name_it() -> str:
        return str(guard)

    @flow(name="mine", version="7", flow_run_name=name_it, on_failure=[lambda *_: guard], log_prints=True)
    def body() -> None:
        """What it does."""
        with guard:
            return None

    made = cloudpickle.loads(dumps(identity_of(body)))
    assert (made.name, made.version, made.log_prints) == ("mine", "7", True)
    assert body.on_failure_hooks, "the flow itself is as it was"
    with pytest.raises(RuntimeError, match=r"body of the flow .*body' is not on a worker"):
        made.fn()
