"""Finds the account that is meant: by slug, by `coiled.yaml`, or the sandbox when there is none.

May not make anything in AWS. Works with and without a running event loop, in flows, and without a
configured Prefect API.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from prefect_coiled.aws.credentials import ADMINISTRATOR, CredentialSource
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.blocks.account import Ec2DaskAccount, account_layer, credential_source
from prefect_coiled.blocks.asking import (
    ask,
    asking,
    documents_of,
    nothing_was_saved,
    told_in_a_line,
    unheard,
)
from prefect_coiled.blocks.base import age_of, what_is_wrong
from prefect_coiled.blocks.masked import keep_named
from prefect_coiled.errors import AccountError, sentences
from prefect_coiled.install import has_sandbox, how
from prefect_coiled.internals.prefect import block_of, name_of
from prefect_coiled.options import cluster_defaults
from prefect_coiled.options.base import near
from prefect_coiled.plan.budget import read_budget

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import PrefectClient, SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument

logger = logging.getLogger(__name__)

DEFAULT_ACCOUNT = "default"
# What was said of regions, by account.
_said: set[tuple[str, str]] = set()
# An account's slug names an IAM role (at most 64 characters) and a block document.
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


def load_account(slug: str | None = None) -> Account:
    """Load an account.

    Args:
        slug: Its name. By default `coiled.account` of `coiled.yaml`, else "default". Where no block
            is named "default", that account is the sandbox, which is started if need be.

    Raises:
        AccountError: There is no such account, or it cannot be used. Nothing was made.
    """
    slug = account_slug(slug)
    found = _read(slug)
    if not isinstance(found, list):
        return account_from_block(_validated(found), slug)
    if slug == DEFAULT_ACCOUNT:
        return replace(_sandbox_account(slug, {}, {}), instead_of=tuple(found))
    raise _missing(slug, found)


def saved_block(slug: str) -> Ec2DaskAccount | None:
    """The account block that is saved under the slug, with its secrets; None where there is none.

    Raises:
        AccountError: The Prefect API could not be asked, or what is saved is not right.
    """
    found = _read(slug)
    return None if isinstance(found, list) else _validated(found)


def replaced_block(slug: str, anew: Collection[str]) -> Ec2DaskAccount | None:
    """The same, of what is about to be replaced in part: where that part is not right, without it.

    Args:
        anew: What is given anew, of "aws_credentials" and "registry".

    Raises:
        AccountError: The Prefect API could not be asked, or what else is saved is not right.
    """
    found = _read(slug)
    if isinstance(found, list):
        return None
    try:
        return _validated(found)
    except AccountError as error:
        known = error
    if not anew:
        raise known
    fields = {n: v for n, v in found.data.items() if n not in anew}
    if "aws_credentials" in anew:
        saved = found.data.get("aws_credentials")
        where = saved.get("aws_client_parameters") if isinstance(saved, Mapping) else None
        fields["aws_credentials"] = {"aws_client_parameters": where} if where else {}
    try:
        return Ec2DaskAccount(**fields)
    except Exception:
        raise known from None


async def aload_account(slug: str | None = None) -> Account:
    """The same as `load_account`, without blocking the event loop."""
    return await asyncio.to_thread(load_account, slug)


def account_from_block(block: Ec2DaskAccount, slug: str | None = None) -> Account:
    """The account of a block that is at hand, for example as a parameter of a flow.

    Args:
        slug: The account's name; by default the name under which the block was saved.

    Raises:
        AccountError: The block was never saved and no slug is given, or the sandbox is missing.
    """
    slug = name_of(block) if slug is None else account_slug(slug)
    if not slug:
        raise AccountError("account", "its block has no name yet.", 'Save it: account.save("my-team").')
    if lacking := [name for name in Ec2DaskAccount.model_fields if getattr(block, name) is None]:
        raise AccountError(
            f"account {slug!r}", f"its block lacks {', '.join(lacking)}.", "Set it, and save it again."
        )
    layer = account_layer(block)
    boundary, budget = block.permissions_boundary.strip(), read_budget(block.monthly_budget)
    if block.sandbox:
        made = _sandbox_account(slug, layer, block.tags)
        return replace(made, permissions_boundary=boundary, monthly_budget=budget)
    _say_region(block, slug)
    return Account(
        slug=account_slug(slug),
        options=layer,
        credentials=credential_source(block),
        endpoint_url=block.aws_credentials.aws_client_parameters.endpoint_url or None,
        tags=dict(block.tags),
        permissions_boundary=boundary,
        monthly_budget=budget,
    )


def _say_region(block: Ec2DaskAccount, slug: str) -> None:
    """Say once that the credentials' own region is not used; one block of them may serve several accounts."""
    other = block.aws_credentials.region_name or ""
    if other not in ("", block.region) and (slug, other) not in _said:
        _said.add((slug, other))
        logger.warning(
            "Account %s: its region is %s; region_name %s of its AWS credentials is not used.",
            slug,
            block.region,
            other,
        )


def find_accounts() -> list[BlockDocument]:
    """The documents of all account blocks, by name; their secrets stay hidden.

    Raises:
        AccountError: The Prefect API could not be asked.
    """
    if nothing_was_saved():
        return []
    return ask("accounts", _documents)


def account_slug(slug: str | None = None) -> str:
    """The slug that is meant: the given one, that of `coiled.yaml`, or "default".

    Raises:
        AccountError: If it cannot be one, or is blank: nobody who names an account means another one.
    """
    name = cluster_defaults().get("account", DEFAULT_ACCOUNT) if slug is None else slug
    if isinstance(name, str) and not name.strip():
        raise AccountError(f"account {name!r}", "is blank.", "Leave it out for the default one, or name one.")
    if not isinstance(name, str) or not _SLUG.fullmatch(name):
        raise AccountError(
            f"account {name!r}", "must be of lower-case letters, digits and dashes, at most 64 characters."
        )
    return name


def delete_account(slug: str) -> bool:
    """Delete the block document of an account. Returns whether it was there.

    Raises:
        AccountError: The Prefect API could not be asked.
    """
    if nothing_was_saved():
        return False
    with asking(f"account {slug!r}") as client:
        document = find_document(client, Ec2DaskAccount, slug)
        if document is None:
            return False
        client.delete_block_document(document.id)
    return True


def _read(slug: str) -> BlockDocument | list[str]:
    """The block document, or the names of those that there are; synchronously, whatever is running."""
    if nothing_was_saved():
        return []
    return ask(f"account {slug!r}", partial(_document_or_names, slug=slug))


def find_document(client: SyncPrefectClient, kind: type[Block], name: str) -> BlockDocument | None:
    """The document of a block, with its secrets; None if there is none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_block_document_by_name(name=name, block_type_slug=kind.get_block_type_slug())
    except ObjectNotFound:
        return None


async def _documents(client: PrefectClient) -> list[BlockDocument]:
    found = await documents_of(client, Ec2DaskAccount)
    return sorted((d for d in found if d.name), key=lambda d: str(d.name))


async def _document_or_names(client: PrefectClient, slug: str) -> BlockDocument | list[str]:
    from prefect.exceptions import ObjectNotFound

    kind = Ec2DaskAccount.get_block_type_slug()
    try:
        return await client.read_block_document_by_name(name=slug, block_type_slug=kind)
    except ObjectNotFound:
        return [str(d.name) for d in await _documents(client)]


def save_block(block: Ec2DaskAccount, slug: str) -> None:
    """Save an account's block under its slug.

    Raises:
        AccountError: The Prefect API could not be asked.
    """
    save: Any = block.save  # Prefect's types do not know `_sync`
    with told_in_a_line(f"account {slug!r}"):
        save(slug, overwrite=True, _sync=True)


def _validated(document: BlockDocument) -> Ec2DaskAccount:
    """The block of a document; Prefect's own error would hide what is wrong with it."""
    try:
        with unheard():
            block = block_of(Ec2DaskAccount, document)
    except Exception as error:
        d = what_is_wrong(Ec2DaskAccount, error, document.data).diagnosis
    else:
        keep_named(document, block)
        return block
    age = age_of(Ec2DaskAccount, document)
    raise AccountError(f"account {document.name!r}: {d.what}", d.why, sentences(d.next_step, age))


def _missing(slug: str, names: list[str]) -> AccountError:
    there = f"there is: {', '.join(names)}" if names else "there is none yet"
    return AccountError(
        f"account {slug!r}",
        f"no block of that name ({there}).",
        near(slug, names)
        or f"Run `prefect-coiled setup aws --account {slug}`, or make the block in the Prefect UI.",
    )


def _sandbox_account(slug: str, layer: dict[str, Any], tags: dict[str, str]) -> Account:
    import importlib

    hint = f"{how('sandbox')} Or name an account of your own."
    if not has_sandbox():
        raise AccountError(f"account {slug!r}", "runs in the sandbox, which needs moto.", hint)
    try:
        sandbox = importlib.import_module("prefect_coiled.sandbox")
        info = sandbox.ensure_started()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("prefect_coiled"):
            raise
        raise AccountError(
            f"account {slug!r}", f"runs in the sandbox, which needs {error.name}.", hint
        ) from error
    return Account(
        slug=slug,
        options=layer,
        credentials=CredentialSource(
            access_key_id=ADMINISTRATOR, secret_access_key=SecretStr(info.secret_access_key)
        ),
        endpoint_url=info.endpoint,
        sandbox=info,
        tags=dict(tags),
    )
