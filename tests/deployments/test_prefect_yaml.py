"""`prefect.yaml` as it is shipped, deployed to a real server."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def pool(client: SyncPrefectClient) -> None:
    if "shipped" not in {p.name for p in client.read_work_pools()}:
        client.create_work_pool(WorkPoolCreate(name="shipped", type="process"))


def test_all_of_it_is_deployed_with_its_schedules(
    client: SyncPrefectClient, environ: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "flows", tmp_path / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    # A pool of this test's own, whose runs nobody picks up.
    text = (ROOT / "prefect.yaml").read_text().replace("name: dask-ec2", "name: shipped")
    (tmp_path / "prefect.yaml").write_text(text)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = {d["name"]: d for d in yaml.safe_load(text)["deployments"]}
    made = {d.name: d for d in client.read_deployments() if d.work_pool_name == "shipped"}
    assert set(made) == set(wanted)
    for name, deployment in made.items():
        crons = [s.schedule.cron for s in deployment.schedules]  # type: ignore[union-attr]
        assert crons == [s["cron"] for s in wanted[name].get("schedules", [])]
        assert deployment.parameters == wanted[name].get("parameters", {})
        assert deployment.job_variables == {"env": {"PREFECT_COILED_CLUSTER__ACCOUNT": "my-team"}}
        # The form of the UI: what a run may say of its cluster.
        schema = deployment.parameter_openapi_schema
        if "cluster" in deployment.parameters:
            assert "ClusterSettings" in str(schema["properties"]["cluster"])  # type: ignore[index]
        client.delete_deployment(deployment.id)


def test_the_same_from_python(client: SyncPrefectClient) -> None:
    ours = runpy.run_path(str(ROOT / "flows" / "serve.py"))
    made = ours["deploy_to"]("shipped", "my-team", "s3://bucket/flights", timedelta(hours=6))
    found = client.read_deployment(made)
    assert found.job_variables == {"env": {"PREFECT_COILED_CLUSTER__ACCOUNT": "my-team"}}
    assert found.parameters["cluster"] == {"n_workers": 10}
    assert [s.schedule.interval for s in found.schedules] == [timedelta(hours=6)]  # type: ignore[union-attr]
    client.delete_deployment(found.id)
