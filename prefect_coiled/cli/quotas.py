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
    """
    from prefect_coiled.aws.quotas import find_uses

    found = find_uses(at.aws)
    rows = [
        (one.name, one.code, "unknown", str(one.used), one.console)
        if one.limit is None
        else (one.name, one.code, f"{one.limit:g} {one.unit}".strip(), str(one.used), one.console)
        for one in found
        if everything or not one.unit or one.used or one.limit
    ]
    columns = ("QUOTA", "CODE", "ALLOWED", "USED", "ASK FOR MORE")
    show(found, as_json, columns, rows, before=f"Account {at.loaded.slug} in {at}")
