"""`prefect-coiled costs`: what clusters have cost, by flow and so on; also those that are gone."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from prefect_coiled.cli.common import past, show
from prefect_coiled.cli.declare import At, JsonOption, command
from prefect_coiled.cli.places import Everywhere

if TYPE_CHECKING:
    from prefect_coiled.plan.spending import Known


@command("costs")
def show_costs(
    at: Everywhere,
    by: Annotated[str, typer.Option(help="flow, cluster, account, creator or day.")] = "flow",
    since: Annotated[str, typer.Option(help='Since when: "7d", or a time such as 2026-01-31T09:00.')] = "7d",
    as_json: JsonOption = False,
) -> None:
    """Show what clusters have cost since a moment, by the flow that launched them; gone ones too.

    By AWS's prices as a cluster is launched, from what each scheduler's machine writes down while it runs.
    Records are kept for 30 days. What runs, and what it costs an hour, is `cost`.
    """
    from prefect_coiled.aws.cost_records import find_records
    from prefect_coiled.aws.logs import RETENTION_DAYS
    from prefect_coiled.errors import OptionsError
    from prefect_coiled.options.base import near
    from prefect_coiled.plan.prices import usd
    from prefect_coiled.plan.spending import UNITS, spent

    if by not in UNITS:
        raise OptionsError(f"--by {by!r}", f"it is one of {', '.join(UNITS)}.", near(by, UNITS))
    now = datetime.now(timezone.utc)
    begin = past(since, now)

    def look(one: At) -> list[Known]:
        return find_records(one.aws, begin, now)

    rows = spent([known for _, known in at.each(look)], by, begin, now)
    shown = [
        (
            row.what,
            str(row.clusters),
            str(row.running),
            f"{row.machine_hours:.2f}",
            usd(row.usd) + (" and more" if row.unpriced else ""),
        )
        for row in rows
    ]
    if rows:
        total = sum(row.usd for row in rows)
        shown.append(("total", "", "", f"{sum(row.machine_hours for row in rows):.2f}", usd(total)))
    after = [
        "By the prices that held as each cluster was launched, without tax, data transfer and logs. "
        f"Since {begin:%Y-%m-%d %H:%M} UTC."
    ]
    if unpriced := sorted({kind for row in rows for kind in row.unpriced}):
        after.append(f"The price of {', '.join(unpriced)} is not known, and not in it.")
    if others := sorted({region for row in rows for region in row.prices_of}):
        after.append(
            f"Of clusters whose region's prices were not known, those of {', '.join(others)} are counted."
        )
    none = f"No cluster of {at.whose} has written down what it costs since {begin:%Y-%m-%d %H:%M} UTC"
    if now - begin > timedelta(days=RETENTION_DAYS):
        after.append(f"Records are kept for {RETENTION_DAYS} days.")
    if not at.all_regions:
        elsewhere = "Other regions were not looked at: give --all-regions."
        after.append(elsewhere)
        none += f"\n{elsewhere}"
    listed = [row.told(by) for row in rows]
    columns = (by.upper(), "CLUSTERS", "RUNNING", "MACHINE HOURS", "COST")
    show(listed, as_json, columns, shown, none=none, after=after)
    at.end()
