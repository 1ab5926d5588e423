"""A task that a process of its own serves; run as a program, this is that process."""

from __future__ import annotations

import os

from prefect import task
from prefect.task_worker import serve


@task(persist_result=True)
def later(number: int) -> tuple[int, int]:
    """Twice the number, and the process that did it."""
    return 2 * number, os.getpid()


if __name__ == "__main__":
    # By its name in the module: who delays it knows it by that.
    from tests.runner.served import later as served

    serve(served)
