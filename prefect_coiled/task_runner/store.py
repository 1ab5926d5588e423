"""What many tasks have in common, kept by the scheduler under a hash of its content: a task carries the hash.

For the context of a flow run and for the code of tasks, some kilobytes each; a worker asks for each of them
once. Large data goes another way, from worker to worker (see `shipping`).
"""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import distributed
from distributed.utils import sync

from prefect_coiled.errors import PrefectCoiledError

PREFIX = "prefect-coiled"
_cache: dict[tuple[str, str], Any] = {}
_CACHED = 256
_lock = threading.Lock()


class Store:
    """The client's side.

    Args:
        space: Tells what belongs to this flow run from what belongs to others.
    """

    def __init__(self, client: Any, space: str) -> None:
        self._client, self.space = client, space
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, data: bytes) -> str:
        """Keep something that is serialised; the name to `load` it by on a worker.

        Raises:
            RuntimeError: The flow run is over; nothing would clear it any more.
        """
        name = hashlib.blake2b(data, digest_size=12).hexdigest()
        with self._lock:
            if self._closed:
                raise RuntimeError("The flow run is over: no task can be submitted to it any more.")
            if name not in self._known:
                self._client.set_metadata([PREFIX, self.space, name], data)
                self._known.add(name)
        return name

    def clear(self) -> None:
        """Have the scheduler forget all of it, for good: the context of a flow run holds its API key."""
        with self._lock:
            self._closed = True
            self._known.clear()
            self._client.set_metadata([PREFIX, self.space], {})


def load(space: str, name: str) -> Any:
    """On a worker, in a task's thread: what was put under a name, deserialised; asked for once.

    Raises:
        PrefectCoiledError: The scheduler does not have it.
    """
    with _lock:
        if (space, name) in _cache:
            return _cache[space, name]
    worker = distributed.get_worker()
    keys = [PREFIX, space, name]
    data = sync(worker.loop, worker.scheduler.get_metadata, keys=keys, default=None)
    if data is None:
        raise PrefectCoiledError(
            "running a task",
            "its flow run has ended, so that its code is gone",
            "Wait for tasks in the flow.",
        )
    value = cloudpickle.loads(data)
    with _lock:
        while len(_cache) >= _CACHED:
            del _cache[next(iter(_cache))]
        _cache[space, name] = value
    return value
