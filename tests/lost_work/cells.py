"""The table: what is killed, when, what the flow does with its futures, and what of its tasks is kept."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

KILLED = ("worker", "machine", "scheduler", "client", "server")
AT = ("queued", "running", "returning", "done")
# What the flow does with its futures: asks for the results, waits, returns them, or forgets them.
FLOW = ("result", "wait", "return", "nothing")

# Threads of the cluster: two machines with two each.
MACHINES, EACH = 2, 2
THREADS = MACHINES * EACH


class Cell(NamedTuple):
    """One case.

    Attributes:
        killed: A worker's process, its machine with the nanny, the scheduler's machine, the process that runs
            the flow, or the Prefect server (which is started again).
        at: While tasks wait for a thread, while they run, while results are on their way, or when all tasks
            have ended and no result was fetched.
        flow: What the flow does with its futures.
        is_async: Whether the flow and its tasks are async.
        retries: Whether each task fails at first, and is retried.
        persisted: Whether results are kept.
    """

    killed: str
    at: str
    flow: str
    is_async: bool
    retries: bool
    persisted: bool

    @property
    def tasks(self) -> int:
        """How many tasks the flow has."""
        return THREADS + 2 if self.at == "queued" else THREADS

    def __str__(self) -> str:
        words = [self.killed, self.at, self.flow, "async" if self.is_async else "sync"]
        words += ["retried"] * self.retries + ["persisted"] * self.persisted
        return "-".join(words)


TABLE = tuple(
    Cell(*parts) for parts in product(KILLED, AT, FLOW, (False, True), (False, True), (False, True))
)

# One of eight: each moment of each that is killed, with each way to go on.
SPREAD = tuple(
    Cell(k, a, f, bool((i + j + n) % 2), bool((i + j // 2 + n // 2) % 2), bool((i // 2 + j + n // 2) % 2))
    for (i, k), (j, a), (n, f) in product(enumerate(KILLED), enumerate(AT), enumerate(FLOW))
)

# One for each of what is killed but the server, and each moment; seconds each.
SAMPLE = (
    Cell("worker", "queued", "nothing", False, True, False),
    Cell("machine", "done", "result", True, False, True),
    Cell("scheduler", "running", "wait", False, False, False),
    Cell("client", "returning", "return", False, False, False),
)
