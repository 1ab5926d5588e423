"""What the machines run, and which wheels fit it."""

from __future__ import annotations

import os
import platform
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from prefect_coiled.environment.elf import needed
from prefect_coiled.environment.sites import site_folders
from prefect_coiled.errors import OptionsError

# The C library of Amazon Linux 2023 is 2.34.
GLIBC = 34
_SYMBOL = re.compile(rb"GLIBC_2\.(\d{1,3})\b")
_MUSL = re.compile(r"libc\.musl-.*|libc\.so|ld-musl-.*")
# Libraries that wheels may ask a system for (https://peps.python.org/pep-0600/, with the list in
# https://github.com/pypa/auditwheel/blob/main/src/auditwheel/policy/manylinux-policy.json), Python's own, and
# those of NVIDIA's driver.
_THERE = re.compile(
    r"ld-linux.*|linux-vdso.*|lib(c|m|anl|dl|mvec|nsl|pthread|resolv|rt|util|gcc_s|stdc\+\+|atomic|expat|z|"
    r"X11|Xext|Xrender|ICE|SM|GL|gobject-2\.0|gthread-2\.0|glib-2\.0|python3.*|cuda|nvidia-ml)\.so(\.\d+)*"
)


# What dnf, systemd and Python need there: Amazon Linux 2023 has it from the start.
_OF_THE_IMAGE = frozenset(
    f"lib{name}"
    for name in (
        "bz2.so.1",
        "crypt.so.2",
        "crypto.so.3",
        "ffi.so.8",
        "gomp.so.1",
        "lzma.so.5",
        "ncursesw.so.6",
        "readline.so.8",
        "sqlite3.so.0",
        "ssl.so.3",
        "tinfo.so.6",
        "uuid.so.1",
        "zstd.so.1",
    )
)


@dataclass(frozen=True)
class Target:
    """What the machines run."""

    python: str
    architecture: str = "x86_64"

    @property
    def tags(self) -> list[Tag]:
        """Of the wheels that fit, the best first."""
        return target_tags(self.python, self.architecture)

    @property
    def markers(self) -> dict[str, str]:
        """What markers are judged by (https://packaging.python.org/en/latest/specifications/dependency-specifiers/)."""
        return {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "platform_machine": "aarch64" if self.architecture == "arm64" else self.architecture,
            "platform_python_implementation": "CPython",
            "implementation_name": "cpython",
            "python_version": ".".join(self.python.split(".")[:2]),
            "python_full_version": self.python,
            "extra": "",
        }

    @property
    def platform(self) -> str:
        """In uv's words."""
        machine = "aarch64" if self.architecture == "arm64" else self.architecture
        return f"{machine}-manylinux_2_{GLIBC}"


def check_architecture(architecture: str) -> str:
    """The architecture, if machines can have it.

    Raises:
        OptionsError: It is neither "x86_64" nor "arm64".
    """
    if architecture not in ("x86_64", "arm64"):
        raise OptionsError(f"architecture {architecture!r}", 'machines have "x86_64" or "arm64"')
    return architecture


def target_tags(python: str, architecture: str) -> list[Tag]:
    """The tags of wheels that Amazon Linux 2023 runs, the best first."""
    machine = "aarch64" if architecture == "arm64" else architecture
    version = tuple(int(part) for part in python.split(".")[:2])
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    platforms = []
    for glibc in range(GLIBC, (16 if machine == "aarch64" else 4), -1):
        platforms.append(f"manylinux_2_{glibc}_{machine}")
        if glibc in legacy:
            platforms.append(f"{legacy[glibc]}_{machine}")
    platforms.append(f"linux_{machine}")
    interpreter = f"cp{version[0]}{version[1]}"
    # Without its name the ABI would be that of the Python which asks: of a free-threaded one "cp314t".
    own = cpython_tags(version, abis=[interpreter], platforms=platforms)
    return [*own, *compatible_tags(version, interpreter, platforms)]


def check_fits(path: Path, tags: Sequence[Tag], python: str, architecture: str) -> tuple[str, ...]:
    """See that a wheel that was built here runs on the machines; gives the libraries that they lack for it.

    Raises:
        OptionsError: It was compiled for another system, another Python, or a newer or another C library.
    """
    name, version, _, found = parse_wheel_filename(path.name)
    ignore = f"Install a released version that has wheels for Linux, or package_sync_ignore=[{name!r}]."
    if not found & set(tags):
        here = f"{platform.system()} {platform.machine()}"
        raise OptionsError(
            f"package {name}=={version}",
            f"it is compiled on this machine ({here}), and the cluster's run Linux {architecture} with "
            f"Python {python}: {path.name} does not fit",
            ignore,
        )
    wanted: set[str] = set()
    with zipfile.ZipFile(path) as wheel:
        for entry in wheel.namelist():
            if not re.search(r"\.so(\.\d+)*\Z", entry):
                continue
            content = wheel.read(entry)
            wanted |= set(libraries := needed(content))
            if any(_MUSL.fullmatch(name) for name in libraries):
                raise OptionsError(
                    f"package {name}=={version}",
                    "it is compiled here against musl, and the machines have glibc",
                    ignore,
                )
            newest = max((int(n) for n in _SYMBOL.findall(content)), default=0)
            if newest > GLIBC:
                raise OptionsError(
                    f"package {name}=={version}",
                    f"it is compiled here against glibc 2.{newest}, and the machines have 2.{GLIBC}",
                    ignore,
                )
        bundled = {entry.rpartition("/")[2] for entry in wheel.namelist()}
    lacking = {name for name in wanted - bundled - _OF_THE_IMAGE if not _THERE.fullmatch(name)}
    # A package may load what another one brings, as of PyTorch.
    return tuple(sorted(lacking - set(_brought()))) if lacking else ()


def _brought() -> Iterator[str]:
    """The names of all files of packages that are installed here."""
    for folder in site_folders():
        for _, _, files in os.walk(folder):
            yield from files
