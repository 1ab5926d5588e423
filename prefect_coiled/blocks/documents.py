"""Blocks as code: YAML documents, one a block, checked by the block's own class and saved to Prefect.

    type: ec2-dask-account        # the account block if not said
    name: my-team                 # the file's name if not said
    fields:
      region: eu-west-1
      aws_credentials:
        aws_access_key_id: ${MY_TEAM_KEY_ID}
        aws_secret_access_key: ${MY_TEAM_SECRET}
      registry: {block: ec2-dask-registry/hub}

`${NAME}` is an environment variable, `${NAME:-text}` the same with a default; `{block: TYPE/NAME}` is a block
that Prefect has. Secrets are never written in a document. May not make anything in AWS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect.blocks.core import Block
from prefect.types.names import BlockDocumentName
from prefect_aws import AwsCredentials
from pydantic import TypeAdapter, ValidationError

from prefect_coiled.blocks.account import Ec2DaskAccount
from prefect_coiled.blocks.asking import asking
from prefect_coiled.blocks.base import what_is_wrong
from prefect_coiled.blocks.changes import Change, changes_between, leaves
from prefect_coiled.blocks.editing import stays_behind
from prefect_coiled.blocks.loading import account_slug, find_document
from prefect_coiled.blocks.registry import Ec2DaskRegistry
from prefect_coiled.dask_files import yaml_content
from prefect_coiled.errors import OptionsError
from prefect_coiled.internals.prefect import block_of, saved_as
from prefect_coiled.options.base import SOUNDS_SECRET, check_known
from prefect_coiled.options.kinds import shown

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# In the order in which they are saved: an account may name one of the others.
TYPES: dict[str, type[Block]] = {
    cls.get_block_type_slug(): cls for cls in (AwsCredentials, Ec2DaskRegistry, Ec2DaskAccount)
}
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")
_ALONE = re.compile(r"\$\{[A-Za-z_]\w*(?::-)?\}")
_NAME = TypeAdapter(BlockDocumentName)
_NAME_THEM = "Name the documents to apply."
_HOW = "Write ${NAME} there, and set NAME in the environment."


@dataclass(frozen=True)
class Document:
    """One block as it is written down, with its variables filled in. Not printed: it may hold secrets."""

    path: Path
    type: str
    name: str
    fields: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Applied:
    """What became of a document.

    Attributes:
        remark: What the change leaves in AWS, in a sentence; empty for nothing.
    """

    path: Path
    type: str
    name: str
    state: Literal["created", "changed", "unchanged"]
    changes: tuple[Change, ...] = ()
    remark: str = ""

    def row(self) -> dict[str, Any]:
        """The same as plain values."""
        changes = [{"field": c.field, "before": c.before, "after": c.after} for c in self.changes]
        return {
            "file": str(self.path),
            "type": self.type,
            "name": self.name,
            "state": self.state,
            "changes": changes,
            "remark": self.remark,
        }


def find_files(names: Sequence[str] = ()) -> list[Path]:
    """The documents that are meant: these files, those in these folders, by default those in `blocks/`.

    Raises:
        OptionsError: If there is none, or a name is blank: as a path, that would be the folder one is in.
    """
    found: list[Path] = []
    for name in names:
        if not name.strip():
            raise OptionsError(f"document {name!r}", "is blank.", _NAME_THEM)
    looked_at = [Path(name) for name in names or ("blocks",)]
    for path in looked_at:
        try:
            if path.is_dir():
                found += sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml"))
            elif path.exists():  # not only a file: a shell gives what a program writes as a pipe
                found.append(path)
            else:
                raise OptionsError(str(path), "there is no such file or folder.", _NAME_THEM)
        except OSError as error:
            raise _unreadable(path, error) from error
    if not found:
        where = ", ".join(map(str, looked_at))
        raise OptionsError(where, "there is no .yaml document.", _NAME_THEM)
    return found


def read_document(path: Path, environ: Mapping[str, str] | None = None) -> Document:
    """Read a document and fill in its variables.

    Args:
        environ: The variables; the process's own by default.

    Raises:
        OptionsError: If it is no such document, holds a secret, or names a variable that is not set.
    """
    content = _content(path)
    if not isinstance(content, dict) or not isinstance(content.get("fields"), dict):
        raise OptionsError(str(path), "it has no `fields`.", "See blocks/ for examples.")
    check_known(content, ("type", "name", "fields"), f"{path}: {{}}", "there is no such key.")
    kind = content.get("type", Ec2DaskAccount.get_block_type_slug())
    check_known([kind], list(TYPES), f"{path}: type {{}}", "is not one of ours.")
    _refuse_circles(path, content["fields"])
    _refuse_secrets(path, kind, content["fields"])
    said = content.get("name")
    name = _checked_name(path, TYPES[kind], path.stem if said is None else said)
    filled = _filled(path, content["fields"], os.environ if environ is None else environ)
    return Document(path, kind, name, filled)


def _content(path: Path) -> Any:
    """What a document says, as plain values.

    Raises:
        OptionsError: It cannot be read, or is no YAML.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return yaml_content(path, text)


def _unreadable(path: Path, error: OSError) -> OptionsError:
    return OptionsError(str(path), f"cannot be read: {error.strerror or error}.", _NAME_THEM)


def _checked_name(path: Path, kind: type[Block], name: Any) -> str:
    """The name of a block, by Prefect's own rule; an account's is a slug, too.

    Raises:
        OptionsError: It is none.
    """
    if kind is Ec2DaskAccount:
        try:
            return account_slug(name)
        except OptionsError as error:
            d = error.diagnosis
        raise OptionsError(f"{path}: {d.what}", d.why, "See `name` in it.")
    try:
        # A number is a name that lacks its quotes.
        return str(_NAME.validate_python(str(name) if type(name) is int else name))
    except ValidationError:
        raise OptionsError(
            f"{path}: name {shown(name)}", "must be of lower-case letters, digits and dashes."
        ) from None


def apply_documents(documents: Iterable[Document], dry_run: bool = False) -> list[Applied]:
    """Register the block types, and save what is not there or not as its document says.

    Everything is checked before anything is saved. Run again, it changes nothing.

    Args:
        dry_run: Whether to say what would change, and to save nothing.

    Raises:
        OptionsError: If a document is wrong; nothing was saved.
    """
    order = list(TYPES)
    listed = sorted(documents, key=lambda d: order.index(d.type))
    twice = {
        (d.type, d.name) for d in listed if [(o.type, o.name) for o in listed].count((d.type, d.name)) > 1
    }
    if twice:
        kind, name = sorted(twice)[0]
        raise OptionsError(f"{kind}/{name}", "two documents say what it is.", "Keep one of them.")
    with asking("blocks") as client:
        new = _Blocks(client, listed)
        blocks = [new.make(d) for d in listed]
        if not dry_run:
            for cls in (Ec2DaskRegistry, Ec2DaskAccount):
                register: Any = cls.register_type_and_schema
                register(_sync=True)
        return [_apply(client, d, b, dry_run) for d, b in zip(listed, blocks, strict=True)]


class _Blocks:
    """Makes blocks of documents; those that they name come from the other documents or from Prefect."""

    def __init__(self, client: SyncPrefectClient, documents: Iterable[Document]) -> None:
        self._client = client
        self._documents = {f"{d.type}/{d.name}": d for d in documents}
        self._made: dict[str, Block] = {}

    def make(self, document: Document) -> Block:
        """The block of a document, checked by its class; the same one for the same document."""
        key = f"{document.type}/{document.name}"
        if key not in self._made:
            fields = {name: self._value(document, value) for name, value in document.fields.items()}
            self._made[key] = _checked(document, fields)
        return self._made[key]

    def _value(self, document: Document, value: Any) -> Any:
        if not isinstance(value, dict) or set(value) != {"block"}:
            return value
        named = str(value["block"])
        if named in self._documents and self._documents[named] is not document:
            return self.make(self._documents[named])
        kind, _, name = named.partition("/")
        cls = TYPES.get(kind)
        found = find_document(self._client, cls, name) if cls and name else None
        if cls is None or found is None:
            raise OptionsError(
                f"{document.path}: block {named!r}",
                "Prefect has no such block.",
                f"It is TYPE/NAME, with one of: {', '.join(TYPES)}.",
            )
        try:
            return block_of(cls, found)
        except Exception as error:
            d = what_is_wrong(cls, error, found.data).diagnosis
        raise OptionsError(f"{document.path}: block {named!r}: {d.what}", d.why, d.next_step)


def _checked(document: Document, fields: Mapping[str, Any]) -> Block:
    cls = TYPES[document.type]
    try:
        return cls(**fields)
    except Exception as error:
        d = what_is_wrong(cls, error, fields).diagnosis
    raise OptionsError(f"{document.path}: {d.what}", d.why, d.next_step)


def _apply(client: SyncPrefectClient, document: Document, block: Block, dry_run: bool) -> Applied:
    found = find_document(client, type(block), document.name)
    before: dict[str, Any] = {}
    remark = ""
    if found is not None:
        try:
            saved = block_of(type(block), found)
            before = dict(leaves(saved))
        except Exception:
            before = {"": "not valid"}  # saved by the form, which checks nothing
        else:
            if isinstance(saved, Ec2DaskAccount) and isinstance(block, Ec2DaskAccount):
                remark = stays_behind(saved, block, document.name)
    changes = changes_between(before, dict(leaves(block)))
    if found is not None and not changes:
        # A block that another document names must be known by its id all the same.
        saved_as(block, found)
        return Applied(document.path, document.type, document.name, "unchanged")
    if not dry_run:
        save: Any = block.save  # Prefect's types do not know `_sync`
        save(document.name, overwrite=True, _sync=True)
    if found is None:
        return Applied(document.path, document.type, document.name, "created")
    return Applied(document.path, document.type, document.name, "changed", changes, remark)


def _refuse_circles(path: Path, value: Any, above: tuple[int, ...] = ()) -> None:
    """Refuse a part that is a part of itself, as an anchor can make one: it has no end."""
    if id(value) in above:
        raise OptionsError(str(path), "an anchor in it stands within what it names.", "Write it out.")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_circles(path, part, (*above, id(value)))


def _refuse_secrets(path: Path, kind: str, fields: Mapping[str, Any]) -> None:
    secret = set(TYPES[kind].model_json_schema().get("secret_fields", ()))
    for name, value in _texts(fields):
        sensitive = name in secret or SOUNDS_SECRET.search(name.rpartition(".")[2])
        if sensitive and value and not _ALONE.fullmatch(str(value)):
            raise OptionsError(f"{path}: {name}", "a secret is written there in clear.", _HOW)


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _texts(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, path)
    else:
        yield path, value


def _filled(path: Path, value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _filled(path, v, environ) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(path, v, environ) for v in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        name, default = found.groups()
        text = environ.get(name) or default
        if text is None:
            raise OptionsError(
                f"{path}: ${{{name}}}", "this environment variable is not set.", f"Set {name}."
            )
        return text

    return _VARIABLE.sub(fill, value)
