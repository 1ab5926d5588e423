"""`prefect-coiled blocks`: the blocks that are kept as documents, and what is in Prefect of them."""

from __future__ import annotations

from typing import Annotated

import typer

from prefect_coiled.cli.common import show
from prefect_coiled.cli.declare import JsonOption, command


@command("blocks apply")
def apply(
    files: Annotated[
        list[str] | None, typer.Argument(help="Documents, or folders of them; blocks/ if not given.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; save nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register the block types and save the blocks of YAML documents. Run again, it changes nothing.

    Secrets come from the environment: a document says ${NAME} where one belongs.
    """
    from prefect_coiled.blocks.documents import apply_documents, find_files, read_document

    applied = apply_documents([read_document(path) for path in find_files(files or ())], dry_run)
    rows = ((f"{one.type}/{one.name}", one.state, str(one.path)) for one in applied)
    after = [f"{one.type}/{one.name} {change}" for one in applied for change in one.changes]
    after += [one.remark for one in applied if one.remark]
    after += ["Nothing was saved."] if dry_run else []
    show([one.row() for one in applied], as_json, ("BLOCK", "STATE", "FILE"), rows, after=after)
