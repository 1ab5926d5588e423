"""Results in a bucket of the AWS account: written by machines by their role, read by whoever has keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect_aws import S3Bucket

from prefect_coiled import CoiledTaskRunner, load_account
from prefect_coiled.sandbox import Sandbox

SMALL: dict[str, Any] = {"n_workers": 1, "wait_for_workers": True, "nthreads": 2}
BUCKET = "results-of-flows"
WRITES = "arn:aws:iam::aws:policy/AmazonS3FullAccess"


@pytest.fixture
def storage(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """A bucket as a block that names no keys: here those of the environment, on machines their role's."""
    for name, value in {
        "AWS_ENDPOINT_URL": sandbox.endpoint,
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": sandbox.info.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    sandbox.client("s3").create_bucket(Bucket=BUCKET)
    block: Any = S3Bucket(bucket_name=BUCKET, bucket_folder="results")
    block.save("results", overwrite=True, _sync=True)
    sandbox.set(iam="on")
    yield block
    sandbox.set(iam="off")
    for found in sandbox.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        sandbox.client("s3").delete_object(Bucket=BUCKET, Key=found["Key"])
    sandbox.client("s3").delete_bucket(Bucket=BUCKET)


@task(cache_policy=INPUTS, persist_result=True)
def when(number: int) -> tuple[int, float]:
    return number, time.time()


def whens(storage: S3Bucket) -> Callable[[], Any]:
    runner = CoiledTaskRunner(**SMALL)
    made: Any = flow(name="whens", task_runner=runner, result_storage=storage, persist_result=True)(
        lambda: when.map(range(3)).result()
    )
    return made  # type: ignore[no-any-return]


def test_results_outlive_their_cluster_and_the_next_one_reads_them(
    storage: S3Bucket, sandbox: Sandbox
) -> None:
    load_account().attach_policy(WRITES)
    first = whens(storage)()
    assert [number for number, _ in first] == [0, 1, 2]
    kept = sandbox.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="results/")["Contents"]
    assert len(kept) >= 3
    # Another cluster, and nothing is computed a second time.
    assert whens(storage)() == first
