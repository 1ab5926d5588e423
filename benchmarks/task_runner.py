"""Small tasks and large data by five ways to run them: plain Dask, threads, DaskTaskRunner, CoiledTaskRunner,
and the last with tasks that ask the Prefect API through the flow's process ("relay").

    python benchmarks/task_runner.py [--tasks 500] [--rounds 3] [--ways plain threads dask ours relay]
        [--how map submit] [--no-data] [--json FILE]

One Prefect server with SQLite, and one LocalCluster of two workers with one thread each, in processes of
their own; the ways take turns, so that what else the machine does falls on all of them. A way that is much
slower than the others gets fewer tasks (--dask-tasks). The numbers are medians of the rounds:

- tasks/s: from the first submit until every result is here; the workers are warm by some tasks before.
- recorded: seconds from the first submit until the server has every task run as Completed; and until it has
  all of their states, which CoiledTaskRunner sends last where many wait.
- CPU a task, in ms: of the client, the workers, the scheduler and the server, until all of that is recorded.
- bytes a task that the client sends to the scheduler and gets from there; and the client's peak memory above
  what it had.

It measures; it judges nothing. Ratios within one run are what counts: the machine may be busy otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAYS = ("plain", "threads", "dask", "ours", "relay")
MB = 1_000_000
_WARM = 16
CLUSTER = """
import logging, sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None,
                      silence_logs=logging.CRITICAL) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


class Here:
    """Stays in this process: DaskTaskRunner sends the flow's body, and what that uses, with each task."""

    def __reduce__(self) -> Any:
        return Here, ()


class Traffic:
    """Counts the bytes that this process sends and gets by Dask's TCP connections."""

    def __init__(self) -> None:
        from distributed.comm import tcp

        self.sent = self.got = 0
        write, read = tcp.TCP.write, tcp.from_frames

        async def counted_write(comm: Any, *args: Any, **more: Any) -> Any:
            size = await write(comm, *args, **more)
            self.sent += size
            return size

        async def counted_read(frames: Any, *args: Any, **more: Any) -> Any:
            self.got += sum(memoryview(frame).nbytes for frame in frames)
            return await read(frames, *args, **more)

        tcp.TCP.write, tcp.from_frames = counted_write, counted_read


class Memory:
    """The peak of this process's resident memory, in bytes above what it was."""

    def __init__(self) -> None:
        import psutil

        self._process, self._over = psutil.Process(), threading.Event()
        self._before = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def grown(self) -> int:
        self._over.set()
        self._thread.join()
        return max(self._peak, self._process.memory_info().rss) - self._before


class Told(Here, dict[str, Any]):
    """What a flow finds out."""


class Place(Here):
    """The server, the cluster and what they have used so far."""

    def __init__(self, server: subprocess.Popen[bytes], cluster: subprocess.Popen[str], address: str) -> None:
        import psutil

        self.address, self.traffic = address, Traffic()
        self._processes = {
            "client": [psutil.Process()],
            "workers": [p for p in psutil.Process(cluster.pid).children(recursive=True) if _is_worker(p)],
            "scheduler": [psutil.Process(cluster.pid)],
            "server": [psutil.Process(server.pid)],
        }

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU of each kind of process."""
        return {
            kind: sum(sum(p.cpu_times()[:2]) for p in processes)
            for kind, processes in self._processes.items()
        }


def _is_worker(process: Any) -> bool:
    return any("spawn_main" in part for part in process.cmdline())


def runner(way: str, address: str) -> Any:
    if way == "threads":
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=2)
    if way == "dask":
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(address=address)
    from prefect_coiled.task_runner import CoiledTaskRunner

    return CoiledTaskRunner(address=address, api_relay="always" if way == "relay" else "never")


def double(x: int) -> int:
    return 2 * x


def small_tasks(place: Place, way: str, how: str, n: int) -> dict[str, float]:
    """Run `n` tasks that do next to nothing."""
    if way == "plain":
        return _plain(place, how, n)
    from prefect import flow, task

    work = task(double)
    told = Told()

    @flow(task_runner=runner(way, place.address))
    def bench() -> None:
        from prefect.runtime import flow_run

        told["id"] = flow_run.id
        # So that each worker has imported and connected what it needs.
        assert [f.result() for f in work.map(range(_WARM))] == [2 * x for x in range(_WARM)]
        _recorded(told["id"], _WARM)
        told["memory"], told["cpu"] = Memory(), place.cpu()
        told["sent"], told["got"] = place.traffic.sent, place.traffic.got
        told["begun"] = time.perf_counter()
        futures = work.map(range(n)) if how == "map" else [work.submit(x) for x in range(n)]
        told["submitted"] = time.perf_counter()
        assert [f.result() for f in futures] == [2 * x for x in range(n)]
        told["ended"] = time.perf_counter()

    bench()
    finished = time.perf_counter()
    _recorded(told["id"], n + _WARM)
    recorded = time.perf_counter()
    if way in ("ours", "relay"):
        from prefect_coiled.task_runner.recording import wait_until_recorded

        wait_until_recorded()
    complete = time.perf_counter()
    return {
        "tasks/s": n / (told["ended"] - told["begun"]),
        "submit s": told["submitted"] - told["begun"],
        "flow s": finished - told["begun"],
        "recorded s": recorded - told["begun"],
        "recorded/s": n / (recorded - told["begun"]),
        "states s": complete - told["begun"],
        **_used(place, told, n),
    }


def _plain(place: Place, how: str, n: int) -> dict[str, float]:
    import distributed

    with distributed.Client(place.address, set_as_default=False) as client:
        client.gather(client.map(double, range(_WARM), pure=False))
        told = {"memory": Memory(), "cpu": place.cpu(), "sent": place.traffic.sent, "got": place.traffic.got}
        begun = time.perf_counter()
        if how == "map":
            futures = client.map(double, range(n), pure=False)
        else:
            futures = [client.submit(double, x, pure=False) for x in range(n)]
        assert client.gather(futures) == [2 * x for x in range(n)]
        seconds = time.perf_counter() - begun
        return {"tasks/s": n / seconds, **_used(place, told, n)}


def _used(place: Place, told: dict[str, Any], n: int) -> dict[str, float]:
    cpu = {f"{kind} ms": 1000 * (now - told["cpu"][kind]) / n for kind, now in place.cpu().items()}
    traffic = {
        "sent B": (place.traffic.sent - told["sent"]) / n,
        "got B": (place.traffic.got - told["got"]) / n,
    }
    return {**cpu, **traffic, "grown MB": told["memory"].grown() / MB}


def _recorded(flow_run_id: str, n: int, timeout: float = 900.0) -> None:
    """Wait until the server has so many task runs of a flow run as Completed."""
    import httpx

    wanted = {
        "flow_runs": {"id": {"any_": [flow_run_id]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    until = time.monotonic() + timeout
    with httpx.Client(base_url=os.environ["PREFECT_API_URL"], timeout=60) as api:
        while (found := api.post("/task_runs/count", json=wanted).json()) != n:
            if time.monotonic() > until:
                raise TimeoutError(f"the server has {found} of {n} task runs as Completed")
            time.sleep(0.05)


def large_data(place: Place, way: str) -> dict[str, float]:
    """20 tasks with one array of 40 MB; then 100 MB of results, of which one flow waits and one asks."""
    import numpy as np
    from prefect import flow, task, unmapped

    array = np.random.default_rng(0).random(40 * MB // 8)
    found = Told()

    @task
    def measure(i: int, values: Any) -> int:
        return int(values.nbytes)

    @task(persist_result=False)
    def make(i: int) -> Any:
        return np.random.default_rng(i).random(10 * MB // 8)

    @flow(task_runner=runner(way, place.address))
    def bench() -> None:
        make.submit(0).wait()
        memory, sent = Memory(), place.traffic.sent
        begun = time.perf_counter()
        assert set(measure.map(range(20), unmapped(array)).result()) == {40 * MB}
        found["unmapped s"] = time.perf_counter() - begun
        found["unmapped sent MB"] = (place.traffic.sent - sent) / MB
        found["unmapped grown MB"] = memory.grown() / MB
        got = place.traffic.got
        futures = [make.submit(i) for i in range(1, 11)]
        for future in futures:
            future.wait()
        assert all(future.state.is_completed() for future in futures)
        found["waited got MB"] = (place.traffic.got - got) / MB
        begun = time.perf_counter()
        assert sum(future.result().nbytes for future in futures) == 100 * MB
        found["100 MB of results s"] = time.perf_counter() - begun

    bench()
    return found


@contextmanager
def place(home: str) -> Iterator[Place]:
    """A server and a cluster, in processes of their own."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    script = Path(home) / "cluster.py"
    script.write_text(CLUSTER)
    cluster = subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        _until_there(f"{os.environ['PREFECT_API_URL']}/health", 120.0)
        yield Place(server, cluster, address)
    finally:
        cluster.communicate("", timeout=30)
        server.terminate()
        server.wait(30)


def _until_there(url: str, timeout: float) -> None:
    import httpx

    until = time.monotonic() + timeout
    while True:
        try:
            httpx.get(url, timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def rounds(
    number: int, ways: list[str], measure: Callable[[str], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """The medians of a measure, the ways taking turns."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(number):
        for way in ways:
            found[way].append(measure(way))
    return {
        way: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for way, rows in found.items()
    }


def tell(title: str, rows: dict[str, dict[str, float]]) -> None:
    columns = max(rows.values(), key=len)
    print(f"\n{title}\n{'':9}" + "".join(f"{name:>{len(name) + 3}}" for name in columns))
    for way, row in rows.items():
        cells = ("" if name not in row else f"{row[name]:.1f}" for name in columns)
        print(
            f"{way:9}" + "".join(f"{c:>{len(n) + 3}}" for c, n in zip(cells, columns, strict=True)),
            flush=True,
        )


def main() -> None:
    """Print a table for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--dask-tasks", type=int, default=200, help="how many DaskTaskRunner gets at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--how", nargs="*", choices=["map", "submit"], default=["map", "submit"])
    parser.add_argument("--no-data", action="store_true")
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    tables: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(
            PREFECT_HOME=home,
            PREFECT_LOGGING_LEVEL=os.environ.get("PREFECT_LOGGING_LEVEL", "WARNING"),
            PREFECT_SERVER_ANALYTICS_ENABLED="false",
        )
        with place(home) as there:
            for how in told.how:

                def small(way: str, how: str = how) -> dict[str, float]:
                    n = min(told.tasks, told.dask_tasks) if way == "dask" else told.tasks
                    return small_tasks(there, way, how, n)

                title = f"{told.tasks} tasks by {how} (dask: {min(told.tasks, told.dask_tasks)})"
                tables[title] = rounds(told.rounds, told.ways, small)
                tell(title, tables[title])
            if not told.no_data:
                ways = [way for way in told.ways if way != "plain"]
                title = "Large data"
                tables[title] = rounds(told.rounds, ways, lambda way: large_data(there, way))
                tell(title, tables[title])
    if told.json:
        told.json.write_text(json.dumps(tables, indent=1))


if __name__ == "__main__":
    main()
