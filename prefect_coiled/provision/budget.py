"""How an account stands to its monthly budget, in all regions together. Reads only."""

from __future__ import annotations

from datetime import datetime, timezone

from prefect_coiled import events
from prefect_coiled.aws import instances
from prefect_coiled.aws.cost_records import find_records
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.price_list import find_prices
from prefect_coiled.errors import AccessDeniedError, UnavailableError
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.options.models import REGIONS
from prefect_coiled.plan.budget import Standing, standing
from prefect_coiled.plan.spending import Known, month_of


def find_standing(aws: Aws, budget: float, now: datetime | None = None) -> Standing:
    """Look up what an account's clusters have cost this month.

    Of this region's clusters AWS's list counts, where that is more than they have written down: they may have
    grown since; one without a record, in its first minutes, counts without its disks. In another region,
    where policies may not reach, what is denied is said, and not counted.

    Raises:
        AwsError: If AWS does not say it.
    """
    now = now or datetime.now(timezone.utc)
    begin = month_of(now)

    def look(region: str) -> list[Known] | None:
        try:
            return find_records(aws if region == aws.region else aws.beside(region, aws.stop), begin, now)
        except (AccessDeniedError, UnavailableError):
            if region == aws.region:
                raise
            return None

    regions = list(dict.fromkeys((aws.region, *REGIONS)))
    answers = dict(zip(regions, side_by_side(look, regions, len(regions)), strict=True))
    found = [one for records in answers.values() for one in records or ()]
    machines = instances.find_instances(aws, states=instances.RUNS)
    prices = find_prices(aws, (machine.instance_type for machine in machines))
    listed: dict[str, tuple[int, float]] = {}
    for machine in machines:
        count, rate = listed.get(machine.cluster_uid, (0, 0.0))
        price = prices.machine(machine.instance_type) or 0.0
        price += prices.surplus(machine.instance_type) + prices.beside(public=bool(machine.public_ip))
        listed[machine.cluster_uid] = count + 1, rate + price
    return standing(
        aws.account,
        budget,
        found,
        now,
        listed=listed,
        not_seen=tuple(region for region, records in answers.items() if records is None),
    )


def hold_to_budget(aws: Aws, budget: float, what: str, usd_per_hour: float) -> None:
    """See that a month's budget leaves room for something, and say how the account stands.

    Args:
        what: What is asked for, such as "launching cluster 'nightly'".
        usd_per_hour: What it costs an hour.

    Raises:
        OptionsError: There is no room.
    """
    found = find_standing(aws, budget)
    events.step("budget", str(found))
    found.hold(what, usd_per_hour)
