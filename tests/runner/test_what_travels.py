"""What goes with a task to its worker, and what stays: parameters of others, log levels, lineage, locks."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.cache_policies import FLOW_PARAMETERS, INPUTS
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import FlowRunContext
from prefect.locking.filesystem import FileSystemLockManager
from prefect.settings import PREFECT_LOGGING_EXTRA_LOGGERS, PREFECT_LOGGING_LEVEL, temporary_settings
from prefect.transactions import transaction
from pydantic import BaseModel

from prefect_coiled.task_runner import CoiledTaskRunner
from prefect_coiled.task_runner.parcel import task_context

from .conftest import eventually, states_of, task_runs


class Config(BaseModel):
    name: str


@task
def add(n: int) -> int:
    return n + 1


def test_the_parameters_of_the_task_that_submits_stay_where_they_are(runner: CoiledTaskRunner) -> None:
    @task
    def load(connection: Any, ids: list[int]) -> list[int]:
        return add.map(ids).result()

    @flow(task_runner=runner)
    def etl() -> list[int]:
        return load(threading.Lock(), [1, 2])

    assert etl() == [2, 3]


def test_a_large_parameter_of_the_task_that_submits_is_no_part_of_what_is_sent() -> None:
    found: dict[str, Any] = {}

    @task
    def parent(rows: bytes) -> None:
        from uuid import uuid4

        found.update(task_context(add, uuid4(), {}))

    @flow
    def etl() -> None:
        parent(bytes(5_000_000))

    etl()
    assert found["task_run_context"]["task_run"]
    assert not found["task_run_context"]["parameters"]


def test_a_flow_parameter_that_cannot_be_sent_is_told_of_and_keeps_no_task_from_running(
    runner: CoiledTaskRunner, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    def sees() -> tuple[str, str]:
        from prefect.runtime import flow_run

        found = flow_run.parameters
        return type(found["config"]).__name__, repr(found["engine"])

    @flow(task_runner=runner, validate_parameters=False)
    def etl(engine: Any, config: Config) -> Any:
        return sees.submit().result()

    with caplog.at_level(logging.WARNING):
        kind, engine = etl(threading.Lock(), Config(name="x"))
    assert kind == "Config"
    assert "'engine' is not here" in engine
    told = [r.getMessage() for r in caplog.records if "cannot be sent to workers" in r.getMessage()]
    assert len(told) == 1
    assert "'engine'" in told[0]


def test_no_cache_takes_one_parameter_that_cannot_be_sent_for_another(runner: CoiledTaskRunner) -> None:
    @task(cache_policy=FLOW_PARAMETERS, persist_result=True)
    def counts(stamp: float) -> float:
        return stamp

    @flow(task_runner=runner, validate_parameters=False)
    def etl(engine: Any) -> float:
        return counts.submit(time.time()).result()

    assert etl(threading.Lock()) != etl(threading.Lock())


def test_levels_and_further_loggers_are_those_of_the_flow(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security, client: Any
) -> None:
    @task
    def says() -> None:
        get_run_logger().debug("rows: %d", 7)
        logging.getLogger("mylib").warning("retrying")

    told: dict[str, Any] = {}

    @flow(task_runner=runner)
    def talks() -> None:
        told["id"] = FlowRunContext.get().flow_run.id  # type: ignore[union-attr]
        says.submit().wait()

    def as_a_machine() -> None:
        from prefect_coiled.task_runner import task_logs

        task_logs._asked.clear()
        for name in task_logs._LOGGERS:
            logging.getLogger(name).setLevel(logging.INFO)

    with Client(dask_cluster.scheduler_address, security=security) as dask:
        dask.run(as_a_machine)
        with temporary_settings({PREFECT_LOGGING_LEVEL: "DEBUG", PREFECT_LOGGING_EXTRA_LOGGERS: "mylib"}):
            talks()

        def lines() -> set[str]:
            found = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[told["id"]])))
            return {log.message for log in found}

        eventually(lambda: {"rows: 7", "retrying"} <= lines())
        dask.run(as_a_machine)


def test_a_task_depends_on_the_run_whose_result_it_is_given(runner: CoiledTaskRunner) -> None:
    @task
    def path() -> str:
        return "s3://lake/raw.parquet"

    @task
    def rows() -> list[dict[str, int]]:
        return [{"n": n} for n in range(2_000)]

    @task
    def writes(where: str, what: list[dict[str, int]]) -> int:
        return len(what)

    ids: dict[str, Any] = {}

    @flow(task_runner=runner)
    def etl() -> int:
        ids["flow"] = FlowRunContext.get().flow_run.id  # type: ignore[union-attr]
        first, second = path.submit(), rows.submit()
        ids["path"], ids["rows"] = first.task_run_id, second.task_run_id
        return writes.submit(first.result(), second.result()).result()

    assert etl() == 2_000
    eventually(lambda: states_of(ids["flow"]).get("writes") == ["Completed"])
    (run,) = [run for run in task_runs(ids["flow"]) if run.name.startswith("writes")]
    found = {name: [getattr(each, "id", None) for each in inputs] for name, inputs in run.task_inputs.items()}
    assert found == {"where": [ids["path"]], "what": [ids["rows"]]}


def test_a_lock_that_a_task_takes_within_a_transaction_is_given_back_with_its_commit(
    runner: CoiledTaskRunner, tmp_path: Path
) -> None:
    locks, undone = tmp_path / "locks", tmp_path / "undone"
    locks.mkdir()
    policy = INPUTS.configure(
        isolation_level="SERIALIZABLE", lock_manager=FileSystemLockManager(lock_files_directory=locks)
    )

    @task(cache_policy=policy, persist_result=True, result_storage_key=None)
    def once(stamp: str) -> str:
        return stamp

    @once.on_rollback
    def undo(txn: Any) -> None:
        undone.touch()

    @flow(task_runner=runner)
    def etl(stamp: str) -> str:
        with transaction():
            future = once.submit(stamp)
            future.wait()
        return future.state.name

    stamp = str(tmp_path)
    assert etl(stamp) == "Completed"
    assert not undone.exists()
    assert not list(locks.iterdir())
    assert etl(stamp) == "Cached"
    assert not list(locks.iterdir())
