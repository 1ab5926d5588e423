"""Seconds from the death of a worker's machine to the wanted size, with the client alive and with it gone.

    python benchmarks/replacement.py [--workers 2] [--runs 3]

In the sandbox, whose machines boot as processes: what AWS needs from RunInstances to a login comes on top. It
measures; it judges nothing. The machine under it should be idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox, control

LEFT = """
import json, sys, time
from prefect_coiled.sandbox import control
info = control.SandboxInfo(**json.loads(sys.argv[1]))
control.ensure_started = lambda: info
from prefect_coiled import Cluster
keywords = {"name": "left", "wait_for_workers": True, "no_client_timeout": None, "quiet": True}
cluster = Cluster(int(sys.argv[2]), **keywords)
print("up", flush=True)
time.sleep(3600)
"""


def until(check: Callable[[], bool], seconds: float = 180.0) -> float:
    """Seconds until a check is true."""
    begun = time.perf_counter()
    while not check():
        if time.perf_counter() - begun > seconds:
            raise SystemExit(f"not within {seconds:.0f} s")
        time.sleep(0.02)
    return time.perf_counter() - begun


def with_client(sandbox: Sandbox, workers: int) -> dict[str, float]:
    """Until the client sees the wanted number of workers again; and until its machine was launched."""
    with Cluster(n_workers=workers, wait_for_workers=True, quiet=True) as cluster:
        lost = min(cluster.workers)
        sandbox.client("ec2").terminate_instances(InstanceIds=[lost])
        launched = until(lambda: bool(set(cluster.workers) - {lost} - set(cluster.observed)))
        joined = launched + until(lambda: len(set(cluster.observed) - {lost}) == workers)
    return {"client alive: launched": launched, "client alive: joined": joined}


def without_client(sandbox: Sandbox, workers: int) -> dict[str, float]:
    """The same by what the machines ship to their logs, with nobody connected."""
    told = {name: str(value) if name == "state_dir" else value for name, value in vars(sandbox.info).items()}
    keys = ("endpoint", "pid", "state_dir", "addresses", "secret_access_key")
    arguments = [json.dumps({key: told[key] for key in keys}), str(workers)]
    process = subprocess.Popen([sys.executable, "-c", LEFT, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()  # its own Prefect server, if it had to start one
    process.kill()
    process.wait()
    ec2 = sandbox.client("ec2")

    def running() -> set[str]:
        wanted = [
            {"Name": "tag:coiled-role", "Values": ["worker"]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        found = ec2.describe_instances(Filters=wanted)["Reservations"]
        return {i["InstanceId"] for r in found for i in r["Instances"]}

    before = running()
    lost = min(before)
    ec2.terminate_instances(InstanceIds=[lost])
    launched = until(lambda: len(running() - before) == 1)
    (new,) = running() - before
    logs = sandbox.client("logs")

    def joined() -> bool:
        found = logs.describe_log_streams(logGroupName="default", logStreamNamePrefix=new)["logStreams"]
        if not found:
            return False
        events = logs.get_log_events(logGroupName="default", logStreamName=new)["events"]
        return any("Dask worker ready" in event["message"] for event in events)

    ready = launched + until(joined)
    Cluster(name="left", quiet=True, shutdown_on_close=True).close()
    return {"client gone: launched": launched, "client gone: joined": ready}


def main() -> None:
    """Print medians and ranges."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    found: dict[str, list[float]] = {}
    with Sandbox() as sandbox:
        control.ensure_started = lambda: sandbox.info
        Cluster(n_workers=1, wait_for_workers=True, quiet=True).close()  # makes the network
        for _ in range(asked.runs):
            for measure in (with_client, without_client):
                for name, seconds in measure(sandbox, asked.workers).items():
                    print(f"  {name:24} {seconds:6.1f} s", flush=True)
                    found.setdefault(name, []).append(seconds)
    for name, times in found.items():
        print(f"{name:24} {statistics.median(times):6.1f} s ({min(times):.1f} to {max(times):.1f})")


if __name__ == "__main__":
    main()
