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
import hashlib
import importlib
import importlib.machinery
import os
import shutil
import sys
import tempfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import dask
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps

PLUGIN = "prefect-coiled-modules"
_unique = uuid4().hex


def process_id() -> str:
    """Names this process, among all that may come to a cluster."""
    return f"{_unique}-{os.getpid()}"  # a fork is another one


def digest(content: bytes) -> str:
    """The hash that a file is known by."""
    return hashlib.sha256(content).hexdigest()


def top_of(path: str) -> str:
    """The name by which a file of modules is imported, without dots."""
    return path.partition("/")[0].partition(".")[0]


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
        self.sent: tuple[Any, ...] | None = None
        self.lock = asyncio.Lock()

    def conflict(self, claim: Claim, clients: Container[Any]) -> tuple[tuple[str, ...], str]:
        """The names that another program at work has otherwise, and that program."""
        for other in self.claims:
            if other.process == claim.process or other.client not in clients:
                continue
            common = other.names & claim.names
            if taken := sorted(n for n in common if other.files_of(n) != claim.files_of(n)):
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
                replaced = {n for n in replaced if other.files_of(n) != claim.files_of(n)}
            left = {p: h for p, h in other.digests.items() if top_of(p) not in replaced}
            if left:
                kept.append(Claim(other.process, left, other.client, other.title, other.left_out))
        self.claims = [*kept, claim]
        needed = {h for one in self.claims for h in one.digests.values()}
        self.contents = {h: c for h, c in self.contents.items() if h in needed}


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
        plugin = WorkerModules(claims, keeper.contents)
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
    """Makes modules importable in a worker's process."""

    name = PLUGIN
    idempotent = False

    def __init__(self, claims: Iterable[Claim], contents: Mapping[str, bytes]) -> None:
        self.claims, self.contents = tuple(claims), dict(contents)

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
        _process.install(wanted, self.contents, [claim.names for claim in foreign], place, replace)
        for claim in foreign:
            _process.left_out.update(claim.left_out)


class _Process:
    """The modules that this process has from others."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.homes: dict[str, Path] = {}  # by name: where it was written; none if it was here
        self.left_out: dict[str, str] = {}
        self._own_folder: str | None = None

    def install(
        self,
        wanted: Mapping[str, str],
        contents: Mapping[str, bytes],
        groups: Iterable[frozenset[str]],
        place: str | None,
        replace: bool,
    ) -> None:
        before, after = _by_name(self.digests), _by_name(wanted)
        gone = {name for name in before if before[name] != after.get(name)}
        new = {name for name in after if before.get(name) != after[name]}
        if not gone and not new:
            return
        # What fails here comes with the next offer: until all is done, these are as none that anybody has.
        self.digests = {p: "" if top_of(p) in gone else hash_ for p, hash_ in self.digests.items()}
        for name in gone | new:
            self._remove(name)
        elsewhere = {name for name in new - gone if _is_here(name, after[name])}
        written = new - elsewhere
        if written:
            folder = Path(tempfile.mkdtemp(prefix="prefect-coiled-modules-", dir=place or self._folder()))
            try:
                for name in written:
                    _write(name, folder, after[name], contents)
            except BaseException:  # a disk that is full keeps nothing of it
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self.homes.update(dict.fromkeys(written, folder))
            sys.path.insert(0, str(folder))
        # What uses a changed module holds parts of it: all modules of that program are imported anew.
        anew = set(gone).union(*(group for group in groups if group & gone))
        if replace:
            anew |= {name for name in written if _is_loaded_otherwise(name, after[name])}
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


def _is_here(name: str, files: Mapping[str, str]) -> bool:
    """Whether the search path leads to exactly these files already."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    if spec.origin is None or not spec.has_location:
        places = [Path(location).parent for location in spec.submodule_search_locations or ()]
    elif spec.submodule_search_locations is not None:
        places = [Path(spec.origin).parents[1]]
    else:
        places = [Path(spec.origin).parent]
    # A package goes before a module of its name: the module may lie beside it and not be what is imported.
    found = Path(spec.origin) if spec.origin is not None and spec.has_location else None
    if found is not None and found.relative_to(places[0]).as_posix() not in files:
        return False
    return any(all(_hash_of(place / path) == hash_ for path, hash_ in files.items()) for place in places)


def _write(name: str, folder: Path, files: Mapping[str, str], contents: Mapping[str, bytes]) -> None:
    """Write the files of one name into a folder."""
    _copy_installed(name, folder, files)
    for path, hash_ in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents[hash_])


def _copy_installed(name: str, folder: Path, files: Mapping[str, str]) -> None:
    """Begin with what this machine has of a package, for what its wheel has besides its sources.

    A package that was installed here from a checkout may have compiled parts; the checkout has changed since.
    """
    try:
        spec = importlib.machinery.PathFinder.find_spec(name)
    except (ImportError, ValueError):
        return
    if spec is None or not spec.origin or spec.submodule_search_locations is None:
        return
    if not any(path.startswith(f"{name}/") for path in files):
        return  # a module that has the name of an installed package
    here = Path(spec.origin).parent
    if here.name != name or here.parent.name != "site-packages":
        return
    shutil.copytree(here, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / name).rglob("*.py"):
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()


def _is_loaded_otherwise(name: str, files: Mapping[str, str]) -> bool:
    """Whether a module of a name is loaded from another file than that of the program."""
    for loaded, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if top_of(loaded) != name or not isinstance(file, str):
            continue
        here = Path(file)
        # As the client wrote it: the folder that the name stands for, and the file's own name.
        inside = loaded.split(".") if here.stem == "__init__" else loaded.split(".")[:-1]
        if files.get("/".join([*inside, here.name])) != _hash_of(here):
            return True
    return False


def _hash_of(file: Path) -> str:
    try:
        return digest(file.read_bytes())
    except OSError:
        return ""
