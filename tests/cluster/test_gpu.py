"""Workers with a GPU: their machine, image, market and worker class. No GPU is here, and none is played."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, get_worker

from prefect_coiled.cluster import Cluster
from prefect_coiled.sandbox import Sandbox

PLAIN = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
GPU = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
# The same life as the real one: it makes the nannies itself, one for each GPU.
FAKE = """
from distributed import Nanny
from distributed.core import Server

class CUDAWorker(Server):
    def __init__(self, scheduler, nthreads=1, name=None, preload=(), rmm_pool_size=None, **kwargs):
        env = {"CUDA_VISIBLE_DEVICES": "0", "FAKE_DASK_CUDA": f"{rmm_pool_size} {Nanny.__name__}"}
        self.nannies = [Nanny(scheduler, nthreads=nthreads, name=name, env=env, **kwargs)]

    def __await__(self):
        raise AssertionError("nobody waits for the nannies in a way that forgets them")
"""


def about() -> dict[str, Any]:
    worker = get_worker()
    cuda = {k: v for k, v in os.environ.items() if k.startswith(("CUDA_", "FAKE_"))}
    return {"threads": worker.state.nthreads, "class": type(worker).__name__, **cuda}


def of_role(machines: list[dict[str, Any]], role: str) -> dict[str, Any]:
    tag = {"Key": "coiled-role", "Value": role}
    (found,) = [m for m in machines if tag in m["Tags"]]
    return found


def disk(sandbox: Sandbox, machine: dict[str, Any]) -> int:
    (mapping,) = machine["BlockDeviceMappings"]
    volumes = sandbox.client("ec2").describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
    return int(volumes[0]["Size"])


def test_one_gpu_means_a_g4dn_on_demand_with_the_drivers_image_for_workers_alone(
    sandbox: Sandbox, default_account: None, live: Callable[[], list[dict[str, Any]]]
) -> None:
    ssm = sandbox.client("ssm")
    with Cluster(n_workers=1, worker_gpu=1, wait_for_workers=True, quiet=True) as one:
        machines = live()
        worker, scheduler = of_role(machines, "worker"), of_role(machines, "scheduler")
        assert (disk(sandbox, worker), disk(sandbox, scheduler)) == (100, 30)
        with Client(one) as client:
            seen = client.submit(about).result(timeout=300)
    assert worker["InstanceType"] == "g4dn.xlarge"
    assert "InstanceLifecycle" not in worker
    assert worker["ImageId"] == ssm.get_parameter(Name=GPU)["Parameter"]["Value"]
    assert scheduler["ImageId"] == ssm.get_parameter(Name=PLAIN)["Parameter"]["Value"]
    assert not scheduler["InstanceType"].startswith("g")
    # Where dask_cuda is not installed, workers are Dask's own.
    assert seen["class"] == "Worker"
    assert "CUDA_VISIBLE_DEVICES" not in seen


def test_spot_is_on_where_it_was_said(sandbox: Sandbox, default_account: None) -> None:
    with Cluster(n_workers=1, worker_gpu=1, spot=True, wait_for_workers=0, quiet=True) as one:
        assert [w.spot for w in one.workers.values()] == [True]


@pytest.fixture
def with_dask_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None
) -> Iterator[Sandbox]:
    """A sandbox whose machines have a package `dask_cuda`, which records that it was used."""
    package = tmp_path / "dask_cuda"
    package.mkdir()
    (package / "__init__.py").write_text("from dask_cuda.cuda_worker import CUDAWorker\n")
    (package / "cuda_worker.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    with Sandbox({"grace": 3}) as running:
        monkeypatch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: running.info)
        yield running
        assert {i["state"] for i in running.instances().values()} <= {"terminated"}


def test_workers_are_those_of_dask_cuda_where_it_is_installed(
    with_dask_cuda: Sandbox, until: Callable[..., Any]
) -> None:
    options = {"rmm_pool_size": "1GB"}
    with Cluster(n_workers=1, worker_gpu=1, wait_for_workers=True, worker_options=options, quiet=True) as one:
        with Client(one) as client:
            seen = client.submit(about).result(timeout=300)
        assert seen == {
            "class": "Worker",
            "threads": 1,
            "CUDA_VISIBLE_DEVICES": "0",
            # Its nannies are those that say why they ended.
            "FAKE_DASK_CUDA": "1GB NodeNanny",
        }
        (worker,) = one.workers
        assert list(one.observed) == [worker]  # it has the machine's name
        with Client(one) as client:
            client.retire_workers(names=[worker], close_workers=True)
        console = until(lambda: "; powering off" in (text := with_dask_cuda.console(worker)) and text, 60)
        assert "rc=0 role=worker" in console


def test_a_class_that_was_named_wins_and_machines_without_a_gpu_do_not_use_it(
    with_dask_cuda: Sandbox,
) -> None:
    for keywords in ({"worker_gpu": 1, "worker_class": "distributed.Worker"}, {}):
        with (
            Cluster(n_workers=1, wait_for_workers=True, quiet=True, **keywords) as one,
            Client(one) as client,
        ):
            assert "FAKE_DASK_CUDA" not in client.submit(about).result(timeout=300)
