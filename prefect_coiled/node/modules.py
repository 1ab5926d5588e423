"""A user's modules on a cluster: the scheduler keeps them, and every worker process can import them.

    client ──offer──▶ scheduler: whose are they, do they fit beside others' ──plugin──▶ workers, old and new

A client tells what it has by hash and sends what is missing; unchanged modules move nothing. A worker that
has the very same files on its path already (its machine was installed with them, or it shares a disk with the
client) uses those. Otherwise they are written into a folder of the worker, first on its path. Modules whose
files have changed are imported anew; all others keep their state.

It comes to each machine by Dask's own connection, TLS on the clusters of this library.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import dask
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps

from prefect_coiled.node.module_files import (
    is_here,
    is_loaded_otherwise,
    look_first_in,
    put,
    top_of,
    write,
)

PLUGIN = "prefect-coiled-modules"
_unique = uuid4().hex


def process_id() -> str:
    """Names this process, among all that may come to a cluster."""
    return f"{_unique}-{os.getpid()}"  # a fork is another one


@dataclass(frozen=True)
class Claim:
    """The modules of one program that uses a cluster.

    Attributes:
        digests: The hash of each file, by its path.
        client: The Dask client by which it uses the cluster; while that is connected, nobody may replace
            the modules. Without one they are there until somebody else has others of the name.
        left_out: Why names are not among them.
    """

    process: str
    digests: Mapping[str, str]
    client: str | None = None
    title: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """The names that it claims."""
        return frozenset(map(top_of, self.digests))

    def files_of(self, name: str) -> dict[str, str]:
        """The hashes of the files of one name."""
        return {path: hash_ for path, hash_ in self.digests.items() if top_of(path) == name}


@dataclass(frozen=True)
class Answer:
    """What a scheduler says to an offer.

    Attributes:
        missing: Hashes of files that it has to be sent first.
        taken: Names of which another program, which is at work, has other modules.
        failed: Why workers could not take them, by address.
    """

    missing: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    holder: str = ""
    failed: Mapping[str, str] = field(default_factory=dict)


class _Keeper:
    """What the scheduler of one cluster knows of modules."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.contents: dict[str, bytes] = {}
        self.had: set[str] = set()  # the path of each file that a program ever had
        self.sent: tuple[Any, ...] | None = None
        self.lock = asyncio.Lock()

    def conflict(self, claim: Claim, clients: Container[Any]) -> tuple[tuple[str, ...], str]:
        """The names that another program at work has otherwise, and that program."""
        for other in self.claims:
            if other.process == claim.process or other.client not in clients:
                continue
            common = other.names & claim.names
            if taken := sorted(n for n in common if _differ(other.files_of(n), claim.files_of(n))):
                return tuple(taken), other.title
        return (), ""

    def accept(self, claim: Claim, clients: Container[Any]) -> None:
        """Put a claim beside those that still count."""
        kept: list[Claim] = []
        for other in self.claims:
            if (other.process, other.client) == (claim.process, claim.client):
                continue
            if other.client is not None and other.client not in clients:
                continue  # its flow is over
            replaced = set(other.names & claim.names)
            if claim.client is not None or other.client is not None:
                replaced = {n for n in replaced if _differ(other.files_of(n), claim.files_of(n))}
            left = {p: h for p, h in other.digests.items() if top_of(p) not in replaced}
            if left:
                kept.append(Claim(other.process, left, other.client, other.title, other.left_out))
        self.claims = [*kept, claim]
        self.had.update(claim.digests)
        needed = {h for one in self.claims for h in one.digests.values()}
        self.contents = {h: c for h, c in self.contents.items() if h in needed}


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a module that both have is another one; one may have more of a package by now."""
    first = {_module_of(path): (path, hash_) for path, hash_ in one.items()}
    second = {_module_of(path): (path, hash_) for path, hash_ in other.items()}
    return any(first[module] != second[module] for module in first.keys() & second.keys())


def _module_of(path: str) -> str:
    """What a file is imported as, "pkg/conf" of "pkg/conf.py" and "pkg/conf/__init__.py"; data: its path."""
    return path.removesuffix(".py").removesuffix("/__init__")


_keepers: WeakKeyDictionary[Any, _Keeper] = WeakKeyDictionary()


async def offer(claim: Claim, contents: Mapping[str, bytes], dask_scheduler: Any = None) -> Answer:
    """Give modules to a scheduler; runs there.

    Args:
        contents: Files that the scheduler does not have yet, by hash.
    """
    keeper = _keepers.setdefault(dask_scheduler, _Keeper())
    async with keeper.lock:
        taken, holder = keeper.conflict(claim, dask_scheduler.clients)
        if taken:
            return Answer(taken=taken, holder=holder)
        missing = {h for h in claim.digests.values() if h not in keeper.contents and h not in contents}
        if missing:
            return Answer(missing=tuple(sorted(missing)))
        keeper.contents.update(contents)
        keeper.accept(claim, dask_scheduler.clients)
        claims = tuple(keeper.claims)
        if _effect(claims) == keeper.sent:
            return Answer()
        plugin = WorkerModules(claims, keeper.contents, keeper.had)
        # The scheduler reads what users submit too, such as the graph of a collection.
        if not _is_a_program():
            plugin.install(replace=False)
        keeper.sent = None  # some have it, others not yet
        told = await dask_scheduler.register_worker_plugin(None, dumps(plugin), name=PLUGIN, idempotent=False)
        failed = {a: _reason(r) for a, r in (told or {}).items() if r.get("status") != "OK"}
        # Whom it failed at gets it with the next offer.
        keeper.sent = None if failed else _effect(claims)
        return Answer(failed=failed)


def _is_a_program() -> bool:
    """Whether this scheduler lives in a program that made the cluster, and has modules of its own."""
    from prefect_coiled.internals.distributed import has_clusters

    return has_clusters()


def _effect(claims: Iterable[Claim]) -> tuple[Any, ...]:
    """What workers would have by some claims; by others of the same effect nothing need be sent."""
    claims = list(claims)
    digests: dict[str, str] = {}
    left: dict[str, str] = {}
    for claim in claims:
        digests.update(claim.digests)
        left.update(claim.left_out)
    # Only in a cluster inside of a program it counts whose they are.
    whose = {claim.process for claim in claims} if _is_a_program() else set()
    return digests, left, {claim.names for claim in claims}, whose


def _reason(response: Any) -> str:
    return str(response.get("exception_text") or response.get("exception") or response)


class WorkerModules(WorkerPlugin):  # type: ignore[misc]
    """Makes modules importable in a worker's process.

    Args:
        had: The paths of files that programs had, now or before.
    """

    name = PLUGIN
    idempotent = False

    def __init__(
        self, claims: Iterable[Claim], contents: Mapping[str, bytes], had: Iterable[str] = ()
    ) -> None:
        self.claims, self.contents, self.had = tuple(claims), dict(contents), frozenset(had)

    def setup(self, worker: Any) -> None:
        """Called by Dask when the plugin comes to a worker."""
        self.install(getattr(worker, "local_directory", None))

    def install(self, place: str | None = None, replace: bool = True) -> None:
        """Make them importable here.

        Args:
            place: An existing folder for the files, which goes with the worker.
            replace: Whether modules of these names that this process has from elsewhere are replaced.
        """
        # In a cluster inside the program's own process the modules are there.
        foreign = [claim for claim in self.claims if claim.process != process_id()]
        own = {name for claim in self.claims if claim.process == process_id() for name in claim.names}
        wanted: dict[str, str] = {}
        for claim in foreign:
            wanted.update({p: h for p, h in claim.digests.items() if top_of(p) not in own})
        groups = [claim.names for claim in foreign]
        owners: dict[str, set[str]] = {}
        for claim in foreign:
            for name in claim.names:
                owners.setdefault(name, set()).add(f"{claim.process} {claim.client}")
        _process.install(wanted, self.contents, groups, place, replace, self.had, owners)
        for claim in foreign:
            _process.left_out.update(claim.left_out)


class _Process:
    """The modules that this process has from others."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.homes: dict[str, Path] = {}  # by name: where it was written; none if it was here
        self.owners: dict[str, set[str]] = {}  # by name: the programs that have it
        self.left_out: dict[str, str] = {}
        self._own_folder: str | None = None

    def install(
        self,
        wanted: Mapping[str, str],
        contents: Mapping[str, bytes],
        groups: Iterable[frozenset[str]],
        place: str | None,
        replace: bool,
        had: frozenset[str] = frozenset(),
        owners: Mapping[str, set[str]] = MappingProxyType({}),
    ) -> None:
        before, after = _by_name(self.digests), _by_name(wanted)
        kept, self.owners = self.owners, {name: set(programs) for name, programs in owners.items()}
        # What comes in addition changes nothing for a program that is at work, and its state stays. Another
        # one, or the same one run again, begins with what it has.
        more = {name for name in before if before[name].items() < after.get(name, {}).items()}
        grown = {n for n in more if n not in kept or kept[n] & self.owners.get(n, set())}
        # Nor does it where another program that had more of it is over.
        fewer = {name for name in after if after[name].items() < before.get(name, {}).items()}
        same = {name for name in fewer if self.owners.get(name, set()) < kept.get(name, set())}
        gone = {name for name in before if before[name] != after.get(name)} - grown - same
        new = {name for name in after if before.get(name) != after[name]} - grown - same
        if not gone and not new and not grown:
            self.digests = dict(wanted)
            return
        # What fails here comes with the next offer: until all is done, these are as none that anybody has.
        self.digests = {p: "" if top_of(p) in gone else hash_ for p, hash_ in self.digests.items()}
        for name in gone | new:
            self._remove(name)
        in_place = grown & set(self.homes)
        for name in in_place:
            added = {path: hash_ for path, hash_ in after[name].items() if path not in before[name]}
            put(self.homes[name], added, contents)
        elsewhere = {name for name in (new | grown) - gone - in_place if is_here(name, after[name])}
        written = (new | grown) - in_place - elsewhere
        if written:
            folder = Path(tempfile.mkdtemp(prefix="prefect-coiled-modules-", dir=place or self._folder()))
            try:
                for name in written:
                    write(name, folder, after[name], contents, had)
            except BaseException:  # a disk that is full keeps nothing of it
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self.homes.update(dict.fromkeys(written, folder))
            sys.path.insert(0, str(folder))
            for name in written & grown:
                look_first_in(folder, name)
        # What uses a changed module holds parts of it: all modules of that program are imported anew.
        anew = set(gone).union(*(group for group in groups if group & gone))
        if replace:
            anew |= {name for name in written - grown if is_loaded_otherwise(name, after[name])}
        # Tasks import meanwhile, in threads of their own.
        for module in [m for m in list(sys.modules) if top_of(m) in anew and top_of(m) not in _KEPT]:
            sys.modules.pop(module, None)
        importlib.invalidate_caches()
        self.digests = dict(wanted)

    def _remove(self, name: str) -> None:
        home = self.homes.pop(name, None)
        if home is None:
            return
        for path in home.iterdir():
            if top_of(path.name) == name:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        if home not in self.homes.values():
            sys.path[:] = [entry for entry in sys.path if entry != str(home)]
            shutil.rmtree(home, ignore_errors=True)

    def _folder(self) -> str:
        """A folder for a process that has none of Dask's: a scheduler's."""
        if self._own_folder is None or not os.path.isdir(self._own_folder):
            place = dask.config.get("temporary-directory", None)
            self._own_folder = tempfile.mkdtemp(prefix="prefect-coiled-modules-", dir=place)
            atexit.register(shutil.rmtree, self._own_folder, ignore_errors=True)
        return self._own_folder


# Whatever the name of a user's module: without these a worker does not work.
_KEPT = frozenset(sys.stdlib_module_names) | {
    "dask",
    "distributed",
    "prefect",
    "prefect_dask",
    "prefect_coiled",
}
_process = _Process()


def left_out(name: str) -> str:
    """Why modules of a name did not come here; empty where nothing is known of it."""
    return _process.left_out.get(name, "")


def _by_name(digests: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for path, hash_ in digests.items():
        found.setdefault(top_of(path), {})[path] = hash_
    return found
