"""A plugin of Dask's scheduler and workers that makes modules of the client importable, and replaces them.

It is made on the client and carries the modules' content; it comes to each machine by Dask's own TLS.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

__all__ = ["SchedulerModules", "WorkerModules"]

# By process: what is on the path now, and which modules came from there.
_state: dict[str, Any] = {"folder": None, "names": frozenset(), "fingerprint": ""}


class WorkerModules(WorkerPlugin):  # type: ignore[misc]
    """Puts modules into a folder of a worker, and that folder first on the path.

    Args:
        files: The content by path, such as {"my_helpers.py": b"..."}.
        fingerprint: Changes with the content.
    """

    name = "prefect-coiled-modules"
    idempotent = False

    def __init__(self, files: Mapping[str, bytes], fingerprint: str) -> None:
        self.files = dict(files)
        self.fingerprint = fingerprint

    def setup(self, worker: Any) -> None:
        """Called by Dask when the plugin comes to a worker."""
        install(self.files, self.fingerprint)


class SchedulerModules(SchedulerPlugin):  # type: ignore[misc]
    """The same on the scheduler."""

    name = "prefect-coiled-modules"
    idempotent = False

    def __init__(self, files: Mapping[str, bytes], fingerprint: str) -> None:
        self.files = dict(files)
        self.fingerprint = fingerprint

    async def start(self, scheduler: Any) -> None:
        """Called by Dask when the plugin comes to the scheduler."""
        install(self.files, self.fingerprint)


def install(files: Mapping[str, bytes], fingerprint: str) -> None:
    """Make the modules importable in this process; modules of an earlier version are imported again."""
    if _state["fingerprint"] == fingerprint:
        return
    old, names = _state["folder"], _state["names"]
    folder = tempfile.mkdtemp(prefix="prefect-coiled-modules-")
    for name, content in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tops = frozenset(name.partition("/")[0].removesuffix(".py") for name in files)
    sys.path.insert(0, folder)
    if old is not None:
        sys.path[:] = [entry for entry in sys.path if entry != old]
        shutil.rmtree(old, ignore_errors=True)
    for module in [m for m in sys.modules if m.partition(".")[0] in tops | names]:
        if _is_foreign(module, old):
            continue
        del sys.modules[module]
    importlib.invalidate_caches()
    _state.update(folder=folder, names=tops, fingerprint=fingerprint)


def _is_foreign(module: str, old: str | None) -> bool:
    """Whether a loaded module is another one of that name: built in, or of the machine's own Python."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return getattr(sys.modules[module], "__path__", None) is None
    if old is not None and file.startswith(old + os.sep):
        return False
    return "site-packages" not in file
