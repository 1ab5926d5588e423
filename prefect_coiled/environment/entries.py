"""What a package's entry in a pylock.toml says: the wheel that fits the machines, or what is to be built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from prefect_coiled.environment.records import Package, Wheel, is_version, record_of
from prefect_coiled.errors import OptionsError


def pick(entry: Mapping[str, Any], tags: Sequence[Tag]) -> Wheel | None:
    """The best wheel of a package in a pylock.toml, or None if it has none that fits."""
    rank = {tag: n for n, tag in enumerate(tags)}
    best: tuple[int, Wheel] | None = None
    for wheel in entry.get("wheels", ()):
        address = _address(wheel)
        file = _file(str(wheel.get("name") or file_of(address)), entry)
        places = [rank[tag] for tag in parse_wheel_filename(file)[3] if tag in rank]
        if places and (best is None or min(places) < best[0]):
            made = Wheel(
                name=_name(entry),
                version=entry.get("version") or str(parse_wheel_filename(file)[1]),
                file=file,
                sha256=_sha256(wheel, entry),
                size=int(wheel.get("size", 0)),
                url=address,
                record=record_of(entry),
            )
            best = min(places), made
    return best[1] if best else None


def check_entry(entry: Mapping[str, Any]) -> None:
    """Check that a package of a pylock.toml has a name and a version, of which a requirement can be made.

    Raises:
        OptionsError: It has none, or something else in its place.
    """
    _name({"name": "", **entry})
    version = str(entry.get("version") or "0")
    if not is_version(version):
        raise _no_such(entry["name"], f"{version!r} is no version")


class Source(NamedTuple):
    """What is to be built.

    Attributes:
        package: What it is, and where it is unless it is an archive.
        url: The address of the archive of its sources, to be fetched first.
        sha256: The archive's hash, where the index says.
        record: Of a wheel, the hash of the RECORD that was looked into.
    """

    package: Package
    url: str = ""
    sha256: str = ""
    record: str = ""


def source_of(entry: Mapping[str, Any]) -> Source:
    """What is to be built for a package of a pylock.toml."""
    name, version = _name(entry), str(entry.get("version", "0"))
    if sdist := entry.get("sdist"):
        return Source(Package(name=name, version=version), _address(sdist), _sha256(sdist, entry))
    if vcs := entry.get("vcs"):
        place = str(vcs.get("url") or vcs.get("path"))
        sub = str(vcs.get("subdirectory", ""))
        commit = str(vcs["commit-id"])
        made = Package(name=name, version=version, origin="vcs", url=place, commit=commit, subdirectory=sub)
        return Source(made)
    if archive := entry.get("archive"):
        if archive.get("url"):
            return Source(
                Package(name=name, version=version, origin="url", url=archive["url"]), archive["url"]
            )
        path = Path(archive["path"]).absolute()
        return Source(Package(name=name, version=version, origin="file", url=path.as_uri()))
    if directory := entry.get("directory"):
        path = Path(directory["path"]).absolute()
        return Source(Package(name=name, version=version, origin="directory", url=path.as_uri()))
    raise OptionsError(
        f"package {name}=={version}",
        "the index has no wheel of it for the machines, and no sources",
        f"Leave it out: package_sync_ignore=[{name!r}].",
    )


def _name(entry: Mapping[str, Any]) -> str:
    # It becomes the name of a folder here. https://packaging.python.org/en/latest/specifications/name-normalization/
    name = str(entry["name"])
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        raise _no_such(name, f"{name!r} is no name of a package")
    return name


def _file(name: str, entry: Mapping[str, Any]) -> str:
    # It becomes the name of a file here and on the machines.
    if not re.fullmatch(r"[\w.+!-]+\.whl", name):
        raise _no_such(entry["name"], f"{name!r} is no name of a wheel")
    return name


def _sha256(file: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    # What is known of a wheel is kept under its hash.
    found = str(file.get("hashes", {}).get("sha256", ""))
    if found and not re.fullmatch(r"[0-9a-f]{64}", found):
        raise _no_such(entry["name"], f"{found!r} is no SHA-256")
    return found


def _no_such(name: object, why: str) -> OptionsError:
    return OptionsError(f"package {name}", f"what the index says of it is not in order: {why}.")


def _address(entry: Mapping[str, Any]) -> str:
    # What is in a folder of wheels (find-links) has a path.
    return str(entry.get("url") or Path(entry["path"]).absolute().as_uri())


def file_of(url: str) -> str:
    """The name of the file behind an address."""
    return unquote(urlsplit(url).path.rpartition("/")[2])
