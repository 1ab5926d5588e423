"""What a cluster has cost when its lid ends it: with the client alive, with it gone, and while machines boot.

    python benchmarks/lid.py [--workers 4] [--usd 1800] [--ways alive gone booting]

In the sandbox, whose machines boot as processes, at a price that makes the lid come soon. The cost is that of
the machines, from each one's launch until it was seen to end. It measures; it judges nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import psutil

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox, control

REGION, KIND = "eu-west-1", "m5.large"
CLUSTER: dict[str, Any] = {
    "backend_options": {"region": REGION, "egress": "public-ip"},
    "worker_vm_types": [KIND],
    "scheduler_vm_types": [KIND],
    "wait_for_workers": True,
    "no_client_timeout": None,
    "quiet": True,
}
GONE = """
import json, sys, time
from prefect_coiled.sandbox import control
info = control.SandboxInfo(**json.loads(sys.argv[1]))
control.ensure_started = lambda: info
from prefect_coiled import Cluster
cluster = Cluster(**json.loads(sys.argv[2]))
print("up", flush=True)
time.sleep(3600)
"""


def machines(sandbox: Sandbox, name: str) -> list[Mapping[str, Any]]:
    """What EC2 lists of a cluster."""
    named = [{"Name": "tag:coiled-cluster", "Values": [name]}]
    found = sandbox.client("ec2", REGION).describe_instances(Filters=named)["Reservations"]
    return [item for one in found for item in one["Instances"]]


def wait_until_gone(sandbox: Sandbox, name: str, run: int = 0) -> float:
    """Hours of a cluster's machines, each from its launch until it was first seen ended; once all have.

    Args:
        run: So many are machines without processes, which no power button ends: they count as ended with the
            last of the others.
    """
    ended: dict[str, float] = {}
    while True:
        listed = machines(sandbox, name)
        now = datetime.now(timezone.utc)
        for item in listed:
            if item["State"]["Name"] in ("shutting-down", "terminated"):
                ran = max((now - item["LaunchTime"]).total_seconds(), 60.0)
                ended.setdefault(item["InstanceId"], ran)
        if listed and len(ended) == len(listed) - run:
            left = [item for item in listed if item["InstanceId"] not in ended]
            seconds = sum(ended.values()) + sum((now - i["LaunchTime"]).total_seconds() for i in left)
            return float(seconds) / 3600
        time.sleep(0.5)


def alive(sandbox: Sandbox, keywords: dict[str, Any]) -> float:
    """Its client looks on."""
    with Cluster(**keywords) as cluster:
        return wait_until_gone(sandbox, str(cluster.name))


def gone(sandbox: Sandbox, keywords: dict[str, Any]) -> float:
    """Its client is killed as soon as it is up."""
    told = {name: str(value) if name == "state_dir" else value for name, value in vars(sandbox.info).items()}
    keys = ("endpoint", "pid", "state_dir", "addresses", "secret_access_key")
    arguments = [json.dumps({key: told[key] for key in keys}), json.dumps(keywords)]
    process = subprocess.Popen([sys.executable, "-c", GONE, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    for child in psutil.Process(process.pid).children(recursive=True):
        child.kill()  # its own Prefect server, if it had to start one
    process.kill()
    process.wait()
    return wait_until_gone(sandbox, keywords["name"])


def booting(sandbox: Sandbox, keywords: dict[str, Any]) -> float:
    """As many again are asked for, and boot for as long as they are let."""
    with Cluster(**keywords) as cluster:
        sandbox.set(boot="none")
        cluster.scale(2 * keywords["n_workers"])
        sandbox.set(boot="process")
        return wait_until_gone(sandbox, str(cluster.name), run=keywords["n_workers"])


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--usd", type=float, default=1800.0, help="US dollars an hour of each machine.")
    parser.add_argument("--ways", nargs="+", default=["alive", "gone", "booting"])
    asked = parser.parse_args()
    # Six minutes of what is asked for: a lid for less than the first five is refused.
    lid = round(6 / 60 * asked.usd * (asked.workers + 1), 2)
    known: dict[str, Callable[..., float]] = {"alive": alive, "gone": gone, "booting": booting}
    ways = [known[name] for name in asked.ways]
    with Sandbox() as sandbox:
        control.ensure_started = lambda: sandbox.info
        sandbox.set(prices={REGION: {KIND: asked.usd}})
        for number, way in enumerate(ways):
            keywords = {**CLUSTER, "name": f"lid-{number}", "n_workers": asked.workers, "max_total_cost": lid}
            usd = way(sandbox, keywords) * asked.usd
            seconds = (usd - lid) / (asked.usd / 3600) / (asked.workers + 1)
            # At this price a second of the cluster is worth dollars; at a real one, what it is in cents.
            cents = 100 * seconds * (asked.workers + 1) * 0.107 / 3600
            print(
                f"{way.__name__:8} ${usd:9.2f} of ${lid:9.2f}: {seconds:+6.1f} s of the whole cluster; "
                f"at $0.107 an hour {cents:+.2f} cents",
                flush=True,
            )


if __name__ == "__main__":
    main()
