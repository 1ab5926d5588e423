"""Blocks that tasks do not get: an account's and a registry's, and the credentials that these refer to.

Whoever has them may do in AWS what the flow's process may: launch machines, remove them, read buckets. The
machines have a role of their own for what tasks need there. What decides is what the API says of a document,
and never the name by which somebody asked for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from prefect_coiled.relay.needs import RefusedError

#: Types of blocks that stay with the flow's process. A bare worker lacks their classes.
KEPT = ("ec2-dask-account", "ec2-dask-registry")

# Documents in a question: https://docs.prefect.io/v3/api-ref/rest-api/server/block-documents/read-block-documents.
_PAGE = 200
_INSTEAD = (
    "Give the task credentials of its own, in a block that no account refers to; in AWS it has the role of"
    " its machine, which `prefect-coiled role attach-policy` widens."
)


async def refuse_kept(document: dict[str, Any], read: Callable[[str, str, Any], Awaitable[Any]]) -> None:
    """Return if a task may have a block document.

    Args:
        document: As the API gave it.
        read: Asks the API, without rules: method, path, body.

    Raises:
        RefusedError: It is, has in it, or refers to what opens an account.
    """
    kind, name = document["block_type"]["slug"], document.get("name")
    if {kind, *_kinds_inside(document["data"]), *_kinds_referred_to(document)} & set(KEPT):
        raise RefusedError(
            403, f"The relay gives no task the block {kind}/{name}: it opens an account. {_INSTEAD}"
        )
    ids = {str(document["id"]), *(str(found["id"]) for found in _referred_to(document))}
    if ids & await _of_accounts(read):
        words = f"The relay gives no task the block {kind}/{name}: an account refers to what is in it."
        raise RefusedError(403, f"{words} {_INSTEAD}")


async def _of_accounts(read: Callable[[str, str, Any], Awaitable[Any]]) -> set[str]:
    """The ids of the documents that accounts and registries refer to."""
    found: set[str] = set()
    offset = 0
    while True:
        body = {
            "block_types": {"slug": {"any_": list(KEPT)}},
            # By default those without a name are left out.
            "block_documents": {"is_anonymous": None},
            "limit": _PAGE,
            "offset": offset,
        }
        page = await read("POST", "/block_documents/filter", body) or []
        found.update(str(one["id"]) for document in page for one in _referred_to(document))
        if len(page) < _PAGE:
            return found
        offset += _PAGE


def _referred_to(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The documents that a document refers to, at whatever depth."""
    for reference in (document.get("block_document_references") or {}).values():
        found = reference["block_document"]
        yield found
        yield from _referred_to(found)


def _kinds_referred_to(document: dict[str, Any]) -> Iterator[str]:
    return (found["block_type"]["slug"] for found in _referred_to(document))


def _kinds_inside(data: Any) -> Iterator[str]:
    """The types of blocks that are written out in the data of another one."""
    if isinstance(data, dict):
        if kind := data.get("block_type_slug"):
            yield str(kind)
        for value in data.values():
            yield from _kinds_inside(value)
    elif isinstance(data, list):
        for value in data:
            yield from _kinds_inside(value)
