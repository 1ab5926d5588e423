"""The flow's process loses its network for a while, as a laptop does that changes from one to another."""

from __future__ import annotations

import subprocess
import time
from urllib.parse import urlsplit

import pytest
from prefect import flow, get_run_logger, task
from prefect.context import get_run_context
from prefect.variables import Variable

from prefect_coiled import CoiledTaskRunner
from prefect_coiled.task_runner.recording import wait_until_recorded

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(autouse=True)
def default_account(sandbox, prefect_server, monkeypatch):
    monkeypatch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: sandbox.info)


@pytest.fixture
def gone(sandbox, link_of, knock):
    """Takes this process's network to the machines away for so many seconds: packets go nowhere."""
    link = link_of(sandbox.info.client_address)

    def nft(text):
        subprocess.run(["nft", text], check=True, env={"PATH": PATH})

    def gone(host, seconds):
        nft(
            "add table inet gone;"
            " add chain inet gone to { type filter hook output priority 0; };"
            " add chain inet gone from { type filter hook input priority 0; };"
            f' add rule inet gone to oifname "{link}" drop; add rule inet gone from iifname "{link}" drop'
        )
        try:
            back = time.monotonic() + seconds
            while time.monotonic() < back:
                assert knock(host, 8786) == "nothing"
        finally:
            nft("delete table inet gone")

    return gone


def runs_without(gone, seconds, **options):
    """Run a flow whose tasks run and end while the network is gone: its state and what its tasks asked."""

    @task
    def works(n: int) -> int:
        import time

        time.sleep(5.0)
        Variable.get("relayed_nothing", default=None)
        get_run_logger().info("worked %d", n)
        return n

    @flow(task_runner=CoiledTaskRunner(n_workers=1, **options))
    def working():
        futures = works.map(range(4))
        scheduler = get_run_context().task_runner.client.scheduler.address
        gone(urlsplit(scheduler).hostname, seconds)
        return futures.result() + works.map(range(4, 6)).result()

    state = working(return_state=True)
    wait_until_recorded()
    return state


# Dask by itself waits for 30 s; a cluster for its `no_client_timeout` of two minutes.
@pytest.mark.parametrize("seconds", [15.0, 60.0])
def test_a_network_that_is_gone_for_less_than_a_cluster_waits_is_as_if_nothing_had_been(
    gone, recorded_of, seconds
):
    state = runs_without(gone, seconds)
    runs, said = recorded_of(state.state_details.flow_run_id)
    assert state.is_completed(), state
    assert state.result() == list(range(6))
    assert [run["state_name"] for run in runs if run["name"].startswith("works")] == ["Completed"] * 6
    assert {f"worked {n}" for n in range(6)} <= said


def test_a_network_that_is_gone_for_longer_ends_the_flow_run_and_nothing_hangs(gone, recorded_of):
    state = runs_without(gone, 60.0, no_client_timeout="10 s")
    runs, _ = recorded_of(state.state_details.flow_run_id)
    assert state.is_failed()
    assert "without a network for longer than a cluster waits" in state.message
    ends = {run["state_name"] for run in runs if run["name"].startswith("works")}
    # What ended unseen may have told the API so once the network was back; it may have asked in vain, too.
    assert ends <= {"Crashed", "Cancelled", "Completed", "Failed"}
    assert [run["state_name"] for run in runs if run["name"].startswith("remove cluster")] == ["Completed"]
