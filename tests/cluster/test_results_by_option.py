"""`results="bucket"`: what tasks return is in the account's bucket, by one option of the task runner."""

from __future__ import annotations

import time
from typing import Any

import pytest
from prefect import flow, get_client, task
from prefect.cache_policies import INPUTS
from prefect.context import FlowRunContext

from prefect_coiled import CoiledTaskRunner, Ec2DaskResults, load_account
from prefect_coiled.aws.results import read_result
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.machine_policies import bucket_name
from prefect_coiled.sandbox import Sandbox

SMALL: dict[str, Any] = {"n_workers": 1, "wait_for_workers": True, "nthreads": 2, "results": "bucket"}


@task(cache_policy=INPUTS)
def when(number: int) -> tuple[int, float]:
    return number, time.time()


@task(persist_result=False)
def kept_to_itself(number: int) -> int:
    return number


@flow(task_runner=CoiledTaskRunner(**SMALL))
def whens() -> tuple[list[Any], list[Any]]:
    futures = when.map(range(3))
    kept_to_itself.submit(4).result()
    values = futures.result()
    context = FlowRunContext.get()
    assert context is not None
    assert isinstance(context.result_store.result_storage, Ec2DaskResults)
    return values, [future.task_run_id for future in futures]


def read_again(runs: list[Any]) -> list[Any]:
    """What task runs returned, by the records that Prefect has."""
    with get_client(sync_client=True) as client:
        states: list[Any] = [client.read_task_run(run).state for run in runs]
    return [state.result(_sync=True) for state in states]


def test_results_are_in_the_bucket_by_the_role_and_outlive_their_cluster(judged: Sandbox) -> None:
    values, runs = whens()
    assert [number for number, _ in values] == [0, 1, 2]
    number = load_account().door().number
    bucket = bucket_name("default", number, "us-east-1")
    listed = judged.client("s3").list_objects_v2(Bucket=bucket, Prefix="results/")["Contents"]
    assert len(listed) >= 3
    # Whoever has the account reads them by the records that Prefect has.
    assert read_again(runs) == values
    # Another cluster, and nothing is computed a second time.
    assert whens()[0] == values
    # Machines may write there, and nowhere else in the bucket.
    written = [
        d for d in judged.decisions() if d["action"] == "s3:PutObject" and ":assumed-role/" in d["principal"]
    ]
    assert written
    assert all(d["allowed"] and "/results/" in d["resource"] for d in written)


def test_by_the_relay_results_are_in_the_bucket_too(judged: Sandbox) -> None:
    relayed = whens.with_options(
        name="whens by the relay", task_runner=CoiledTaskRunner(**SMALL, api_relay="always")
    )
    values, runs = relayed()
    assert [number for number, _ in values] == [0, 1, 2]
    assert read_again(runs) == values


def test_the_block_names_no_secret_and_says_what_is_not_there(sandbox: Sandbox) -> None:
    block: Any = Ec2DaskResults.load("default-us-east-1", _sync=True)
    assert block.account == "default"
    door = load_account().door()
    assert read_result(door, block.bucket, "nothing") is None
    with pytest.raises(ValueError, match="no result 'nothing'"):
        block.read_path("nothing", _sync=True)


def test_what_contradicts_it_is_refused_before_anything_is_launched(live: Any, tmp_path: Any) -> None:
    @flow(task_runner=CoiledTaskRunner(**SMALL), result_storage=tmp_path, persist_result=True)
    def elsewhere() -> Any:
        return when.submit(1).result()

    with pytest.raises(OptionsError, match="result_storage of flow 'elsewhere'"):
        elsewhere()
    with pytest.raises(OptionsError, match="one of prefect, bucket"):
        CoiledTaskRunner(results="s3")
    assert live() == []
