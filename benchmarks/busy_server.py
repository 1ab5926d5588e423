"""What a Prefect server takes when many flow runs start together, without anything of this library.

    python benchmarks/busy_server.py [--runs 60] [--at-once 8] [--tasks 40]

Each flow run has two subflows with tasks that do nothing, as many as a cluster's way up and down has steps.
It asks the server that PREFECT_API_URL names, or a temporary one with SQLite. It prints how many flow runs
ended well, what the others met, and the seconds.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import Context, copy_context
from typing import Any

from prefect import flow, task
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness


@task
def nothing() -> None:
    """A step that waits a little for AWS."""
    time.sleep(0.05)


@flow
def half(tasks: int) -> None:
    """A cluster's way up, or down."""
    for _ in range(tasks // 2):
        nothing()


@flow
def whole(tasks: int) -> None:
    """Both."""
    half(tasks)
    half(tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=40)
    given = parser.parse_args()

    def one(context: Context) -> str:
        try:
            context.run(whole, given.tasks)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:100]
        return "ended well"

    own: Any = nullcontext() if PREFECT_API_URL.value() else prefect_test_harness(server_startup_timeout=120)
    with own, ThreadPoolExecutor(given.at_once) as users:
        begun = time.monotonic()
        ends = Counter(users.map(one, [copy_context() for _ in range(given.runs)]))
    print(dict(ends), f"{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
