"""Several workers on a machine, and a worker on the scheduler's."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from distributed import Client
from typer.testing import CliRunner

from prefect_coiled import Cluster
from prefect_coiled.cli import app
from prefect_coiled.errors import OptionsError
from prefect_coiled.sandbox import Sandbox

Live = Callable[[], list[dict[str, Any]]]
Until = Callable[..., Any]


def sizes(client: Client) -> list[tuple[int, int]]:
    """Threads and memory of each worker."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sorted((w["nthreads"], w["memory_limit"]) for w in workers)


def memory() -> int:
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def cores() -> int:
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def test_one_machine_is_enough_for_one_worker(sandbox: Sandbox, live: Live, until: Until) -> None:
    with (
        Cluster(n_workers=1, worker_on_scheduler=True, wait_for_workers=True, quiet=True) as cluster,
        Client(cluster) as client,
    ):
        (machine,) = live()
        own = machine["InstanceId"]
        assert set(cluster.workers) == cluster.observed == cluster.plan == {own}
        assert client.submit(lambda: sum(range(10))).result(timeout=300) == 45
        assert sizes(client) == [(max(cores() - 1, 1), int(0.75 * memory()))]
        (row,) = json.loads(CliRunner().invoke(app, ["ls", "--json"]).output)
        assert row["workers"] == 1
        assert row["usd_per_hour"] < 0.25, "of one machine, not of two"
        assert [line.what.split(":")[0] for line in cluster.cost().lines][:1] == ["scheduler"]
        assert not any("workers" in line.what for line in cluster.cost().lines)
        assert "Nanny" in "\n".join(map(str, cluster.get_logs().values()))
        cluster.scale(0)  # the machine runs on, and so does its worker
        cluster.scale(2)
        until(lambda: len(cluster.observed) == 2, 60)
        assert len(live()) == 2
        client.wait_for_workers(2, timeout=300)
        cluster.scale(1)
        until(lambda: cluster.observed == {own}, 30)
        until(lambda: [m["InstanceId"] for m in live() if m["State"]["Name"] == "running"] == [own], 30)
        until(
            lambda: client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.keeper.keeping.wanted) == 1
        )
    assert live() == []


def test_a_worker_beside_the_scheduler_is_started_anew(live: Live, until: Until) -> None:
    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    with (
        Cluster(n_workers=1, worker_on_scheduler=True, wait_for_workers=True, quiet=True) as cluster,
        Client(cluster) as client,
    ):
        (before,) = client.run(os.getpid).values()
        client.run_on_scheduler(kill, before)
        until(lambda: client.submit(os.getpid, pure=False).result(timeout=300) != before, 60)
        assert len(live()) == 1, "nothing was launched in its place"
        until(lambda: len(cluster.observed) == 1)
        assert len(cluster.workers) == 1


def test_workers_of_a_machine_share_it_and_go_together(live: Live, until: Until) -> None:
    with (
        Cluster(n_workers=2, workers_per_vm=2, wait_for_workers=True, quiet=True) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(4, timeout=300)
        assert sizes(client) == [(max(cores() // 2, 1), memory() // 2)] * 4
        names = {w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values()}
        assert names == {f"{machine}-{n}" for machine in cluster.workers for n in (0, 1)}
        assert cluster.observed == set(cluster.workers)
        assert len(cluster.workers) == 2
        assert len(cluster.get_logs(cluster=False, scheduler=False)) == 2
        cluster.scale(1)
        until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2, 30)
        until(lambda: len([m for m in live() if m["State"]["Name"] == "running"]) == 2, 30)
        (left,) = cluster.observed
        assert {w["name"] for w in client.scheduler_info(n_workers=-1)["workers"].values()} == {
            f"{left}-0",
            f"{left}-1",
        }
        cluster.adapt(minimum=0, maximum=2, interval="200 ms", wait_count=1)
        until(lambda: not cluster.observed, 30)
        future = client.submit(lambda: 7, pure=False)
        assert future.result(timeout=300) == 7


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"n_workers": 0, "worker_on_scheduler": True}, "n_workers 0"),
        ({"worker_on_scheduler": True, "worker_gpu": 1}, "worker_on_scheduler"),
        ({"workers_per_vm": 2, "worker_gpu": 1}, "workers_per_vm"),
        ({"workers_per_vm": 0}, "workers_per_vm 0"),
        ({"worker_options": {"nworkers": 2}}, "Use the parameter workers_per_vm"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_launched(
    keywords: dict[str, Any], words: str, live: Live
) -> None:
    with pytest.raises(OptionsError, match=words):
        Cluster(**keywords, quiet=True)
    assert live() == []
