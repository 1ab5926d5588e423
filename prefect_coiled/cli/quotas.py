"""`prefect-coiled quotas`: what AWS allows the AWS account in a region, and what is used of it."""

from __future__ import annotations

from typing import Annotated

import typer

from prefect_coiled.cli.common import (
    AccountOption,
    JsonOption,
    RegionOption,
    door,
    out,
    print_json,
    table,
    told,
    where,
)


@told
def show_quotas(
    account: AccountOption = None,
    region: RegionOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those of machines that nothing runs of and that are 0.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what AWS allows the AWS account in a region, what is used, and where to ask for more.

    What is used counts everything in the AWS account, whoever made it. `check` says how many workers fit.
    """
    from prefect_coiled.aws.quotas import find_uses

    loaded, aws = door(account, region)
    found = find_uses(aws)
    if as_json:
        print_json([one.model_dump() for one in found])
        return
    console = out()
    console.print(f"Account {loaded.slug} in {aws.region}{where(loaded)}")
    rows = table("QUOTA", "CODE", "ALLOWED", "USED", "ASK FOR MORE")
    for one in found:
        if not everything and one.unit and not one.used and not one.limit:
            continue
        limit = "unknown" if one.limit is None else f"{one.limit:g} {one.unit}".strip()
        rows.add_row(one.name, one.code, limit, str(one.used), one.console)
    console.print(rows)
