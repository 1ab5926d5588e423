"""The flows that `prefect.yaml` deploys, in the sandbox."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import pandas as pd
import pytest
from prefect_aws import AwsCredentials

from prefect_coiled import ClusterSettings, Ec2DaskAccount
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
FLOWS = Path(__file__).parents[2] / "flows"


def test_a_shared_cluster_is_kept_warm_used_by_a_report_and_stopped(
    sandbox: Sandbox, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = runpy.run_path(str(FLOWS / "shared_cluster.py"))
    nightly = runpy.run_path(str(FLOWS / "nightly.py"))
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    flights = pd.DataFrame({"month": list(range(1, 13)) * 2, "carrier": ["AA"] * 12 + ["UA"] * 12})
    flights["dep_delay"] = [1.0] * 12 + [30.0] * 12
    folder = nightly["sys"].modules["flights"].put_flights("nightly-flights", flights)
    for name in sandbox.environment():
        monkeypatch.delenv(name)

    one = ClusterSettings(n_workers=1, more={"nthreads": 2, "wait_for_workers": True})
    assert shared["keep_warm"]("warm", one) == 1
    machines = {i["InstanceId"] for i in live()}
    assert len(machines) == 2
    assert shared["keep_warm"]("warm", one) == 1
    report = nightly["nightly_report"](folder, ClusterSettings(name="warm"))
    assert report == {"UA": 30.0, "AA": 1.0}
    # All of it on the same machines, which the report left running.
    assert {i["InstanceId"] for i in live()} == machines
    assert "2 instances" in shared["stop_cluster"]("warm")
    assert live() == []
    assert shared["stop_cluster"]("warm") == "nothing"


@pytest.mark.parametrize("words", [[], ["--account", "mine"]])
def test_the_quickstart_refuses_a_variable_that_leads_it_elsewhere(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_COILED_CLUSTER__ACCOUNT", "my-team")
    monkeypatch.setattr("sys.argv", ["quickstart.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FLOWS / "quickstart.py"), run_name="__main__")
    assert str(ended.value).startswith("Error: the quickstart: PREFECT_COILED_CLUSTER__ACCOUNT would change")


def test_the_quickstart_runs_in_the_sandbox_where_no_account_is_named(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = AwsCredentials(aws_access_key_id="AKIAX", aws_secret_access_key="nobodys")
    Ec2DaskAccount(region="us-east-1", aws_credentials=keys).save("in-aws", overwrite=True)
    monkeypatch.setattr("sys.argv", ["quickstart.py"])
    with dask.config.set({"coiled.account": "in-aws"}), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FLOWS / "quickstart.py"), run_name="__main__")
    assert str(ended.value) == (
        "Error: the quickstart: account in-aws is not the sandbox. "
        "Name it, with a bucket: --account in-aws --data s3://BUCKET."
    )


def test_a_parameter_without_effect_is_refused(sandbox: Sandbox, live: Live) -> None:
    from prefect import flow, task

    from prefect_coiled import CoiledTaskRunner

    @task
    def one() -> int:
        return 1

    @flow(task_runner=CoiledTaskRunner(address="tls://127.0.0.1:1"))
    def attached(cluster: ClusterSettings = ClusterSettings()) -> int:
        return one.submit().result()

    state = attached(ClusterSettings(n_workers=3), return_state=True)
    assert "parameter 'cluster': cannot change the cluster" in str(state.result(raise_on_failure=False))


def test_a_wrong_variable_fails_the_flow_before_anything_is_made(
    sandbox: Sandbox, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_COILED_CLUSTER__N_WORKRS", "3")
    nightly = runpy.run_path(str(FLOWS / "nightly.py"))
    sandbox.clear_calls()
    state = nightly["nightly_report"]("s3://nowhere/flights", return_state=True)
    assert "Did you mean 'n_workers'?" in str(state.result(raise_on_failure=False))
    assert sandbox.calls() == []
