"""Where the seconds of a cluster's start go, and how many AWS calls it takes, in the sandbox.

    python benchmarks/cluster_start.py start [--workers 4] [--runs 3]     on a network that exists
    python benchmarks/cluster_start.py calls                              for 1, 5, 20 and 100 workers

It measures; it judges nothing. The machine under it should be idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox, control

STEPS = ("network", "image", "instances", "log streams", "scheduler", "workers")


def one_start(workers: int) -> dict[str, float]:
    """Seconds from the call of `Cluster` until each step was reached for the last time."""
    begun = time.perf_counter()
    reached: dict[str, float] = {}

    def report(step: str, state: str) -> None:
        reached[step] = time.perf_counter() - begun

    with Cluster(n_workers=workers, wait_for_workers=True, report=report):
        reached["all registered"] = time.perf_counter() - begun
        ready = dict(reached)
    ready["closed"] = time.perf_counter() - begun - ready["all registered"]
    return ready


def start(workers: int, runs: int) -> None:
    """Print the median, and the range of the whole."""
    with Sandbox() as sandbox:
        control.ensure_started = lambda: sandbox.info
        one_start(1)  # makes the network; imports and Prefect's server are warm after it
        times = [one_start(workers) for _ in range(runs)]
    for step in (*STEPS, "all registered", "closed"):
        print(f"{step:15} {statistics.median(t[step] for t in times):6.2f} s")
    whole = [t["all registered"] for t in times]
    print(f"1 scheduler + {workers} workers, {runs} runs: {min(whole):.2f} to {max(whole):.2f} s")


def calls() -> None:
    """Print the number of AWS calls of the client by the number of workers."""
    from prefect_coiled.cluster import launched

    with Sandbox({"boot": "none"}) as sandbox:
        control.ensure_started = lambda: sandbox.info
        counted: dict[int, dict[str, int]] = {}
        for number in (1, 1, 5, 20, 100):  # the first makes the network
            sandbox.clear_calls()
            request = launched.Request({}, n_workers=number)
            made = launched.launch(request, lambda step, state: None, _never())
            seen: dict[str, int] = {}
            for _, action in sandbox.calls():
                seen[action] = seen.get(action, 0) + 1
            counted[number] = seen
            made.remove_plainly([w.instance_id for w in made.record.workers], 30)
    for number, seen in counted.items():
        streams = seen.pop("CreateLogStream")
        print(f"{number:4} workers: {sum(seen.values())} calls and {streams} CreateLogStream")
    print(json.dumps(counted[100]))


def _never() -> Any:
    import threading

    return threading.Event()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["start", "calls"])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    start(options.workers, options.runs) if options.what == "start" else calls()
