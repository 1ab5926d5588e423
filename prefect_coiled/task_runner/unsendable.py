"""What cannot be sent: of a task's parameters it is found, and of a task's error the words are sent.

Runs on workers too: nothing here imports what a bare worker lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from distributed.protocol.pickle import dumps, loads
from prefect.client.schemas.objects import State
from prefect.results import ResultRecord  # type: ignore[attr-defined]
from prefect.tasks import Task
from prefect.utilities.annotations import BaseAnnotation

from prefect_coiled.errors import ArgumentError, TaskFailedError
from prefect_coiled.task_runner.shipping import pack

_DEEP = 20
# Parts that are tried at most, of a value with millions of them.
_TRIED = 2_000


def explain(task: Task[Any, Any], parameters: Mapping[str, Any], error: Exception) -> Exception:
    """The error that names the parameter, and the path in its value; the first one if none is to blame."""
    for name, value in parameters.items():
        if _can_be_sent(value):
            continue
        path, culprit = _narrow(name, value, 0, [_TRIED])
        kind = type(culprit)
        return ArgumentError(
            f"sending parameter {name!r} of task {task.name!r} to a worker",
            f"{path} cannot be pickled: it is a {kind.__module__}.{kind.__qualname__} ({error})",
            "Make it in the task, or at the top level of a module that the task imports.",
        )
    return error


def keep_words(state: State[Any]) -> None:
    """Put an error in words into a failed state whose own could not be read on the other side.

    Many errors are made from other arguments than they keep, as those of httpx, and so of Prefect's client:
    https://docs.python.org/3/library/pickle.html#object.__reduce__
    """
    record = state.data
    error = getattr(record, "result", record)
    if not isinstance(error, BaseException) or _comes_back(error):
        return
    kind = type(error)
    told = TaskFailedError(f"{kind.__module__}.{kind.__qualname__}", str(error))
    if isinstance(record, ResultRecord):
        record.result = told
    else:
        state.data = told


def _comes_back(error: BaseException) -> bool:
    try:
        loads(dumps(error))
    except Exception:  # whatever it is, who reads it would meet it in the place of the error
        return False
    return True


def _can_be_sent(value: Any) -> bool:
    try:
        pack(value)
    except Exception:  # whatever pickling raises, it is what is being looked for
        return False
    return True


def _narrow(path: str, value: Any, depth: int, tries: list[int]) -> tuple[str, Any]:
    if depth < _DEEP:
        for step, part in _parts(value):
            tries[0] -= 1
            if tries[0] < 0:
                break
            if not _can_be_sent(part):
                return _narrow(path + step, part, depth + 1, tries)
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseAnnotation):
        yield "", value.unwrap()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"[{key!r}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for n, part in enumerate(value):
            yield (f"[{n}]" if isinstance(value, (list, tuple)) else "{...}"), part
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)
    elif callable(value) and hasattr(value, "__code__"):
        cells = getattr(value, "__closure__", None) or ()
        for name, cell in zip(value.__code__.co_freevars, cells, strict=False):
            yield f" closes over {name}", cell.cell_contents
    else:
        for name, part in getattr(value, "__dict__", {}).items():
            yield f".{name}", part
