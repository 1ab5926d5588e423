"""`prefect-coiled quotas`: what AWS allows the AWS account in a region, and what is used of it."""

from __future__ import annotations

from typing import Annotated

import typer

from prefect_coiled.cli.common import At, JsonOption, show, told


@told
def show_quotas(
    at: At,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those of machines that nothing runs of and that are 0.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what AWS allows the AWS account in a region, what is used, and where to ask for more.

    What is used counts everything in the AWS account, whoever made it. `check` says how many workers fit.
    The exit code is 1 where AWS does not let something be read.
    """
    from prefect_coiled.aws.quotas import find_uses

    found = find_uses(at.aws)
    rows = [
        (
            one.name,
            one.code,
            "unknown" if one.limit is None else f"{one.limit:g} {one.unit}".strip(),
            "unknown" if one.used is None else str(one.used),
            one.console,
        )
        for one in found
        if everything or not one.unit or one.used or one.limit or one.unknown
    ]
    columns = ("QUOTA", "CODE", "ALLOWED", "USED", "ASK FOR MORE")
    why = list(dict.fromkeys(one.unknown for one in found if one.unknown))
    before = f"Account {at.loaded.slug} in {at}"
    show(found, as_json, columns, rows, before=before, after=[f"Unknown: {one}" for one in why])
    if why:
        raise typer.Exit(1)
