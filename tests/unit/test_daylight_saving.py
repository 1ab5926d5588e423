"""Times are the same in a zone whose clocks change: New York's go back at 6:00 UTC on 1 November 2026."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from botocore.utils import parse_timestamp

from prefect_coiled.aws.parameters import age_in
from prefect_coiled.errors import OptionsError
from prefect_coiled.notifications import parse_since

BACK = datetime(2026, 11, 1, 6, tzinfo=timezone.utc)
FORWARD = datetime(2026, 3, 8, 7, tzinfo=timezone.utc)


@pytest.fixture(params=["America/New_York", "UTC", "Australia/Lord_Howe"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("change", [BACK, FORWARD], ids=["back", "forward"])
@pytest.mark.parametrize("minutes", [-45, -1, 0, 1, 45, 90])
def test_a_time_before_now_is_as_long_ago_as_it_says(zone: str, change: datetime, minutes: int) -> None:
    now = change + timedelta(minutes=minutes)
    for text, seconds in {"90m": 5400, "2 hours": 7200, "1 day": 86400}.items():
        assert (now - parse_since(text, now)).total_seconds() == seconds
        assert (now - parse_since(text, now.astimezone())).total_seconds() == seconds


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        # The first of two, so that nothing is left out.
        ("2026-11-01T01:30", "2026-11-01T05:30"),
        ("2026-11-01T00:59:59", "2026-11-01T04:59:59"),
        ("2026-11-01 02:00", "2026-11-01T07:00"),
        # There is no such time: that of half an hour before the change, so that nothing is left out.
        ("2026-03-08T02:30", "2026-03-08T06:30"),
        ("2026-03-08T03:00", "2026-03-08T07:00"),
        ("2026-03-08", "2026-03-08T05:00"),
    ],
)
@pytest.mark.parametrize("zone", ["America/New_York"], indirect=True)
def test_a_time_by_the_clock_is_that_of_the_zone_here(zone: str, text: str, utc: str) -> None:
    assert parse_since(text) == datetime.fromisoformat(utc).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "text", ["2026-11-01T05:30:00Z", "2026-11-01T05:30:00+00:00", "2026-11-01T01:30:00-04:00"]
)
def test_a_time_that_says_its_zone_is_the_same_everywhere(zone: str, text: str) -> None:
    assert parse_since(text) == datetime(2026, 11, 1, 5, 30, tzinfo=timezone.utc)


def test_a_zone_alone_is_no_time() -> None:
    with pytest.raises(OptionsError):
        parse_since("Z")


@pytest.mark.parametrize("change", [BACK, FORWARD], ids=["back", "forward"])
@pytest.mark.parametrize("minutes", [-50, -1, 0, 1, 30, 59])
def test_a_lease_is_as_old_as_it_is(zone: str, change: datetime, minutes: int) -> None:
    written = change + timedelta(minutes=minutes)
    for seconds in (0, 45, 75, 3600):
        now = written + timedelta(seconds=seconds)
        headers = {"date": format_datetime(now, usegmt=True)}
        # As botocore gives it: in the zone here.
        parameter = {"LastModifiedDate": parse_timestamp(written.timestamp())}
        assert age_in({"ResponseMetadata": {"HTTPHeaders": headers}}, parameter) == seconds
