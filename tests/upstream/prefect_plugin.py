"""A plugin for Prefect's own tests: those that submit tasks, with threads as they are or on a Dask cluster.

`SUBMITTED` names a file, which gets the id of each test that submits a task by Prefect's default runner.
`TASK_RUNNER=ours` puts `CoiledTaskRunner` in the place of that one, on one LocalCluster of this process: what
these tests look at, such as mocks, events and the server's database, is in this process.
"""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import Any

import anyio
import prefect.flows
import prefect.task_runners
import prefect.testing.fixtures as fixtures
import pytest


class Patient:
    """anyio, as what starts the tests' server knows it: a busy machine takes longer than their 20 seconds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(anyio, name)

    def move_on_after(self, seconds: float) -> Any:
        return anyio.move_on_after(10 * seconds)


fixtures.anyio = Patient()  # type: ignore[attr-defined]
THREADS = prefect.task_runners.ThreadPoolTaskRunner
# What tests other task runners, which take long to start.
_OTHERS = ("TestProcessPoolTaskRunner", "TestPrefectTaskRunner")
# As many threads as no test fills.
_PLACES = 16


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what submits nothing, as far as its source says: nine tests of ten."""
    kept = [item for item in items if _may_submit(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _may_submit(item: pytest.Item) -> bool:
    if item.nodeid.split("::")[1] in _OTHERS:
        return False
    source = inspect.getsource(item.function)  # type: ignore[attr-defined]
    return ".submit(" in source or ".map(" in source


if os.environ.get("TASK_RUNNER") == "ours":
    import distributed

    from prefect_coiled.task_runner import CoiledTaskRunner

    @functools.cache
    def address() -> str:
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=_PLACES, processes=False, dashboard_address=None
        )
        found: str = cluster.scheduler_address
        _kept.append(cluster)
        return found

    _kept: list[Any] = []

    class Ours(CoiledTaskRunner):
        """Ours, with the word that the tests have for threads, and the cluster that they do not name."""

        def __init__(self, max_workers: int | None = None, **keywords: Any) -> None:
            super().__init__(**{**keywords, "address": address()})

    prefect.task_runners.ThreadPoolTaskRunner = Ours  # type: ignore[misc, assignment]
    prefect.flows.ThreadPoolTaskRunner = Ours  # type: ignore[misc, assignment, attr-defined]
elif file := os.environ.get("SUBMITTED"):
    _submit = THREADS.submit

    @functools.wraps(_submit)
    def submit(self: Any, *args: Any, **keywords: Any) -> Any:
        with Path(file).open("a", encoding="utf-8") as noted:
            noted.write(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0] + "\n")
        return _submit(self, *args, **keywords)

    THREADS.submit = submit  # type: ignore[method-assign]
