"""Results that tasks keep on the disks of their machines: it is warned of, and said when they are gone."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from prefect_coiled.errors import TaskLostError
from prefect_coiled.task_runner import CoiledTaskRunner, opening
from prefect_coiled.task_runner.results import warn_of_disks

from .conftest import shown
from .test_once import end_workers

GONE = (
    r"result of task 'keeps' \(run [-0-9a-f]+\).*is lost: it was kept on the disk of its worker.*\"bucket\""
)


@task(persist_result=True)
def keeps() -> bytes:
    return b"k" * 5_000


@task
def measures(data: bytes) -> int:
    return len(data)


def test_a_result_that_went_with_its_workers_disk_is_said_to_be_lost_and_fails_no_flow_by_another_error(
    runner: CoiledTaskRunner, dask_cluster: LocalCluster, security: Security, tmp_path: Path
) -> None:
    said: list[str] = []

    @flow(task_runner=runner)
    def loses() -> Any:
        future = keeps.submit()
        future.wait()
        shutil.rmtree(tmp_path / "disk")
        end_workers(dask_cluster, security)
        needs = measures.submit(future)
        needs.wait()
        said.append(needs.state.name)
        with pytest.raises(TaskLostError, match=GONE):
            future.result()
        return [future]

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "disk"}):
        state = loses(return_state=True)
    assert said == ["NotReady"]
    assert state.is_completed()
    shown(state.state_details.flow_run_id, keeps=["Completed"], measures=["NotReady"])
    with pytest.raises(TaskLostError, match=GONE):
        state.result()[0].result()


def test_a_flow_whose_tasks_keep_results_on_disks_of_other_machines_is_warned_once(
    runner: CoiledTaskRunner, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(task_runner=runner)
    def maps() -> None:
        measures.submit(b"").wait()
        for _ in range(2):
            keeps.submit().wait()

    def warnings() -> list[str]:
        said = [
            record.getMessage() for record in caplog.records if "keeps its results" in record.getMessage()
        ]
        caplog.clear()
        return said

    with caplog.at_level(logging.WARNING):
        maps()
        assert warnings() == []  # the workers are processes of this machine
        monkeypatch.setattr(opening, "_is_beside", lambda cluster: False)
        maps()
    (said,) = warnings()
    assert said.startswith("Task 'keeps' keeps its results")
    assert 'results="bucket"' in said


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, False),
        ({"persist_result": True}, True),
        ({"persist_result": False, "result_storage": Path("here")}, False),
        ({"cache_policy": INPUTS}, True),
        ({"result_storage": Path("here")}, True),
        ({"result_storage": "local-file-system/mine"}, True),
        ({"result_storage": "s3-bucket/mine"}, False),
        ({"result_storage": "ec2-dask-results/mine"}, False),
    ],
)
def test_it_is_known_which_tasks_keep_results_on_their_machine(options: Any, warned: bool) -> None:
    assert warn_of_disks(task(**options)(measures.fn), logging.getLogger("warned")) == warned
