"""What is a flow run's own: its task runs, its subflows, and what those have."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar
from uuid import UUID

K = TypeVar("K", bound=Hashable)

# Ids of each kind that are kept; what is older is asked of the API again.
_MOST = 100_000


class Known(Generic[K]):
    """Ids that are known to be the flow run's own, the last of them. For several threads."""

    def __init__(self, ids: Iterable[K | None] = ()) -> None:
        self._ids: OrderedDict[K, None] = OrderedDict()
        self._lock = threading.Lock()
        self.update(id_ for id_ in ids if id_ is not None)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def all(self) -> list[K]:
        """All of them, the oldest first."""
        with self._lock:
            return list(self._ids)

    def update(self, ids: Iterable[K]) -> None:
        """These are too."""
        with self._lock:
            self._ids.update(dict.fromkeys(ids))
            while len(self._ids) > _MOST:
                self._ids.popitem(last=False)


class Own:
    """What a relay lets its tasks name.

    Args:
        flow_run: The flow run; None for tasks outside of a flow.
        flow: Its flow; likewise the others.
    """

    def __init__(
        self,
        flow_run: UUID | None = None,
        flow: UUID | None = None,
        deployment: UUID | None = None,
        work_queue: UUID | None = None,
        work_pool: str | None = None,
    ) -> None:
        self.flow_run = flow_run
        self.flow_runs: Known[UUID] = Known([flow_run])
        self.task_runs: Known[UUID] = Known()
        self.artifacts: Known[UUID] = Known()
        self.flows: Known[UUID] = Known([flow])
        self.deployments: Known[UUID] = Known([deployment])
        self.work_queues: Known[UUID] = Known([work_queue])
        self.work_pools: Known[str] = Known([work_pool])
