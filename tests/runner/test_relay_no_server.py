"""Prefect's temporary server is enough."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import FAST

ROOT = Path(__file__).parents[2]

TEMPORARY = """
import sys
from distributed import LocalCluster
from distributed.security import Security
from prefect import flow, get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from prefect_coiled import CoiledTaskRunner
from prefect.runtime import flow_run

class Elsewhere(LocalCluster):
    def __init__(self):
        super().__init__(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None,
                         protocol="tls://", security=Security.temporary())

@task
def square(n):
    get_run_logger().info("squaring %d", n)
    return n * n, str(get_current_settings().api.url)

@flow(task_runner=CoiledTaskRunner(cluster_class=Elsewhere, api_relay="always"))
def squares():
    return square.map(range(5)).result(), flow_run.id

if __name__ == "__main__":
    from prefect_coiled.task_runner.recording import wait_until_recorded
    found, id_ = squares()
    assert [n for n, _ in found] == [0, 1, 4, 9, 16]
    wait_until_recorded()
    with get_client(sync_client=True) as client:
        runs = client.request("POST", "/task_runs/filter", json={
            "task_runs": {"flow_run_id": {"any_": [str(id_)]}}}).json()
        logs = client.request("POST", "/logs/filter", json={
            "logs": {"flow_run_id": {"any_": [str(id_)]}}}).json()
    assert [run["state_name"] for run in runs] == ["Completed"] * 5, runs
    said = {line["message"] for line in logs}
    assert {f"squaring {n}" for n in range(5)} <= said, said
    assert str(client.api_url).rstrip("/") not in {url for _, url in found}
    print("RIGHT")
"""


@pytest.mark.long
def test_prefects_temporary_server_is_enough(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TEMPORARY)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    environ |= {
        **FAST,
        "PREFECT_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=170, env=environ, check=False
    )
    assert "RIGHT" in ended.stdout, ended.stdout[-2000:] + ended.stderr[-4000:]
