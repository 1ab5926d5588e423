"""What a request of a task's is about, and why one does not go through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

#: Bytes of a request's body, and of an answer's.
LARGEST = 10_000_000

INSTEAD = (
    "Do it in the flow, outside of its tasks; or let machines talk to the API themselves, by"
    ' CoiledTaskRunner(api_relay="never").'
)


class RefusedError(Exception):
    """A request that does not go to the API.

    Attributes:
        status: The HTTP status that who asked gets.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass
class Needs:
    """Whose a request is: each of these has to be the flow run's own.

    Attributes:
        flow_runs: Flow runs: this one, or one that was made through this relay.
        task_runs: Task runs of those flow runs. One that the API has not seen yet becomes theirs.
        artifacts: Artifacts of those flow runs.
        flows: Flows of those flow runs; likewise the others.
        without_flow_run: Whether it is about a task run outside of a flow.
    """

    flow_runs: set[UUID] = field(default_factory=set)
    task_runs: set[UUID] = field(default_factory=set)
    artifacts: set[UUID] = field(default_factory=set)
    flows: set[UUID] = field(default_factory=set)
    deployments: set[UUID] = field(default_factory=set)
    work_queues: set[UUID] = field(default_factory=set)
    work_pools: set[str] = field(default_factory=set)
    without_flow_run: bool = False

    def flow_run(self, value: Any, required: bool = False) -> None:
        """Take note of a flow run that is named, if one is."""
        if value is not None:
            self.flow_runs.add(as_uuid(value))
        elif required:
            self.without_flow_run = True

    def note(self, kind: str, value: str) -> None:
        """Take note of what a path or a query names; not of names that anybody may know."""
        if kind == "work_pool":
            self.work_pools.add(value)
        elif kind in ("flow_run", "task_run", "artifact", "flow", "deployment", "work_queue"):
            getattr(self, f"{kind}s").add(as_uuid(value))

    def task_run(self, value: Any) -> None:
        """Take note of a task run that is named, if one is."""
        if value is not None:
            self.task_runs.add(as_uuid(value))


def too_large(size: int) -> str:
    """Why a body does not go through.

    Args:
        size: Bytes.
    """
    return (
        f"The relay takes {LARGEST:,} bytes at a time, and this has {size:,}. Keep large things in a result"
        " store or a bucket; or let machines talk to the API themselves, by"
        ' CoiledTaskRunner(api_relay="never").'
    )


def as_uuid(value: Any) -> UUID:
    """An id, as JSON has it.

    Raises:
        ValueError: It is none.
    """
    return value if isinstance(value, UUID) else UUID(str(value))
