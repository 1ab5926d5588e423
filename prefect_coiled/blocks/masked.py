"""What Prefect's newer form leaves of a block that another one names, and which block that was.

The API gives the named block's fields in the place of the reference, a mask for each secret, and the form
sends them back as they are: the reference is gone then, and the mask is saved. The server keeps a secret
behind its mask only where the document holds the secret itself (`update_block_document` of Prefect's
`server/models/block_documents.py`), so it is put right where the block is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from prefect.blocks.core import Block
from prefect.utilities.names import obfuscate
from pydantic import BaseModel

from prefect_coiled.blocks.asking import ask, asking, documents_of
from prefect_coiled.errors import AccountError
from prefect_coiled.internals.prefect import block_of, id_of, is_saved_apart

if TYPE_CHECKING:
    from prefect.client.schemas.objects import BlockDocument

logger = logging.getLogger(__name__)

# What Prefect shows in the place of any secret.
MASK = obfuscate("")
# A key's id has one secret: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_access-keys.html.
_NAMES_ITS_SECRET = "aws_access_key_id"


def named_again(cls: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a block, with the blocks that they named where there is a mask for a secret.

    Asks Prefect's API where there is a mask, and never else.

    Raises:
        AccountError: There is no such block, or more than one could be meant.
    """
    found = dict(data)
    for name, field in cls.model_fields.items():
        kind = _block_type(field.annotation)
        given = data.get(name)
        if kind is not None and isinstance(given, Mapping) and _secrets_masked(kind, given):
            found[name] = _named(kind, name, given)
    return found


def keep_named(document: BlockDocument, block: Block) -> None:
    """Have a document name again what its block found to be named, so that a later change there counts here.

    Whoever may not save blocks goes on with what was found; it is found again the next time.
    """
    from prefect.client.schemas.actions import BlockDocumentUpdate

    apart = {n: b for n in type(block).model_fields if _is_apart(b := getattr(block, n))}
    if not set(apart) - set(document.block_document_references):
        return
    # All of them: the server forgets a reference that is not sent along.
    data = {name: {"$ref": {"block_document_id": id_of(b)}} for name, b in apart.items()}
    try:
        with asking(f"block {document.name!r}") as client:
            client.update_block_document(
                document.id, BlockDocumentUpdate(data=data, merge_existing_data=True)
            )
    except AccountError as error:
        logger.debug("block %s: %s", document.name, error)


def _is_apart(value: Any) -> bool:
    return isinstance(value, Block) and is_saved_apart(value)


def _block_type(annotation: Any) -> type[Block] | None:
    kinds = [k for k in (annotation, *get_args(annotation)) if isinstance(k, type) and issubclass(k, Block)]
    return kinds[0] if kinds else None


def _secret_fields(kind: type[Block]) -> list[str]:
    found: list[str] = kind.model_json_schema().get("secret_fields", [])
    return found


def _secrets_masked(kind: type[Block], given: Mapping[str, Any]) -> bool:
    return any(given.get(name) == MASK for name in _secret_fields(kind))


def _named(kind: type[Block], name: str, given: Mapping[str, Any]) -> Block | dict[str, Any]:
    """The one block that these fields are of; of AWS keys whose block was changed since, its secret alone."""
    secret = _secret_fields(kind)
    found = ask(f"blocks of type {kind.get_block_type_slug()}", partial(documents_of, kind=kind))
    documents = [d for d in found if not _secrets_masked(kind, d.data)]
    same = [d for d in documents if _told(d.data, secret) == _told(given, secret)]
    if _one_secret(same, secret):
        return block_of(kind, same[0])
    key = given.get(_NAMES_ITS_SECRET)
    of_key = [d for d in documents if key and d.data.get(_NAMES_ITS_SECRET) == key]
    if not same and _one_secret(of_key, secret):
        return {**given, **{n: of_key[0].data[n] for n in secret if given.get(n) == MASK}}
    said = "no block has what they say beside it"
    if several := sorted(str(d.name) for d in same or of_key):
        said = f"it may stand for that of any of {', '.join(several)}"
    raise AccountError(
        name,
        f"hold the mask that is shown in the place of a secret, and {said}.",
        "Choose the block again in the account's form, or give the secret anew.",
    )


def _one_secret(documents: list[BlockDocument], secret: list[str]) -> bool:
    return len({tuple(str(d.data.get(n)) for n in secret) for d in documents}) == 1


def _told(value: Any, without: list[str]) -> Any:
    """What fields say, but for secrets and what is empty: a form leaves out some of that, and adds some."""
    if not isinstance(value, Mapping):
        return value
    parts = {n: _told(v, []) for n, v in value.items() if n not in (*without, "block_type_slug")}
    return {n: v for n, v in parts.items() if v not in (None, "", {}, [])}
