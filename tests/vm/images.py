"""The images of the machines in these tests: made by the recipes beside, kept by the hash of what went in.

    bare          what AWS's own image is: no Python environment in it
    aws           Amazon's command line, which its image has (version 1: Debian's is too old)
    python        the client's Python, as pythonX.Y on the path, where AWS's image would get it by dnf
    packages      the client's environment, as its lock has it, but for what the client has built
    environment   all of the client's environment: what an image that was baked with it holds

The last two are made by the recipe of every image, `prefect_coiled/plan/bake.sh`, in a chroot.

Each is a folder, a layer over those before. The cache is outside of the repository, so that the next run is
quick.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import platform
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from prefect_coiled.environment import Lock, Wheel
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.uv import prepared
from prefect_coiled.plan.user_data import Place, bake_data

RECIPES = Path(__file__).parent / "image"
BARE = ("recipe.sh", "strict-cloud-init.sh", "90_ec2.cfg", "dmidecode.sh")
# The suite to take is the oldest whose C library runs what this computer has built; by its minor version. And
# the suite's own Python.
SUITES = {36: ("bookworm", "3.11"), 41: ("trixie", "3.13")}
AWS = "awscli<2"
# Seconds that an installation may take, and for which a wheel is kept that nobody has asked for.
SECONDS, KEPT_S = 1200.0, 30 * 86400.0
# What of a Python nobody needs who only runs programs.
NOT_COPIED = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "config-*", "*.a"
)
TOOLS = ("mmdebstrap", "systemd-nspawn", "unshare", "nsenter", "ip", "nft")
KEEP = 3
Fetch = Callable[[Wheel], Path]


def no_image(tools: Iterable[str]) -> str:
    """Why an image cannot be made here; empty where it can.

    Args:
        tools: The commands that it takes, and those that its machines take.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    if _suite() is None:
        return f"no Debian to make the image of runs programs for {' '.join(platform.libc_ver())}"
    if sys.base_prefix == "/usr":
        return "this Python belongs to the system, and cannot be copied into an image"
    missing = [tool for tool in tools if not shutil.which(tool)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def reason() -> str:
    """Why machines cannot run here; empty where they can."""
    if why := no_image(TOOLS):
        return why
    trial = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c"]
    done = subprocess.run(
        [*trial, "mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup"],
        capture_output=True,
        text=True,
    )
    return f"no namespaces or cgroups: {done.stderr.strip()}" if done.returncode else ""


def skip_or_fail(items: Iterable[pytest.Item], folder: Path, asked: str, reason: Callable[[], str]) -> None:
    """Skip the tests of a folder where they cannot run, and say why; end the run where they must.

    Args:
        items: What was collected.
        folder: Whose tests it is about.
        asked: "" where nobody asked for them, "must" where they must run.
        reason: Why they cannot run; empty where they can.
    """
    ours = [item for item in items if folder in item.path.parents]
    why = reason() if asked else f"`make {folder.name}-test` runs whole machines"
    if not ours or not why:
        return
    if asked == "must":
        pytest.exit(f"the machines of tests/{folder.name} must run here, but: {why}", 1)
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=why))


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        folder: Where it is.
        seconds: How long it took to make, now; 0 where it was there.
        cpu: CPU seconds of it.
    """

    folder: Path
    seconds: float = 0.0
    cpu: float = 0.0


class Images:
    """The layers, made as they are asked for.

    Args:
        cache: Where they are kept; by default PREFECT_COILED_VM_CACHE, or a folder in the user's own cache.
        recipes: Where the recipes are.
        build: Runs a recipe, with a log; for tests.
    """

    def __init__(
        self,
        cache: Path | None = None,
        recipes: Path = RECIPES,
        build: Callable[[Sequence[str], Path], None] | None = None,
    ) -> None:
        self.cache = cache or _cache()
        self.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        for kept in self.cache.glob("wheels/*/*.whl"):
            if time.time() - kept.stat().st_mtime > KEPT_S:
                shutil.rmtree(kept.parent)
        self._recipes = recipes
        self._build = build or _run

    def bare(self) -> list[Layer]:
        """A bare machine, with the client's Python at hand."""
        suite = _suite() or "none"
        recipe = self._recipes / "recipe.sh"
        parts = [suite.encode(), *(self._recipes.joinpath(name).read_bytes() for name in BARE)]
        bare = self._layer("bare", parts, lambda folder: self._run([str(recipe), suite, str(folder)], "bare"))
        parts = [suite.encode(), AWS.encode(), inspect.getsource(Images._install_aws).encode()]
        aws = self._layer("aws", parts, self._install_aws)
        parts = [sys.version.encode(), sys.base_prefix.encode(), inspect.getsource(_copy_python).encode()]
        python = self._layer("python", parts, _copy_python)
        return [python, aws, bare]

    def complete(self, lock: Lock, fetch: Fetch) -> list[Layer]:
        """The layers of an image that holds the client's environment, the upper first.

        Args:
            lock: Of the environment.
            fetch: Gives a wheel's file.
        """
        lower = self.bare()
        # What the client has built has no address; it changes with every change of the code.
        theirs = lock.model_copy(update={"wheels": tuple(w for w in lock.wheels if w.url)})
        lower.insert(0, self.environment("packages", lower, theirs, fetch))
        lower.insert(0, self.environment("environment", lower, lock, fetch, held=theirs.files))
        return lower

    def environment(
        self, kind: str, lower: Sequence[Layer], lock: Lock, fetch: Fetch, held: Sequence[Wheel] = ()
    ) -> Layer:
        """A layer with an environment, made by `prefect_coiled/plan/bake.sh`.

        Args:
            kind: Its name.
            lower: The layers under it, the upper first.
            lock: What to install.
            fetch: Gives a wheel's file.
            held: What the layers under it hold already.
        """
        script = bake_data(Place("image", lock.key, lock.python), "us-east-1", SECONDS)
        recipe, bucket = self._recipes / "layer.sh", self._recipes / "bucket.sh"
        parts = [script.encode(), recipe.read_bytes(), bucket.read_bytes()]
        parts += [layer.folder.name.encode() for layer in lower]

        def make(folder: Path) -> None:
            bake = folder.with_name(f"{folder.name}.bake")
            for name in ("bin", "bucket"):
                (bake / name).mkdir(parents=True)
            (bake / "run").write_text(script)
            (bake / "run").chmod(0o755)
            shutil.copy(bucket, bake / "bin/aws")
            for name in ("shutdown", "poweroff"):  # there is no machine to switch off
                (bake / "bin" / name).symlink_to("/bin/true")
            for wheel in set(lock.files) - set(held):
                (target := bake / "bucket" / wheel.key).parent.mkdir(parents=True)
                shutil.copy(fetch(wheel), target)
            (target := bake / "bucket" / lock.key).parent.mkdir(parents=True)
            target.write_text(lock.text())
            under = ":".join(str(layer.folder) for layer in lower)
            apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
            self._run([*apart, str(recipe), under, str(folder), str(bake)], kind)
            shutil.rmtree(bake)

        return self._layer(kind, parts, make)

    def wheel(self, wheel: Wheel, download: Callable[[Path], Path]) -> Path:
        """A file of an index: from the cache, or a download into a folder."""
        kept = self.cache / wheel.key
        if kept.exists():
            os.utime(kept)
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            return download(Path(folder)).replace(kept)

    def _install_aws(self, folder: Path) -> None:
        from uv import find_uv_bin

        place, command = "usr/local/aws", folder / "usr/local/bin/aws"
        version = dict(SUITES.values())[_suite() or ""]
        target = ["--target", str(folder / place), "--python-version", version, "--compile-bytecode"]
        self._run([find_uv_bin(), "pip", "install", "--quiet", *target, AWS], "aws")
        command.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(f'#!/bin/sh\nPYTHONPATH=/{place} exec /usr/bin/python3 -m awscli "$@"\n')
        command.chmod(0o755)

    def _run(self, command: Sequence[str], kind: str) -> None:
        self._build(command, self.cache / f"{kind}.log")

    def _layer(self, kind: str, parts: Iterable[bytes], make: Callable[[Path], None]) -> Layer:
        digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
        folder = self.cache / f"{kind}-{digest[:16]}"
        with self._locked(kind):
            if folder.is_dir():
                os.utime(folder)
                return Layer(folder)
            unfinished = self.cache / f"unfinished-{kind}"
            _remove(unfinished)
            began, used = time.monotonic(), _cpu()
            make(unfinished)
            unfinished.rename(folder)
            os.utime(folder)
            made = Layer(folder, time.monotonic() - began, _cpu() - used)
            others = sorted(self.cache.glob(f"{kind}-*"), key=lambda f: f.stat().st_mtime, reverse=True)
            for old in others[KEEP:]:
                _remove(old)
            return made

    @contextmanager
    def _locked(self, kind: str) -> Iterator[None]:
        with (self.cache / f"{kind}.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def size(folders: Iterable[Path]) -> int:
    """Megabytes of some layers."""
    done = subprocess.run(["du", "-smc", *map(str, folders)], capture_output=True, text=True, check=True)
    return int(done.stdout.split("\n")[-2].split()[0])


def _suite() -> str | None:
    name, version = platform.libc_ver()
    found = version.split(".")
    if name != "glibc" or len(found) < 2:
        return None
    return next((suite for minor, (suite, _) in SUITES.items() if int(found[1]) <= minor), None)


def _copy_python(folder: Path) -> None:
    """The Python that runs this, where it is, and on the path."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    target = folder / base.relative_to("/")
    shutil.copytree(base / "lib" / name, target / "lib" / name, symlinks=True, ignore=NOT_COPIED)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    (target / "bin").mkdir()
    shutil.copy2(base / "bin" / name, target / "bin" / name)
    command = folder / "usr/local/bin" / name
    command.parent.mkdir(parents=True)
    # No link: a Python looks for its library beside the link, and finds Debian's.
    command.write_text(f'#!/bin/sh\nexec {base}/bin/{name} "$@"\n')
    command.chmod(0o755)


def _cache() -> Path:
    given = os.environ.get("PREFECT_COILED_VM_CACHE")
    # Not HOME: the suite gives itself another one.
    return Path(given or Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/prefect-coiled/vm")


def _run(command: Sequence[str], log: Path) -> None:
    with prepared(Indexes.of()) as place, log.open("w") as output:
        done = subprocess.run(
            command, env=place.environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{lines}")


def _remove(folder: Path) -> None:
    for end in ("", ".work", ".root", ".bake"):
        shutil.rmtree(folder.with_name(f"{folder.name}{end}"), ignore_errors=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
