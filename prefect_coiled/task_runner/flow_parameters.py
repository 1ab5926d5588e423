"""A flow run's parameters, as its tasks see them by `prefect.runtime`.

Few tasks look at them, and some cannot be sent, such as a connection, or not be read without a package that
the worker lacks. Each goes by itself, so that none keeps the tasks from running.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import cloudpickle  # type: ignore[import-untyped]
from prefect.logging import get_logger

from prefect_coiled.task_runner.shipping import dumps

_lock = threading.Lock()


class NotSent:
    """Stands on a worker for a parameter that is not there.

    Each is another one, so that no cache key that is made of it is that of another value.
    """

    def __init__(self, name: str, why: str) -> None:
        self.name, self.why, self._which = name, why, uuid4().hex

    def __repr__(self) -> str:
        return f"<parameter {self.name!r} is not here: {self.why}>"


class Parameters:
    """The parameters on their way to a worker."""

    def __init__(self, written: dict[str, bytes]) -> None:
        self._written = written
        self._values: dict[str, Any] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Parameters:
        """Write them; one that cannot be is told of."""
        written: dict[str, bytes] = {}
        for name, value in values.items():
            try:
                written[name] = dumps(value)
            except Exception as error:  # whatever pickling raises
                get_logger("prefect.flow_runs").warning(
                    "Parameter %r of the flow cannot be sent to workers (%s): tasks do not find it in"
                    " `prefect.runtime.flow_run.parameters`, and all else goes on.",
                    name,
                    error,
                )
                written[name] = dumps(NotSent(name, "it cannot be pickled"))
        return cls(written)

    def read(self) -> dict[str, Any]:
        """On a worker: the parameters, read once for all of its threads."""
        with _lock:
            if self._values is None:
                self._values = {name: _read(name, data) for name, data in self._written.items()}
                self._written = {}
            return dict(self._values)

    def __getstate__(self) -> dict[str, Any]:
        """As it is sent."""
        return {"_written": self._written, "_values": None}


def _read(name: str, data: bytes) -> Any:
    try:
        return cloudpickle.loads(data)
    except Exception as error:  # of a package that is not here, for instance
        return NotSent(name, f"{type(error).__name__}: {error}")
