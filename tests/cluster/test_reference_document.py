"""The code examples of the reference document, word for word but for the import."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.client.orchestration import get_client

from prefect_coiled import Ec2DaskAccount, get_notifications
from prefect_coiled.sandbox import Sandbox

ROWS = 20_000
Run = Callable[..., str]
Until = Callable[..., Any]
# A process whose default account is the sandbox of the tests.
PROLOGUE = """
import json, os, pathlib
import prefect_coiled.sandbox.control as control
from prefect_coiled.sandbox import SandboxInfo
told = json.loads(os.environ["TOLD_SANDBOX"])
info = SandboxInfo(told["endpoint"], told["pid"], pathlib.Path(told["state_dir"]), told["addresses"],
    secret_access_key=told["secret_access_key"])
control.ensure_started = lambda: info
import prefect_coiled.sandbox
prefect_coiled.sandbox.ensure_started = lambda: info

import prefect_coiled as coiled
"""


@pytest.fixture
def run(told: str, environ: dict[str, str], tmp_path: Path) -> Run:
    """Run an example as a script of its own; gives what it printed."""

    def go(example: str, **more: str) -> str:
        file = tmp_path / "example.py"
        file.write_text(PROLOGUE + textwrap.dedent(example), encoding="utf-8")
        env = {**environ, "TOLD_SANDBOX": told, "PREFECT_LOGGING_LEVEL": "WARNING"}
        env = {name: value for name, value in (env | more).items() if value}
        done = subprocess.run(
            [sys.executable, str(file)], env=env, capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        # None of the examples closes anything, and none says a word at the end.
        assert done.stderr == ""
        return done.stdout

    return go


# Its last line is ours.
QUICK_START = """
    cluster = coiled.Cluster(n_workers=1)

    from dask.distributed import Client

    client = Client(cluster)
    print("Dashboard:", client.dashboard_link)
    print("name:", cluster.name)
    """


def told_of(cluster: str) -> list[str]:
    """The types of the notifications about a cluster, oldest first."""
    rows = get_notifications(json=True, limit=1000) or []
    return [r["event_type"] for r in rows if r["data"].get("cluster") == cluster]


def test_the_quick_start_closes_nothing_and_its_cluster_s_end_is_told(run: Run, until: Until) -> None:
    out = run(QUICK_START)
    assert "Dashboard: https://127." in out
    (name,) = [line.removeprefix("name: ") for line in out.splitlines() if line.startswith("name: ")]
    assert told_of(name)[-1] == "delete_cluster"
    assert "worker_lost" not in told_of(name)
    wanted = {"resource": {"id": [f"prefect-coiled.cluster.default.{name}"]}}

    def events() -> list[str]:
        with get_client(sync_client=True) as client:
            reply = client._client.post("/events/filter", json={"filter": wanted, "limit": 50})
        return [e["event"].removeprefix("prefect-coiled.") for e in reply.json()["events"]]

    until(lambda: "delete_cluster" in events(), 30)
    assert "worker_lost" not in events()


@pytest.mark.long
def test_the_quick_start_without_a_prefect_server(run: Run, tmp_path: Path) -> None:
    out = run(QUICK_START, PREFECT_API_URL="", PREFECT_HOME=str(tmp_path / "prefect"))
    (name,) = [line.removeprefix("name: ") for line in out.splitlines() if line.startswith("name: ")]
    assert told_of(name)[-1] == "delete_cluster"
    with closing(sqlite3.connect(tmp_path / "prefect" / "prefect.db")) as database:
        listed = database.execute("select event from events where resource_id like ?", (f"%.{name}",))
        assert "prefect-coiled.delete_cluster" in {event for (event,) in listed}


@pytest.mark.long
def test_a_team_account_is_named(run: Run) -> None:
    Ec2DaskAccount(region="eu-west-1", sandbox=True).save("my-team-account-name", overwrite=True)
    out = run(
        """
        cluster = coiled.Cluster(n_workers=1, account="my-team-account-name")
        print("account:", cluster.record.account, cluster.record.region)
        """
    )
    assert "account: my-team-account-name eu-west-1" in out
    assert out.startswith("account my-team-account-name: the sandbox on this machine\n")


@pytest.mark.long
def test_who_saved_only_a_team_account_is_told_that_another_one_runs(run: Run) -> None:
    Ec2DaskAccount(region="eu-west-1", sandbox=True).save("my-team-account-name", overwrite=True)
    out = run('cluster = coiled.Cluster(n_workers=0)\nprint("region:", cluster.record.region)')
    assert "region: us-east-1" in out
    first, _, _ = out.partition("\n")
    assert first.startswith(
        "account default: the sandbox on this machine (no account of that name is saved; there is:"
    )
    assert "my-team-account-name" in first


@pytest.mark.long
def test_a_region_is_given_in_python(run: Run) -> None:
    out = run(
        """
        cluster = coiled.Cluster(backend_options={"region": "us-west-1"}, n_workers=1)
        print("region:", cluster.record.region)
        """
    )
    assert "region: us-west-1" in out


@pytest.mark.long
def test_a_region_is_given_in_the_configuration_file(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "dask"
    folder.mkdir()
    (folder / "coiled.yaml").write_text("coiled:\n  backend-options:\n    region: us-west-1\n")
    out = run(
        """
        cluster = coiled.Cluster(n_workers=1)
        print("region:", cluster.record.region)
        """,
        DASK_CONFIG=str(folder),
    )
    assert "region: us-west-1" in out


@pytest.mark.long
def test_a_zone_is_given(run: Run) -> None:
    out = run(
        """
        cluster = coiled.Cluster(backend_options={'zone':'us-east-1b'}, n_workers=1)
        print("zone:", cluster.record.zone)
        """
    )
    assert "zone: us-east-1b" in out


@pytest.fixture(scope="module")
def taxi(sandbox: Sandbox) -> pd.DataFrame:
    """Two months of data of the taxi data's shape, in a public bucket of the sandbox's S3."""
    index = pd.RangeIndex(ROWS)
    frame = pd.DataFrame(
        {
            "VendorID": index % 2 + 1,
            "tpep_pickup_datetime": pd.Timestamp("2019-01-01") + pd.to_timedelta(index, unit="min"),
            "passenger_count": index % 6 + 1,
            "trip_distance": (index % 97) / 10,
            "RatecodeID": index % 5 + 1,
            "payment_type": index % 4 + 1,
            "tip_amount": (index % 31) / 4,
        }
    )
    s3 = sandbox.client("s3")
    s3.create_bucket(Bucket="nyc-tlc", ACL="public-read")
    for month, part in (("01", frame[: ROWS // 2]), ("02", frame[ROWS // 2 :])):
        key = f"trip data/yellow_tripdata_2019-{month}.csv"
        s3.put_object(Bucket="nyc-tlc", Key=key, Body=part.to_csv(index=False).encode(), ACL="public-read")
    return frame


@pytest.mark.long
# Without AWS's public bucket, it is the sandbox's that is read: by variables around it, or by a block within.
@pytest.mark.parametrize("exported", [True, False], ids=["variables", "block"])
def test_the_taxi_computation(run: Run, taxi: pd.DataFrame, sandbox: Sandbox, exported: bool) -> None:
    activated = "contextlib.nullcontext()" if exported else "ensure_started().activated()"
    computation = """
        cluster = coiled.Cluster(n_workers=1)

        from dask.distributed import Client

        client = Client(cluster)

        import dask.dataframe as dd

        df = dd.read_csv(
            "s3://nyc-tlc/trip data/yellow_tripdata_2019-*.csv",
            usecols=["VendorID", "passenger_count", "RatecodeID", "payment_type", "tip_amount"],
            dtype={
                "payment_type": "UInt8",
                "VendorID": "UInt8",
                "passenger_count": "UInt8",
                "RatecodeID": "UInt8",
            },
            storage_options={"anon": True},
            blocksize="16 MiB",
        ).persist()

        means = df.groupby("passenger_count").tip_amount.mean().compute()
        print("means:", {int(k): round(float(v), 9) for k, v in means.items()})
        """
    within = f"""
import contextlib
from prefect_coiled.sandbox import ensure_started

before = {{name: value for name, value in os.environ.items() if name.startswith("AWS_")}}
with {activated}:
{textwrap.indent(textwrap.dedent(computation), "    ")}
assert before == {{name: value for name, value in os.environ.items() if name.startswith("AWS_")}}
"""
    mine = {"AWS_ACCESS_KEY_ID": "AKIAMINE", "AWS_SECRET_ACCESS_KEY": "mine", "AWS_REGION": "eu-west-1"}
    out = run(within, **(sandbox.environment() if exported else mine))
    wanted = taxi.groupby("passenger_count").tip_amount.mean()
    assert f"means: { ({int(k): round(float(v), 9) for k, v in wanted.items()}) }" in out
