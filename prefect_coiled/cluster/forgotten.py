"""The clusters of this process that are open: what a script did not close ends with it, as Dask's own do."""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from typing import Protocol

from prefect_coiled.errors import PrefectCoiledError
from prefect_coiled.internals.python import before_threads_end


class Open(Protocol):
    """A cluster that is open."""

    def remove_at_exit(self) -> None:
        """Remove it, without a thread or a flow."""


open_clusters: weakref.WeakSet[Open] = weakref.WeakSet()


def remove_forgotten() -> None:
    """Remove every open cluster; called when the interpreter ends."""
    for cluster in list(open_clusters):
        with contextlib.suppress(PrefectCoiledError):  # its own timers end it then
            cluster.remove_at_exit()


def remove_before_prefect_ends() -> None:
    """See that this happens before what Prefect has at work; its temporary server ends after that.

    Asked for again with each cluster: what was asked for last goes first.
    """
    before_threads_end(remove_forgotten)


if hasattr(os, "register_at_fork"):
    # Only the process that made a cluster closes it.
    os.register_at_fork(after_in_child=open_clusters.clear)
# Where clusters were made while the interpreter was ending already.
atexit.register(remove_forgotten)
