"""The images of the machines in these tests: made by the recipes beside, kept by the hash of what went in.

    bare          what AWS's own image is: no Python environment in it
    aws           Amazon's command line, which its image has (version 1: Debian's is too old)
    python        the client's Python, where on AWS the machine would download the same one
    third-party   the client's packages but its own, as its lock pins them
    own           the client's own packages

Each is a folder, a layer over those before. The cache is outside of the repository, so that the next run is
quick.
"""

from __future__ import annotations

import fcntl
import hashlib
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

from prefect_coiled.environment import LocalPackage

RECIPES = Path(__file__).parent / "image"
BARE = ("recipe.sh", "strict-cloud-init.sh", "90_ec2.cfg", "dmidecode.sh")
# The suite to take is the oldest whose C library runs what this computer has built; by its minor version.
SUITES = {36: "bookworm", 41: "trixie"}
# What of a Python nobody needs who only runs programs.
NOT_COPIED = shutil.ignore_patterns(
    "site-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "config-*", "*.a"
)
TOOLS = ("mmdebstrap", "systemd-nspawn", "unshare", "nsenter", "ip", "nft")
KEEP = 3


def reason() -> str:
    """Why machines cannot run here; empty where they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    if _suite() is None:
        return f"no Debian to make the image of runs programs for {' '.join(platform.libc_ver())}"
    if sys.base_prefix == "/usr":
        return "this Python belongs to the system, and cannot be copied into an image"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    trial = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c"]
    done = subprocess.run(
        [*trial, "mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup"],
        capture_output=True,
        text=True,
    )
    return f"no namespaces or cgroups: {done.stderr.strip()}" if done.returncode else ""


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
        self._recipes = recipes
        self._build = build or _run

    def bare(self) -> list[Layer]:
        """A bare machine, with the client's Python at hand."""
        suite = _suite() or "none"
        recipe = self._recipes / "recipe.sh"
        parts = [suite.encode(), *(self._recipes.joinpath(name).read_bytes() for name in BARE)]
        bare = self._layer("bare", parts, lambda folder: self._run([str(recipe), suite, str(folder)], "bare"))
        aws = self.environment(
            "aws", [bare], ["awscli<2"], python="/usr/bin/python3", place="/usr/local/aws", options=()
        )
        (aws.folder / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        if not (command := aws.folder / "usr/local/bin/aws").is_symlink():
            command.symlink_to("../aws/bin/aws")
        parts = [sys.version.encode(), sys.base_prefix.encode()]
        return [self._layer("python", parts, _copy_python), aws, bare]

    def environment(
        self,
        kind: str,
        lower: Sequence[Layer],
        lines: Iterable[str],
        wheels: dict[str, bytes] | None = None,
        *,
        python: str = "",
        place: str = "/opt/prefect-coiled/env",
        options: Sequence[str] = ("--no-deps",),
    ) -> Layer:
        """A layer with packages.

        Args:
            kind: Its name.
            lower: The layers under it, the upper first.
            lines: Pinned requirements: the lock.
            wheels: Wheels of what no index has, by file name.
            python: The Python to use; by default the client's.
            place: Where the environment is in the image.
            options: For the installation.
        """
        from uv import find_uv_bin

        recipe = self._recipes / "environment.sh"
        listing = "".join(f"{line}\n" for line in lines)
        tail = [place, *options]
        python = python or platform.python_version()
        # A layer's name is the hash of what is in it.
        names = [listing, python, *tail, *(layer.folder.name for layer in lower)]
        parts = [recipe.read_bytes(), *(name.encode() for name in names)]
        for name, content in sorted((wheels or {}).items()):
            parts += [name.encode(), content]
        with tempfile.TemporaryDirectory(prefix="prefect-coiled-bake-") as bake:
            shutil.copy(find_uv_bin(), bake)
            Path(bake, "requirements.txt").write_text(listing)
            for name, content in (wheels or {}).items():
                Path(bake, name).write_bytes(content)
            under = ":".join(str(layer.folder) for layer in lower)

            def make(folder: Path) -> None:
                apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
                self._run([*apart, str(recipe), under, str(folder), python, bake, *tail], kind)

            return self._layer(kind, parts, make)

    def complete(self, packages: Sequence[str], wheels: dict[str, bytes]) -> list[Layer]:
        """The layers of an image that holds the client's environment, the upper first.

        Args:
            packages: As `client_packages()` gives them.
            wheels: As `build_wheels()` gives them.
        """
        lower = self.bare()
        theirs = [p for p in packages if not isinstance(p, LocalPackage)]
        lower.insert(0, self.environment("third-party", lower, theirs))
        ours = [str(p) for p in packages if isinstance(p, LocalPackage)]
        lower.insert(0, self.environment("own", lower, ours, wheels))
        return lower

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
    return next((suite for minor, suite in SUITES.items() if int(found[1]) <= minor), None)


def _copy_python(folder: Path) -> None:
    """The Python that runs this, where it is, and where uv keeps what it has downloaded."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    target = folder / base.relative_to("/")
    shutil.copytree(base / "lib" / name, target / "lib" / name, symlinks=True, ignore=NOT_COPIED)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    (target / "bin").mkdir()
    shutil.copy2(base / "bin" / name, target / "bin" / name)
    version, machine = platform.python_version(), platform.machine()
    kept = folder / "root/.local/share/uv/python" / f"cpython-{version}-linux-{machine}-gnu"
    kept.parent.mkdir(parents=True)
    kept.symlink_to(base)


def _cache() -> Path:
    given = os.environ.get("PREFECT_COILED_VM_CACHE")
    # Not HOME: the suite gives itself another one.
    return Path(given or Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/prefect-coiled/vm")


def _run(command: Sequence[str], log: Path) -> None:
    cache = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/uv"
    cache.mkdir(parents=True, exist_ok=True)
    environ = {"UV_CACHE_DIR": str(cache), "UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1", **os.environ}
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        environ.setdefault("SSL_CERT_FILE", str(bundle))
    if "PIP_INDEX_URL" in environ:
        environ.setdefault("UV_DEFAULT_INDEX", environ["PIP_INDEX_URL"])
    with log.open("w") as output:
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    if done.returncode:
        lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{lines}")


def _remove(folder: Path) -> None:
    for path in (folder, folder.with_name(f"{folder.name}.work"), folder.with_name(f"{folder.name}.root")):
        shutil.rmtree(path, ignore_errors=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
