"""What a tool was told of package indexes, in one form for all tools.

Reads nothing and calls nobody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit


@dataclass(frozen=True)
class Index:
    """A package index; the fields are those of https://docs.astral.sh/uv/concepts/indexes/.

    Attributes:
        url: Its address, without user and password.
        name: As its user calls it; may be empty.
        default: Whether it is asked last, in place of the public one.
        explicit: Whether it is asked only for packages whose source names it.
        flat: Whether it is a list of files rather than a simple index.
        authenticate: When credentials are sent: "", "auto", "always" or "never".
        ignore_error_codes: HTTP statuses that mean "not here" rather than an error.
    """

    url: str
    name: str = ""
    default: bool = False
    explicit: bool = False
    flat: bool = False
    authenticate: str = ""
    ignore_error_codes: tuple[int, ...] = ()
    credentials: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Source:
    """Which index a package comes from.

    Attributes:
        marker: Where that holds; empty for everywhere.
    """

    index: str
    marker: str = ""


@dataclass(frozen=True)
class IndexSettings:
    """What one place says of indexes; what is None is not said there.

    Attributes:
        indexes: The indexes, the first one asked first.
        find_links: Folders and pages of files; may hold credentials.
        no_index: Whether nothing but `find_links` is asked.
        insecure_hosts: Hosts, with or without a port, whose certificates are not checked.
        certificates: A file of certificates that are trusted instead of the machine's.
        proxy: The address of a proxy; may hold credentials.
        sources: By name of a package, or a glob over such names.
        torch_backend: Which of PyTorch's builds uv was told to take.
    """

    indexes: tuple[Index, ...] = ()
    find_links: tuple[str, ...] = field(default=(), repr=False)
    no_index: bool | None = None
    strategy: str = ""
    keyring: str = ""
    insecure_hosts: tuple[str, ...] = ()
    certificates: str = ""
    proxy: str = field(default="", repr=False)
    sources: Mapping[str, tuple[Source, ...]] = field(default_factory=dict)
    no_sources: bool | None = None
    torch_backend: str = ""

    @property
    def says_where(self) -> bool:
        """Whether it says where packages in general come from."""
        return self.no_index is not None or any(not index.explicit for index in self.indexes)

    def sources_of(self, name: str) -> tuple[Source, ...]:
        """The sources that name an index for a package."""
        if self.no_sources:
            return ()
        if name in self.sources:
            return self.sources[name]
        return next((found for glob, found in self.sources.items() if fnmatchcase(name, glob)), ())


def merged(places: Iterable[IndexSettings]) -> IndexSettings:
    """Several places in one: what is said first holds, and lists are put one after the other.

    Of two indexes of one name the first one counts, and of two default ones too.
    """
    made = IndexSettings()
    for place in places:
        made = IndexSettings(
            indexes=made.indexes + place.indexes,
            find_links=tuple(dict.fromkeys(made.find_links + place.find_links)),
            no_index=place.no_index if made.no_index is None else made.no_index,
            strategy=made.strategy or place.strategy,
            keyring=made.keyring or place.keyring,
            insecure_hosts=tuple(dict.fromkeys(made.insecure_hosts + place.insecure_hosts)),
            certificates=made.certificates or place.certificates,
            proxy=made.proxy or place.proxy,
            sources={**place.sources, **made.sources},
            no_sources=place.no_sources if made.no_sources is None else made.no_sources,
            torch_backend=made.torch_backend or place.torch_backend,
        )
    kept: list[Index] = []
    for index in made.indexes:
        same_name = index.name and any(index.name == other.name for other in kept)
        second_default = index.default and any(other.default for other in kept)
        if not same_name and not second_default:
            kept.append(index)
    return IndexSettings(**{**vars(made), "indexes": tuple(kept)})


def credentials_of(url: str) -> tuple[str, tuple[str, str] | None]:
    """An address without user and password, and these."""
    parts = urlsplit(url)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if parts.username or parts.password:
        return bare, (unquote(parts.username or ""), unquote(parts.password or ""))
    return bare, None


def address_of(place: str, base: Path) -> str:
    """The address of what is written as an address or as a path."""
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:", place):
        return place
    return (base / Path(place).expanduser()).absolute().as_uri()


def link_of(place: str, base: Path) -> str:
    """An entry of `find-links`: an address, or the path of a folder or a file."""
    return place if "://" in place else str((base / Path(place).expanduser()).absolute())


def text_of(settings: IndexSettings) -> str:
    """The settings as a uv.toml, without anything secret."""

    def line(key: str, value: Any) -> str:
        return f"{key} = {json.dumps(value)}\n"

    text = line("no-index", True) if settings.no_index else ""
    text += line("index-strategy", settings.strategy) if settings.strategy else ""
    text += line("keyring-provider", settings.keyring) if settings.keyring else ""
    text += line("allow-insecure-host", list(settings.insecure_hosts)) if settings.insecure_hosts else ""
    return text + "".join(index_table("index", index) for index in settings.indexes)


def index_table(key: str, index: Index) -> str:
    """An index as a table of TOML."""
    fields: dict[str, Any] = {"name": index.name, "url": index.url}
    fields |= {"default": index.default, "explicit": index.explicit}
    fields |= {"format": "flat" if index.flat else "", "authenticate": index.authenticate}
    fields["ignore-error-codes"] = list(index.ignore_error_codes)
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in fields.items() if value]
    return f"[[{key}]]\n" + "".join(lines)
