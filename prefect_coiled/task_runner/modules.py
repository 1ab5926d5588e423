"""Supplies a cluster with the modules of the flow run's program: at its connection, and when it imports more.

The same for clusters that the runner makes, for one that it was given, and for an address.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any

from prefect.context import FlowRunContext

from prefect_coiled.environment.module_places import has_own
from prefect_coiled.environment.modules import Modules
from prefect_coiled.errors import PrefectCoiledError


class Supply:
    """The modules that a cluster has of this program.

    Args:
        ignore: Names of packages that the machines shall not get; the modules have one too.
    """

    def __init__(self, client: Any, ignore: Sequence[str] = ()) -> None:
        self._client, self._ignore = client, tuple(ignore)
        self._seen: set[str] = set()
        self._sent: Modules | None = None
        self._lock = threading.Lock()

    def send(self) -> None:
        """Send what the cluster does not have, or has otherwise; later, what has come in addition.

        Raises:
            OptionsError: The modules cannot go there; the text says why.
            PrefectCoiledError: The cluster has not got this library.
        """
        from prefect_coiled.cluster.modules import gather_modules, send_modules

        seen = set(sys.modules)
        modules = gather_modules(self._ignore)
        # What was sent is what this program runs, whatever is edited meanwhile.
        modules = self._sent.with_more(modules) if self._sent else modules
        try:
            self._client.sync(
                send_modules, self._client.scheduler, modules, client=self._client.id, title=_title()
            )
        except ModuleNotFoundError as error:
            raise PrefectCoiledError(
                f"the cluster at {self._client.scheduler.address}",
                f"its scheduler has no module {error.name!r}",
                "Install prefect-dask-ec2 in the scheduler's and the workers' environment, as here.",
            ) from error
        self._sent, self._seen = modules, seen

    def refresh(self) -> None:
        """Send again if the program has imported modules of its own since; costs nothing if not."""
        if len(sys.modules) == len(self._seen):
            return
        with self._lock:
            new = set(sys.modules) - self._seen
            if has_own(new):
                self.send()
            else:
                self._seen = set(sys.modules)


def _title() -> str:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return f"flow run {run.name!r}" if run is not None else ""
