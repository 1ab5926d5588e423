"""What is known of an environment: the packages of the client, and the wheels that the machines install.

A record holds names, versions, hashes and addresses without user and password; never a secret.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version

from prefect_coiled.errors import OptionsError
from prefect_coiled.records import Record

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DISTRIBUTION = "prefect-dask-ec2"
# Hosts whose files everybody may fetch, and that machines with a way out reach.
PUBLIC_INDEXES = frozenset(
    {"files.pythonhosted.org", "download.pytorch.org", "download-r2.pytorch.org", "pypi.nvidia.com"}
)
Origin = Literal["index", "conda", "system", "url", "vcs", "file", "directory"]
TOOL = "prefect-coiled"


def normalized(name: str) -> str:
    """A distribution's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_version(text: str) -> bool:
    """Whether a version is one that indexes and wheels may have.

    https://packaging.python.org/en/latest/specifications/version-specifiers/
    """
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def normal_version(text: str) -> str:
    """A version as indexes and the names of wheels spell it; what is no version stays as it is."""
    return str(Version(text)) if is_version(text) else text


class Package(Record):
    """A distribution that the client has installed.

    Attributes:
        url: Where to get it, without user and password; empty for those of an index.
        commit: Of a repository.
        subdirectory: Inside a repository or an archive.
        editable: Whether the client runs it from its directory.
        record: The folder of its record here (".../six-1.17.0.dist-info"); empty where there is none.
        requires: What its metadata requires, without extras.
    """

    name: str
    version: str
    origin: Origin = "index"
    url: str = ""
    commit: str = ""
    subdirectory: str = ""
    editable: bool = False
    record: str = ""
    requires: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


class Environment(Record):
    """The client's environment.

    Attributes:
        packages: By name, each once.
        left_out: Why by name, for what the machines do not get.
        ignored: Globs over the names of packages that the machines shall not get.
    """

    python: str
    platform: str
    packages: tuple[Package, ...]
    left_out: dict[str, str] = {}
    ignored: tuple[str, ...] = ()

    @property
    def python_minor(self) -> str:
        """Such as "3.11"."""
        return minor(self.python)


class Change(Record):
    """A package that is not the same here, on the machines and in its release.

    Attributes:
        here: The version that is installed here; empty for what only the machines get.
        machines: What the machines get: a version, or "as here".
    """

    package: str
    here: str
    machines: str
    files: tuple[str, ...] = ()
    what: str


class Wheel(Record):
    """A wheel, known by its content.

    Attributes:
        size: Bytes; 0 where the index does not say.
        url: Where the client can download it; empty for one that it built.
        record: Hash of its RECORD, where that alone was looked into; else empty.
    """

    name: str
    version: str
    file: str
    sha256: str
    size: int = 0
    url: str = ""
    record: str = ""

    @property
    def key(self) -> str:
        """Where it is kept in the account's bucket."""
        return f"wheels/{self.sha256}/{self.file}"

    @property
    def is_public(self) -> bool:
        """Whether anybody may fetch it from its index: machines with a way out need not be sent it."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" and parts.netloc in PUBLIC_INDEXES and '"' not in self.url


class Lock(Record):
    """The wheels that a machine installs: a lock in the standard form, with paths of the bucket.

    Attributes:
        wheels: All that is installed, by name.
        modules: The program's own modules; they change often, and are no part of the environment's hash.
    """

    python: str
    architecture: str
    wheels: tuple[Wheel, ...]
    uv: Wheel
    modules: Wheel | None = None

    @property
    def environment_hash(self) -> str:
        """A short hash of Python and the packages: images are named after it."""
        return _short(self.python, self.architecture, *(w.key for w in self.wheels))

    @property
    def hash(self) -> str:
        """A short hash of all that a machine installs."""
        return _short(self.environment_hash, self.uv.key, self.modules.key if self.modules else "")

    @property
    def key(self) -> str:
        """Where it is kept in the account's bucket: its path holds its hash, by which machines check it."""
        return f"wheels/environments/{hashlib.sha256(self.text().encode()).hexdigest()}/pylock.toml"

    @property
    def files(self) -> tuple[Wheel, ...]:
        """Everything that has to be in the bucket."""
        return (*self.wheels, *((self.modules,) if self.modules else ()), self.uv)

    def text(self) -> str:
        """The lock as pylock.toml (https://packaging.python.org/en/latest/specifications/pylock-toml/)."""
        machine = "aarch64" if self.architecture == "arm64" else self.architecture
        lines = [
            'lock-version = "1.0"',
            'created-by = "prefect-coiled"',
            f'requires-python = "=={minor(self.python)}.*"',
            f"environments = [\"sys_platform == 'linux' and platform_machine == '{machine}'\"]",
        ]
        for wheel in (*self.wheels, *((self.modules,) if self.modules else ())):
            lines += ["", "[[packages]]", f"name = {_quoted(wheel.name)}"]
            lines += [f"version = {_quoted(wheel.version)}", f"wheels = [{_inline(wheel)}]"]
            if wheel.record and wheel.is_public:  # for machines that fetch it from its index
                lines += [f"[packages.tool.{TOOL}]", f"record = {_quoted(wheel.record)}"]
        lines += ["", f"[tool.{TOOL}]", f"python = {_quoted(self.python)}"]
        lines += [f"architecture = {_quoted(self.architecture)}", f"uv = {_inline(self.uv)}"]
        if self.modules:
            lines.append(f"modules = {_quoted(self.modules.name)}")
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Lock:
        """Read what `text` wrote.

        Raises:
            OptionsError: It is no such lock.
        """
        try:
            read = tomllib.loads(text)
            tool = read["tool"][TOOL]
            wheels = [_wheel(p["name"], p["version"], p["wheels"][0], p) for p in read["packages"]]
            modules = next((w for w in wheels if w.name == tool.get("modules")), None)
            return cls(
                python=tool["python"],
                architecture=tool["architecture"],
                wheels=tuple(w for w in wheels if w is not modules),
                uv=_wheel("uv", "", tool["uv"], {}),
                modules=modules,
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise OptionsError("lock", f"it was not written by this library: {error!r}") from error


def read_toml(text: str) -> dict[str, Any]:
    """The content of a TOML document.

    Raises:
        ValueError: It is none.
    """
    return tomllib.loads(text)


def minor(python: str) -> str:
    """The minor version: "3.11" of "3.11.9"."""
    return ".".join(python.split(".")[:2])


def record_of(entry: Mapping[str, Any]) -> str:
    """The hash of the RECORD that was looked into, of a package of a pylock.toml."""
    return str(entry.get("tool", {}).get(TOOL, {}).get("record", ""))


def looked_into(entry: Mapping[str, Any], record: str) -> dict[str, Any]:
    """A package of a pylock.toml with the hash of the RECORD that was looked into."""
    return {**entry, "tool": {TOOL: {"record": record}}} if record else {**entry}


def _wheel(name: str, version: str, entry: dict[str, Any], package: Mapping[str, Any]) -> Wheel:
    file = entry["path"].rpartition("/")[2]
    version = version or file.split("-")[1]
    return Wheel(
        name=name,
        version=version,
        file=file,
        sha256=entry["hashes"]["sha256"],
        size=entry.get("size", 0),
        url=entry.get("url", ""),
        record=record_of(package),
    )


def _inline(wheel: Wheel) -> str:
    size = f"size = {wheel.size}, " if wheel.size else ""
    # Where it is besides the bucket, for a machine that does not find it there.
    url = f"url = {_quoted(wheel.url)}, " if wheel.is_public else ""
    return f"{{ path = {_quoted(wheel.key)}, {url}{size}hashes = {{ sha256 = {_quoted(wheel.sha256)} }} }}"


def _quoted(text: str) -> str:
    # A basic string of TOML is one of JSON.
    return json.dumps(text)


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
