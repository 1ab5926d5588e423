"""Names that AWS takes: one that is too long ends with a hash of all of it."""

from __future__ import annotations

import hashlib

_HASHED = 16


def fitted(name: str, most: int) -> str:
    """A name as it is; one that is too long by its beginning and a hash of the whole, the same each time."""
    if len(name) <= most:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASHED]
    return f"{name[: most - _HASHED - 1]}-{digest}"
