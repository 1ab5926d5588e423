"""The first and the second start of machines that install this environment, over a slow line of the client's.

    python benchmarks/slow_line.py [--mbit 10] [--ignore NAME ...]

Two ways, each with a sandbox and a bucket of its own: everything through the client's line into the bucket;
and what anybody can fetch fetched by the machines. The line is made slow in this process: each byte of a
wheel that the client downloads or uploads takes its time, in both directions at once. The machines' own line
is that of this machine.
It measures; it judges nothing. The machine under it should be idle.
"""

from __future__ import annotations

import argparse
import importlib
import math
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

from prefect_coiled import Cluster
from prefect_coiled.aws import bucket
from prefect_coiled.sandbox import Sandbox, control
from prefect_coiled.tasks import environment as delivering

# Its name is that of a function in the package.
locking: Any = importlib.import_module("prefect_coiled.environment.lock")
WAYS = {"all through the client": math.inf, "machines fetch what anybody can": delivering.PATIENCE}


class Direction:
    """One direction of a line: who sends waits until what was sent before is through."""

    def __init__(self, bytes_per_second: float) -> None:
        self._speed, self._free, self._lock = bytes_per_second, 0.0, threading.Lock()
        self.bytes = 0

    def take(self, size: int) -> None:
        """Wait for as long as so many bytes take."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._speed
            self.bytes += size
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


def one_start(patience: float, mbit: float, ignore: list[str]) -> tuple[float, int, int]:
    """Seconds until a worker is registered, and bytes down and up the client's line."""
    down, up = Direction(mbit * 125_000), Direction(mbit * 125_000)
    download, put_file, send = locking.download, bucket.put_file, delivering.send

    def slow_download(wheel: Any, folder: Path, indexes: Any) -> Path:
        path = download(wheel, folder, indexes)
        down.take(path.stat().st_size)
        return path

    def slow_put(aws: Any, name: str, key: str, content: Any, *more: Any) -> None:
        put_file(aws, name, key, content, *more)
        up.take(len(content) if isinstance(content, bytes) else content.stat().st_size)

    def patient(*args: Any, **more: Any) -> Any:
        return send(*args, **{**more, "patience": patience})

    begun = time.perf_counter()
    with (
        mock.patch.object(locking, "download", slow_download),
        mock.patch.object(bucket, "put_file", slow_put),
        mock.patch.object(delivering, "send", patient),
        Cluster(
            n_workers=1, wait_for_workers=True, package_sync_ignore=ignore, report=lambda step, state: None
        ),
    ):
        seconds = time.perf_counter() - begun
    return seconds, down.bytes, up.bytes


def _silent(step: str, state: str) -> None:
    """Where nobody looks at the steps."""


def main() -> None:
    """Print a line for each start."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbit", type=float, default=10.0)
    parser.add_argument("--ignore", nargs="*", default=[])
    told = parser.parse_args()
    print(f"{'':42}{'seconds':>9}{'MB down':>9}{'MB up':>9}")
    for way, patience in WAYS.items():
        with (
            tempfile.TemporaryDirectory() as cache,
            mock.patch.dict("os.environ", XDG_CACHE_HOME=cache),
            Sandbox({"image": "bare"}) as sandbox,
            mock.patch.object(control, "ensure_started", lambda running=sandbox: running.info),
        ):
            for start in ("first", "second"):
                seconds, down, up = one_start(patience, told.mbit, told.ignore)
                row = f"{seconds:9.1f}{down / 1e6:9.1f}{up / 1e6:9.1f}"
                print(f"{way + ', ' + start:<42}{row}", flush=True)


if __name__ == "__main__":
    main()
