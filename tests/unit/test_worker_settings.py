"""What a client's settings become on a worker, on which many tasks start at once."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled.task_runner import worker_settings


def test_tasks_that_start_at_once_have_the_file_of_the_apis_authority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
        def __init__(self, **arguments: Any) -> None:
            threading.Event().wait(0.1)
            super().__init__(**arguments)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Slow)
    # As it is in a process that has just begun.
    spec = importlib.util.spec_from_file_location("fresh", str(worker_settings.__file__))
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    at_once = threading.Barrier(4)

    def begin(_: int) -> Path:
        at_once.wait(20)
        return Path(fresh.settings_here({"settings": {}}, "authority")["settings"]["api"]["ssl_cert_file"])

    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(begin, range(4)))
    assert {file.read_text() for file in files} == {"authority"}
