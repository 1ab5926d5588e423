"""What requirements.lock says, for the scripts beside this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["LOCKS", "Entry", "entries"]

ROOT = Path(__file__).resolve().parent.parent
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-ui.lock")


class Entry(NamedTuple):
    """A version that is locked, where its marker holds, and the SHA-256 of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """As indexes spell it."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The one that is locked."""
        (one,) = self.requirement.specifier
        return one.version


def entries(lock: Path) -> Iterator[Entry]:
    """What a lock says, in its order."""
    text = lock.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line[:1].isalnum():
            wanted, *hashes = line.split("--hash=sha256:")
            yield Entry(Requirement(wanted.strip()), tuple(one.strip() for one in hashes))
