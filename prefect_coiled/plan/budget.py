"""What an account's clusters may cost in a calendar month, and whether one more goes with that. Pure.

What was spent is by the clusters' own records (`plan.spending`). What runs, and what is to be launched, is
counted for some time more: without that, a launch at the last cent would always be let through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.prices import usd
from prefect_coiled.plan.spending import Known, courses, month_of

# Hours for which what runs and what is launched is counted in advance.
AHEAD_HOURS = 1.0


def read_budget(text: str) -> float | None:
    """The US dollars that a field says; None for a blank one.

    Raises:
        OptionsError: It is no amount of more than 0.
    """
    if not text.strip():
        return None
    try:
        value = float(text.strip().removeprefix("$"))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise OptionsError(
            f"monthly_budget {text!r}",
            "it is US dollars a month, more than 0.",
            'Write "200" for 200 dollars; leave it empty for no budget.',
        )
    return value


def write_budget(value: float) -> str:
    """US dollars as a field has them: all digits, and no power of ten."""
    text = f"{Decimal(str(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Standing(NamedTuple):
    """How an account stands to its budget.

    Attributes:
        budget: US dollars a month.
        since: When the month began.
        spent: US dollars since then.
        usd_per_hour: What runs costs an hour.
        not_seen: Regions in which what was spent is not to be seen.
        unpriced: Instance types of clusters whose price is not known; they are in neither sum.
        prices_of: Regions whose prices were counted with for clusters of others.
    """

    account: str
    budget: float
    since: datetime
    spent: float
    usd_per_hour: float
    not_seen: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    prices_of: tuple[str, ...] = ()

    def told(self) -> dict[str, object]:
        """For programs."""
        spent = {"spent": self.spent, "usd_per_hour": self.usd_per_hour, "not_seen": list(self.not_seen)}
        spent |= {"unpriced": list(self.unpriced), "prices_of": list(self.prices_of)}
        return {"budget": self.budget, "since": self.since.isoformat(), **spent}

    @property
    def _since(self) -> str:
        return f"{self.since:%Y-%m-%d} (UTC)"

    def __str__(self) -> str:
        text = f"Monthly budget {usd(self.budget)}: {usd(self.spent)} is spent since {self._since}"
        text += f", and what runs costs {usd(self.usd_per_hour)} an hour"
        if self.not_seen:
            text += f"; not to be seen: what was spent in {', '.join(self.not_seen)}"
        if self.unpriced:
            text += f"; the price of {', '.join(self.unpriced)} is not known, and not in it"
        if self.prices_of:
            text += f"; where a region's prices were not known, those of {', '.join(self.prices_of)} count"
        return f"{text}."

    def hold(self, what: str, usd_per_hour: float) -> None:
        """See that something goes with the budget.

        Args:
            what: What is asked for, such as "launching cluster 'nightly'".
            usd_per_hour: What it costs an hour.

        Raises:
            OptionsError: It does not; says all numbers.
        """
        total = self.spent + AHEAD_HOURS * (self.usd_per_hour + usd_per_hour)
        if total <= self.budget:
            return
        raise OptionsError(
            what,
            f"account {self.account} has spent {usd(self.spent)} of its monthly budget of {usd(self.budget)} "
            f"since {self._since}. What runs costs {usd(self.usd_per_hour)} an hour and this at most "
            f"{usd(usd_per_hour)}: with an hour of both it is {usd(total)}, at list prices",
            "Ask for fewer or smaller machines, stop what runs (`prefect-coiled ls`), or raise the budget: "
            f"`prefect-coiled account edit {self.account} --monthly-budget ...`.",
        )


def standing(
    account: str,
    budget: float,
    found: Iterable[Known],
    now: datetime,
    *,
    listed: Mapping[str, tuple[int, float]] = {},
    not_seen: tuple[str, ...] = (),
) -> Standing:
    """How an account stands, by the records of its clusters.

    Args:
        listed: By uid, how many machines AWS lists, and what they cost an hour on demand, in US dollars.
    """
    begin = month_of(now)
    spent, rates = 0.0, {uid: rate for uid, (_, rate) in listed.items()}
    seen = courses(found, now)
    for (_, _, uid), course in seen.items():
        spent += course.until(now)[0] - course.until(begin)[0]
        if course.runs(now):
            # A record knows the prices of spot machines; more machines cost as much more.
            last, count = course.last, listed.get(uid, (0, 0.0))[0]
            rates[uid] = last.usd_per_hour * max(1.0, count / last.machines if last.machines else 1.0)
    running = sum(rates.values())
    records = [course.last for course in seen.values() if course.points[-1][0] >= begin]
    unpriced = tuple(sorted({kind for one in records for kind in one.unpriced}))
    prices_of = tuple(sorted({one.prices_of for one in records if one.prices_of}))
    return Standing(account, budget, begin, spent, running, not_seen, unpriced, prices_of)
