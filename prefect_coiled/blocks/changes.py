"""What differs between two states of a block, field by field, without a secret."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefect.blocks.core import Block
from pydantic import BaseModel, SecretBytes, SecretStr

from prefect_coiled.internals.prefect import is_saved_apart, name_of
from prefect_coiled.options.base import SOUNDS_SECRET

HIDDEN = "(hidden)"


@dataclass(frozen=True)
class Change:
    """A field that is not as it was; secrets are hidden on both sides."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before == self.after:  # a secret, which is hidden on both sides
            return f"{self.field}: changed"
        return f"{self.field}: {self.before!r} -> {self.after!r}"


def differences(before: Block, after: Block) -> tuple[Change, ...]:
    """The fields that are not the same, those of blocks in it too."""
    return changes_between(dict(leaves(before)), dict(leaves(after)))


def changes_between(before: dict[str, Any], after: dict[str, Any]) -> tuple[Change, ...]:
    """The same for fields by path; see `leaves`."""
    names = [n for n in dict.fromkeys((*after, *before)) if before.get(n) != after.get(n)]
    return tuple(
        Change(n or "the whole block", _shown(n, before.get(n)), _shown(n, after.get(n))) for n in names
    )


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a block by path, those of blocks in it too; of a block saved apart, its name."""
    if isinstance(value, Block) and path and is_saved_apart(value):
        yield path, f"block {value.get_block_type_slug()}/{name_of(value)}"
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{path}.{name}" if path else name)
    else:
        yield path, value


def _shown(path: str, value: Any) -> Any:
    if any(SOUNDS_SECRET.search(part) for part in path.split(".")[-1:]):
        return HIDDEN if value else ""
    if isinstance(value, (SecretStr, SecretBytes)):
        return HIDDEN if value.get_secret_value() else ""
    return value if value is None or isinstance(value, (str, int, float, list, dict)) else str(value)
