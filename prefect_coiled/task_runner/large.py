"""Large values: each goes to the cluster once, under a hash of its content, and from worker to worker.

    a value of 100 KB or more ─▶ pickled, its buffers apart ─▶ hashed ─▶ a Dask task that gives it

A task of Dask's rather than scattered data, because that is lost with the worker that holds it. The buffers
of arrays are not copied into the pickle (PEP 574).
"""

from __future__ import annotations

import hashlib
import io
import mmap
import pickle
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import dask
import distributed
from dask.sizeof import sizeof

from prefect_coiled.task_runner.by_name import Pickler
from prefect_coiled.task_runner.shipping import LARGE

# Whose values are asked for their size: to ask all is dear, and objects of users' may take it amiss.
_SIZED = frozenset({"numpy", "pandas", "pyarrow", "polars", "torch", "scipy", "xarray", "array"})
_BYTES = (bytes, bytearray, memoryview)
# Values that are kept on the cluster though no task waits for them now, and their bytes together.
_KEPT, _KEPT_BYTES = 8, 1_000_000_000
# From so many bytes on a copy is made in huge pages.
_HUGE = 4_000_000


class Large:
    """A value as bytes and buffers, which Dask moves without copying them."""

    def __init__(self, pickled: bytes, buffers: list[Any]) -> None:
        self.pickled, self.buffers = pickled, buffers

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.pickled) + sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def __reduce__(self) -> Any:
        return Large, (self.pickled, [pickle.PickleBuffer(buffer) for buffer in self.buffers])

    def __sizeof__(self) -> int:
        return self.size

    def hash(self) -> str:
        """Of its content."""
        found = hashlib.blake2b(self.pickled, digest_size=16)
        for buffer in self.buffers:
            found.update(memoryview(buffer))
        return found.hexdigest()

    def value(self) -> Any:
        """The value anew: what one task does to it, no other sees."""
        # Writable, as the task would have it in a thread.
        return pickle.loads(self.pickled, buffers=[_copied(memoryview(buffer)) for buffer in self.buffers])


class LargeValues:
    """The large values that a client has sent."""

    def __init__(self) -> None:
        self._futures: OrderedDict[str, tuple[distributed.Future, int]] = OrderedDict()
        self._seen: dict[int, tuple[Any, distributed.Future]] = {}
        #: How many went to the cluster, for tests.
        self.sent = 0

    def place(self, client: Any, value: Any) -> distributed.Future | None:
        """The future of a value that is large; None for others."""
        if not _is_large(value):
            return None
        if (known := self._seen.get(id(value))) is not None and known[0] is value:
            return known[1]
        buffers: list[pickle.PickleBuffer] = []
        file = io.BytesIO()
        Pickler(file, protocol=5, buffer_callback=buffers.append).dump(value)
        return self._send(client, Large(file.getvalue(), [buffer.raw() for buffer in buffers]), value)

    def bytes(self, client: Any, data: bytes) -> distributed.Future:
        """The future of bytes that are large."""
        return self._send(client, Large(pickle.dumps(data), []), None)

    def _send(self, client: Any, large: Large, value: Any) -> distributed.Future:
        key = f"prefect-coiled-data-{large.hash()}"
        known = self._futures.get(key)
        if known is None or known[0].status in ("cancelled", "lost", "error"):
            # Dask would warn the user of a large graph; that it is large is why it goes by itself, once.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
                future = distributed.Client.submit(client, _give, large, key=key, pure=False)
            self._futures[key] = future, large.size
            self.sent += 1
            self._drop()
        self._futures.move_to_end(key)
        future = self._futures[key][0]
        if value is not None:
            self._seen[id(value)] = value, future
        return future

    def _drop(self) -> None:
        while len(self._futures) > 1 and (
            len(self._futures) > _KEPT or sum(size for _, size in self._futures.values()) > _KEPT_BYTES
        ):
            self._futures.popitem(last=False)

    def forget_objects(self) -> None:
        """Look at the content of objects again: they may have changed."""
        self._seen.clear()


def _copied(buffer: memoryview) -> Any:
    """A copy that may be written to.

    In pages of 2 MB where Linux has them (madvise(2)): 40 MB in pages of 4 KB take 20 ms, in these 6.
    """
    if buffer.nbytes < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(buffer)
    copy = mmap.mmap(-1, buffer.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel that was made without them
        copy.madvise(mmap.MADV_HUGEPAGE)
    copy[:] = buffer.cast("B")
    return copy


def _give(value: Large) -> Large:
    return value


def _is_large(value: Any) -> bool:
    kind = type(value)
    if kind in _BYTES:
        return memoryview(value).nbytes >= LARGE
    if kind.__module__.partition(".")[0] not in _SIZED or isinstance(value, type):
        return False
    try:
        return int(sizeof(value)) >= LARGE
    except Exception:  # a size that cannot be told is none to act on
        return False
