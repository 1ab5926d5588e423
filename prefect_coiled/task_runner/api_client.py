"""A worker thread's client of the Prefect API, kept from task to task.

Prefect makes two clients for each task, each with an SSL context of its own, which takes most of the time of
a small task. Both are found in the context where one is there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prefect.context import SettingsContext, SyncClientContext

from prefect_coiled.internals.prefect import client_in_context

__all__ = ["made", "thread_client"]

_kept = threading.local()
_count = {"made": 0}


def made() -> int:
    """How many clients this process has made."""
    return _count["made"]


@contextmanager
def thread_client(flow_run: bytes, settings: Mapping[str, Any] | None) -> Iterator[None]:
    """Have what runs in this thread find the client that the thread keeps.

    A client belongs to the settings that it was made with, so each flow run has another one.

    Args:
        flow_run: What all tasks of a flow run share, serialised, which tells one flow run from the other.
        settings: The parts of its settings context; with none, nothing is kept.
    """
    if not settings:
        yield
        return
    if getattr(_kept, "flow_run", None) != flow_run:
        close_thread_client()
        with SettingsContext(**settings):
            client = SyncClientContext()
            client.client.__enter__()
        _count["made"] += 1
        _kept.flow_run, _kept.client = flow_run, client
    with client_in_context(_kept.client):
        yield


def close_thread_client() -> None:
    """Close the client of this thread, if it has one."""
    client = getattr(_kept, "client", None)
    _kept.flow_run = _kept.client = None
    if client is not None:
        client.client.__exit__(None, None, None)
