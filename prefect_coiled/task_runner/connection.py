"""The connection of a task runner to its cluster: made once, in a thread, in the flow's context.

A thread, so that neither a signal nor a timeout cuts the making of a cluster in the middle: it is
asked to stop instead, and cleans up after itself. The flow's context is kept, so that what closes
the cluster is linked to the flow run as what made it was, although Prefect closes a task runner
when the context of the flow run is gone. This module knows nothing of tasks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import Context, copy_context
from typing import Any

from prefect.logging import get_logger
from prefect_dask.client import PrefectDaskClient

from prefect_coiled.errors import StoppedError

logger = get_logger("prefect_coiled.task_runner.connection")

# Prefect kills a cancelled flow run 30 s after the signal.
_STOP_SECONDS = 25.0


class OwnAddressClient(PrefectDaskClient):
    """A Dask client that names the scheduler as this machine reaches it.

    The scheduler itself knows its private address only; `get_dask_client` connects to what
    `scheduler_info` says.
    """

    def scheduler_info(self, *args: Any, **kwargs: Any) -> Any:
        """What the scheduler says of itself, with the address that this client uses."""
        info = super().scheduler_info(*args, **kwargs)
        if isinstance(info, dict) and info and self.scheduler is not None:
            info = type(info)(info)
            info["address"] = self.scheduler.address
        return info


class Connection:
    """A cluster and a client, made at first use and closed once.

    Args:
        open_: Makes both. It puts what must be closed onto the stack it is given, and gives up soon
            after the event is set.
        opened: Called in the same thread afterwards, whether that went well or not.
    """

    def __init__(
        self, open_: Callable[[ExitStack, threading.Event], OwnAddressClient], opened: Callable[[], None]
    ) -> None:
        self.stop = threading.Event()
        self.ready: OwnAddressClient | None = None
        self.failure: BaseException | None = None
        self._open, self._after = open_, opened
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._context: Context | None = None

    def start(self) -> bool:
        """Begin to make the cluster, in a copy of the present context; False if begun before."""
        with self._lock:
            if self._thread is not None:
                return False
            self._context = copy_context()
            self._thread = threading.Thread(
                target=self._context.run, args=(self._run,), name="prefect-coiled-open", daemon=True
            )
            self._thread.start()
            return True

    @property
    def is_opening_here(self) -> bool:
        """Whether this thread is the one that makes the cluster."""
        return threading.current_thread() is self._thread

    def client(self) -> OwnAddressClient:
        """The client; waits until there is one.

        Raises:
            Exception: The first cause of there being none.
        """
        if self.is_opening_here and not self._over.is_set():
            raise RuntimeError("The cluster is still being made.")
        while not self._over.wait(1.0):
            # In slices, so that a timeout or a signal can break in on every platform.
            continue
        if self.failure is not None:
            raise self.failure
        assert self.ready is not None
        return self.ready

    def _run(self) -> None:
        try:
            client = self._open(self._stack, self.stop)
            if self.stop.is_set():
                raise StoppedError("making the cluster", "the flow run is being stopped")
            self.ready = client
        except BaseException as error:  # whatever it is, those who wait for the client get it
            self.failure = error
            # One that was stopped, as by Ctrl-C, is no error.
            level = logging.INFO if self.stop.is_set() else logging.ERROR
            logger.log(level, "There is no cluster to run tasks on: %s", error)
            try:
                self._stack.close()
            except Exception:  # the first cause is the one to report
                logger.exception("The cluster could not be closed.")
        finally:
            try:
                self._after()
            finally:
                self._over.set()

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a copy of the kept context, or in the present one where nothing was begun.

        Two threads may do so at a time, which one context does not bear: where a flow is stopped as its end
        waits in a thread of its own, say.
        """
        return function(*args) if self._context is None else self._context.copy().run(function, *args)

    def close(self) -> None:
        """Close the client and the cluster, in the kept context. Does nothing if there is none."""
        if self._thread is None:
            return
        if not self._over.wait(_STOP_SECONDS):
            logger.error("The making of the cluster did not stop; parts of it may be left running.")
        elif self.failure is None:
            # What was entered in this context is left in it.
            assert self._context is not None
            self._context.run(self._stack.close)
