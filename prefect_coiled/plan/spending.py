"""What clusters have cost, from the records that their schedulers write: also of those that are gone. Pure.

A record says what a cluster has cost from its launch until then, and until when the next one comes. So of a
cluster whose scheduler ended without a last word no more is guessed than one such span, at what it cost then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from pydantic import ConfigDict, ValidationError, field_validator

from prefect_coiled.records import Record

# Log streams of records begin so, as those do that the machines' role may write; no machine's id does.
STREAMS = "i-costs/"
# Seconds between two records: at first, and later. The scheduler's machine is asked to write no oftener.
EARLY_S, LATER_S = (15.0, 60.0, 120.0), 300.0
# Seconds by which the clock of a machine may be ahead.
_AHEAD_S = 600.0
# Seconds by which a record may be late at least: it is sent with others, and found a while after that.
_LATE_S = 60.0
# No cluster costs so many US dollars an hour: whoever says so did not count.
_MOST_USD_AN_HOUR = 1e6

NO_FLOW = "(no flow)"
UNITS = ("flow", "cluster", "account", "creator", "day")


class CostRecord(Record):
    """What a cluster had cost at a moment; what a later version says beside that is left out.

    Attributes:
        flow: The flow that launched it; empty where none did.
        since: When its scheduler was launched.
        usd: US dollars from then on, by list prices, on demand.
        usd_per_hour: What it cost an hour at that moment.
        machines: How many ran then.
        machine_hours: How long its machines ran, all together.
        good_for: Seconds until the next record; 0 for the last one.
        unpriced: Instance types whose price is not known; they are not in `usd`.
        prices_of: The region whose prices were counted with, where it is another one than the cluster's.
    """

    model_config = ConfigDict(extra="ignore")

    cluster: str
    uid: str
    flow: str = ""
    creator: str = ""
    since: datetime
    at: datetime
    usd: float
    usd_per_hour: float
    machines: int = 0
    machine_hours: float = 0.0
    good_for: float = 0.0
    unpriced: tuple[str, ...] = ()
    prices_of: str = ""

    @field_validator("usd", "usd_per_hour", "machines", "machine_hours", "good_for")
    @classmethod
    def _an_amount(cls, value: float) -> float:
        if not (math.isfinite(value) and 0 <= value < 1e9):
            raise ValueError("is no amount")
        return value

    @field_validator("since", "at")
    @classmethod
    def _a_moment(cls, value: datetime) -> datetime:
        if value.tzinfo is None:
            raise ValueError("has no time zone")
        return value

    def encode(self) -> str:
        """As a line of a log."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def decode(cls, text: str, now: datetime) -> CostRecord | None:
        """Read what `encode` wrote; None for what no scheduler can have written.

        Whoever is a machine of the account may write there, so nothing of it is believed unseen.
        """
        try:
            found = cls.model_validate_json(text)
        except (ValidationError, ValueError):
            return None
        hours = (found.at - found.since).total_seconds() / 3600
        possible = hours >= 0 and found.usd <= _MOST_USD_AN_HOUR * (hours + 1)
        return found if possible and (found.at - now).total_seconds() <= _AHEAD_S else None


class Known(NamedTuple):
    """A record, with the account and the region in which it was found."""

    account: str
    region: str
    record: CostRecord


class Spent(NamedTuple):
    """What was spent on something.

    Attributes:
        what: A flow, a cluster, an account, a creator, or a day (UTC).
        clusters: How many clusters that was.
        running: How many of them had not said that they ended.
        unpriced: Instance types whose price is not known.
        prices_of: Regions whose prices were counted with for clusters of others.
    """

    what: str
    clusters: int
    running: int
    machine_hours: float
    usd: float
    unpriced: tuple[str, ...]
    prices_of: tuple[str, ...] = ()

    def told(self, by: str) -> dict[str, object]:
        """For programs, with what it is for under that name."""
        rest = {"machine_hours": self.machine_hours, "usd": self.usd, "unpriced": self.unpriced}
        rest |= {"prices_of": self.prices_of}
        return {by: self.what, "clusters": self.clusters, "running": self.running, **rest}


class Course(NamedTuple):
    """What one cluster cost over time: its newest record, and points (moment, US dollars, machine hours)."""

    last: CostRecord
    points: tuple[tuple[datetime, float, float], ...]

    def until(self, moment: datetime) -> tuple[float, float]:
        """US dollars and machine hours from the launch until then; between two records in proportion."""
        before = self.points[0]
        if moment <= before[0]:
            return 0.0, 0.0
        for point in self.points:
            if point[0] > moment:
                span = (point[0] - before[0]).total_seconds()
                part = (moment - before[0]).total_seconds() / span
                return before[1] + part * (point[1] - before[1]), before[2] + part * (point[2] - before[2])
            before = point
        return before[1], before[2]

    def runs(self, now: datetime) -> bool:
        """Whether, for all that it said, it still runs: its next record may be late, or one may be lost."""
        late = timedelta(seconds=self.last.good_for + max(self.last.good_for, _LATE_S))
        return self.last.good_for > 0 and self.last.at + late >= now


def course_of(records: Iterable[CostRecord], now: datetime) -> Course:
    """The course of one cluster, from its records in any order, up to now."""
    listed = sorted(records, key=lambda one: one.at)
    last = listed[-1]
    points = [(last.since, 0.0, 0.0)]
    for one in listed:
        # What was spent is never less than before, whoever wrote it.
        points.append((one.at, max(one.usd, points[-1][1]), max(one.machine_hours, points[-1][2])))
    more = min((now - last.at).total_seconds(), last.good_for)
    if more > 0:
        hours = more / 3600
        points.append(
            (
                last.at + timedelta(seconds=more),
                points[-1][1] + hours * last.usd_per_hour,
                points[-1][2] + hours * last.machines,
            )
        )
    return Course(last, tuple(points))


def courses(found: Iterable[Known], now: datetime) -> dict[tuple[str, str, str], Course]:
    """The course of each cluster, by account, region and uid."""
    by: dict[tuple[str, str, str], list[CostRecord]] = {}
    for account, region, record in found:
        by.setdefault((account, region, record.uid), []).append(record)
    return {key: course_of(records, now) for key, records in by.items()}


def spent(found: Iterable[Known], by: str, since: datetime, now: datetime) -> list[Spent]:
    """What was spent since then, the dearest first; days in their order.

    Args:
        by: One of `UNITS`.
    """
    sums: dict[str, list[tuple[Course, float, float]]] = {}
    for (account, _, _), course in courses(found, now).items():
        for begin, end in _days(since, now) if by == "day" else [(since, now)]:
            (usd, hours), (usd_before, hours_before) = course.until(end), course.until(begin)
            if course.last.since > end or course.points[-1][0] < begin:
                continue
            record = course.last
            what = {
                "flow": record.flow or NO_FLOW,
                "cluster": record.cluster,
                "account": account,
                "creator": record.creator,
                "day": begin.date().isoformat(),
            }[by]
            sums.setdefault(what, []).append((course, usd - usd_before, hours - hours_before))
    rows = [
        Spent(
            what,
            clusters=len(parts),
            running=sum(course.runs(now) for course, _, _ in parts),
            machine_hours=sum(hours for _, _, hours in parts),
            usd=sum(usd for _, usd, _ in parts),
            unpriced=tuple(sorted({one for course, _, _ in parts for one in course.last.unpriced})),
            prices_of=tuple(sorted({c.last.prices_of for c, _, _ in parts if c.last.prices_of})),
        )
        for what, parts in sums.items()
    ]
    return sorted(rows, key=lambda row: (row.what,) if by == "day" else (-row.usd, row.what))


def month_of(now: datetime) -> datetime:
    """When the calendar month of that moment began, in UTC."""
    return now.astimezone(timezone.utc).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _days(since: datetime, now: datetime) -> Iterable[tuple[datetime, datetime]]:
    begin = since.astimezone(timezone.utc)
    while begin < now:
        midnight = (begin + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        yield begin, min(midnight, now)
        begin = midnight
