"""Seconds for a graph of many `dask.delayed` calls, on a cluster of the sandbox and on a `LocalCluster`.

    python benchmarks/many_delayed.py [--tasks 50000] [--workers 2] [--only here|there]

Most of it passes in the client (the graph is made and culled) and in the scheduler. It measures; it judges
nothing. The machine under it should be idle.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import dask
from distributed import Client, LocalCluster

from prefect_coiled import Cluster


def seconds(cluster: Any, tasks: int) -> dict[str, float]:
    """Seconds until the graph is made, and until its result is there."""
    with Client(cluster) as client:
        client.submit(sum, [1, 2]).result()
        begun = time.perf_counter()
        total = dask.delayed(sum)([dask.delayed(abs)(-n) for n in range(tasks)])
        made = time.perf_counter() - begun
        assert client.compute(total, optimize_graph=True).result() == tasks * (tasks - 1) // 2
        return {"made": round(made, 1), "computed": round(time.perf_counter() - begun - made, 1)}


def main() -> None:
    """Print both, as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", choices=["here", "there"])
    chosen = parser.parse_args()
    if chosen.only != "here":
        with LocalCluster(n_workers=chosen.workers, threads_per_worker=1, dashboard_address=":0") as local:
            print(json.dumps({"LocalCluster": seconds(local, chosen.tasks)}), flush=True)
    if chosen.only != "there":
        with Cluster(n_workers=chosen.workers, nthreads=1, wait_for_workers=True, quiet=True) as cluster:
            print(json.dumps({"Cluster": seconds(cluster, chosen.tasks)}), flush=True)


if __name__ == "__main__":
    main()
