"""A cluster of ours and one of dask-cloudprovider's EC2Cluster, in one sandbox: calls, and seconds.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install "dask-cloudprovider[aws]"
    python benchmarks/beside_ec2cluster.py --peer /tmp/peer/bin/python [--workers 1 5 20]

The peer has an environment of its own, because of its botocore. One thing of it is patched: its machines boot
a container, which a process tree cannot. Once `EC2Instance.create_vm` has returned, a scheduler or a worker
is started on this machine, in the place of what would boot. What it asks of AWS is its own, and so are its
waits. Our machines boot by their user data. The account is known (`aws.known`), and the peer's security group
is there, which this makes: release 2025.9.0 fails where it would make it itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def peer(workers: int) -> None:
    """In the peer's environment: a cluster of EC2Cluster's. Says when it is there, and goes on when told."""
    from dask.distributed import Client
    from dask_cloudprovider.aws import EC2Cluster
    from dask_cloudprovider.aws.ec2 import EC2Instance

    processes: list[subprocess.Popen[bytes]] = []
    create = EC2Instance.create_vm

    async def booted(self: Any) -> tuple[str, None]:
        await create(self)
        words = (
            ["worker", "tcp://127.0.0.1:8786", "--no-nanny", "--nthreads", "1", "--name", self.name]
            if hasattr(self, "scheduler")
            else ["scheduler", "--host", "127.0.0.1", "--no-dashboard"]
        )
        command = [sys.executable, "-m", "dask", *words]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return "127.0.0.1", None

    EC2Instance.create_vm = booted
    begun = time.monotonic()
    try:
        with (
            EC2Cluster(
                n_workers=workers,
                region="us-east-1",
                ami=os.environ["PEER_IMAGE"],
                instance_type="m6i.large",
                bootstrap=False,
                security=False,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(workers, timeout=600)
            print(json.dumps(time.monotonic() - begun), flush=True)
            sys.stdin.readline()
    finally:
        for process in processes:
            process.terminate()


@contextmanager
def theirs(python: str, workers: int, sandbox: Any, image: str) -> Iterator[float]:
    """A cluster of the peer's; gives the seconds until all workers were registered."""
    environ = {**os.environ, **sandbox.environment(), "PEER_IMAGE": image}
    command = [python, str(Path(__file__).resolve()), "--as-peer", str(workers)]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            try:
                seconds = json.loads(line)
            except ValueError:  # what it says of its machines
                continue
            if isinstance(seconds, float):
                break
        else:
            raise RuntimeError("EC2Cluster did not come up")
        yield seconds
        process.stdin.write("\n")
        process.stdin.close()
        process.stdout.read()


@contextmanager
def ours(workers: int) -> Iterator[float]:
    """A cluster of this library's."""
    from prefect_coiled.cluster import Cluster

    begun = time.monotonic()
    with Cluster(n_workers=workers, wait_for_workers=True, quiet=True):
        yield time.monotonic() - begun


def main() -> None:
    """Run both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer", help="Python of an environment with dask-cloudprovider[aws]")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--profile", default="realistic")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as-peer", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_peer is not None:
        peer(given.as_peer)
        return
    import prefect_coiled.sandbox.control as control
    from prefect_coiled.sandbox import Sandbox

    rows = []
    settings = {} if given.profile == "fast" else {"profile": given.profile, "nat_pending": 1.0}
    with Sandbox(settings) as sandbox:
        control.ensure_started = lambda: sandbox.info
        image = sandbox.client("ec2").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        vpc = next(v["VpcId"] for v in sandbox.client("ec2").describe_vpcs()["Vpcs"] if v["IsDefault"])
        sandbox.client("ec2").create_security_group(GroupName="dask-default", Description="peer", VpcId=vpc)
        for who in ("ours", *(["EC2Cluster"] if given.peer else [])):
            sandbox.set(boot="process" if who == "ours" else "none")
            # The first ones are not counted: they make what the later ones find, and note it.
            for counted, workers in [(False, 1), (False, 1), *((True, n) for n in given.workers)]:
                sandbox.clear_calls()
                run = ours(workers) if who == "ours" else theirs(given.peer, workers, sandbox, image)
                with run as seconds:
                    called = Counter(f"{service}:{action}" for service, action in sandbox.calls())
                    load = os.getloadavg()[0]
                row = {
                    "who": who,
                    "workers": workers,
                    "seconds": round(seconds, 1),
                    "calls": sum(called.values()),
                    "load": round(load, 1),
                    "by call": dict(called.most_common()),
                }
                if counted:
                    rows.append(row)
                    print(row, flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
