"""A machine's log is read page by page: over empty ones, and backwards for its end."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from prefect_coiled.aws import log_events
from prefect_coiled.aws.pace import Pace
from prefect_coiled.errors import InvalidRequestError, NotFoundError


class Pages:
    """A door whose log has pages; each token stands for one, and at the end the same token comes back."""

    account = "team"
    stop = threading.Event()

    def __init__(self, *pages: list[str]) -> None:
        self.pages = pages
        self.asked = 0

    def call(self, action: str, what: str, **wanted: Any) -> dict[str, Any]:
        self.asked += 1
        forward = wanted["startFromHead"]
        at = int(wanted.get("nextToken", 0 if forward else len(self.pages) - 1))
        after = at + 1 if forward else at - 1
        lines = self.pages[at] if 0 <= at < len(self.pages) else []
        token = str(after if 0 <= at < len(self.pages) else at)
        return {
            "events": [{"message": line} for line in lines],
            "nextForwardToken": token,
            "nextBackwardToken": token,
        }


def read(door: Pages, **wanted: Any) -> list[str]:
    return list(log_events.read_log(door, "i-1", **wanted))  # type: ignore[arg-type]


def test_a_log_goes_on_behind_an_empty_page() -> None:
    assert read(Pages(["a"], [], [], ["b"], [])) == ["a", "b"]


def test_the_end_of_a_log_may_be_longer_than_a_page() -> None:
    assert read(Pages(["a", "b"], ["c"], [], ["d", "e"]), tail=4) == ["b", "c", "d", "e"]


@pytest.mark.parametrize(("tail", "expected"), [(2, ["d", "e"]), (1, ["e"]), (99, ["a", "b", "c", "d", "e"])])
def test_a_tail_is_as_long_as_it_was_asked_for(tail: int, expected: list[str]) -> None:
    assert read(Pages(["a", "b"], ["c", "d", "e"]), tail=tail) == expected


def test_no_more_pages_are_asked_for_than_the_tail_needs() -> None:
    door = Pages(["a"], ["b"], ["c", "d"])
    assert read(door, tail=2) == ["c", "d"]
    assert door.asked == 1


class Group:
    """A door to a log group that answers as FilterLogEvents and GetLogEvents do.

    A call names at most a hundred streams, all of which are there; a page holds three events; the last page
    is behind an empty one.
    """

    account, region = "team", "us-east-1"
    stop = threading.Event()

    def __init__(self, **streams: list[str]) -> None:
        self.streams = {name: [event(at, t) for at, t in enumerate(texts)] for name, texts in streams.items()}
        self.asked: Counter[str] = Counter()

    def call(self, action: str, what: str, **wanted: Any) -> dict[str, Any]:
        self.asked[action] += 1
        given = wanted.get("logStreamNames") or [wanted["logStreamName"]]
        assert len(given) <= 100
        if not set(given) <= set(self.streams):
            raise NotFoundError(what, operation=action, code="ResourceNotFoundException")
        least = wanted.get("startTime", 0)
        events = sorted(
            ({**e, "logStreamName": n} for n in given for e in self.streams[n] if e["timestamp"] >= least),
            key=lambda e: int(e["timestamp"]),
        )
        at = int(wanted.get("nextToken", 0))
        if action == "logs:GetLogEvents":
            return {"events": events[at:], "nextForwardToken": str(len(events))}
        token = {"nextToken": str(at + 3)} if at < len(events) else {}
        return {"events": events[at : at + 3], **token}


def event(at: int, text: str, ingested: int = 5000) -> dict[str, Any]:
    return {"timestamp": 1000 + at, "ingestionTime": ingested, "message": text}


@pytest.fixture(autouse=True)
def no_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_events, "_filters", lambda region: Pace(1e9))
    monkeypatch.setattr(log_events, "_READS", Pace(1e9))


def names(count: int) -> list[str]:
    return [f"i{n}" for n in range(count)]


def test_hundreds_of_logs_are_read_a_hundred_a_call() -> None:
    door: Any = Group(**{name: [f"a {name}", f"b {name}"] for name in names(250)})
    found = dict(log_events.read_logs(door, names(250)))
    assert found == {name: [f"a {name}", f"b {name}"] for name in names(250)}
    assert list(found) == names(250)
    assert set(door.asked) == {"logs:FilterLogEvents"}


def test_a_machine_that_has_written_nothing_yet_does_not_hide_the_others() -> None:
    there = [name for n, name in enumerate(names(120)) if n % 40 != 7]
    door: Any = Group(**{name: [name] for name in there})
    found = dict(log_events.read_logs(door, names(120)))
    assert found == {name: [name] if name in there else [] for name in names(120)}


@pytest.mark.parametrize("count", [3, 40])
def test_each_line_is_followed_once_also_those_that_come_late_or_are_alike(count: int) -> None:
    group = Group(**{name: ["begun"] for name in names(count)})
    door: Any = group
    follower = log_events.Follower(door)
    assert Counter(follower.more(names(count))) == Counter((name, "begun") for name in names(count))
    assert list(follower.more(names(count))) == []
    group.streams["i1"] += [event(9, "new"), event(9, "twice"), event(9, "twice")]
    assert sorted(follower.more(names(count))) == [("i1", "new"), ("i1", "twice"), ("i1", "twice")]
    group.streams["i2"].append(event(5, "late", ingested=6000))
    assert list(follower.more(names(count))) == [("i2", "late")]


@pytest.mark.parametrize("count", [3, 40])
def test_a_machine_whose_clock_is_ahead_hides_no_line_of_the_others(count: int) -> None:
    group = Group(**{name: ["begun"] for name in names(count)})
    door: Any = group
    follower = log_events.Follower(door, clock=lambda: 2.0)
    list(follower.more(names(count)))
    # CloudWatch takes what is up to two hours ahead.
    group.streams["i0"].append(event(2 * 3600 * 1000, "from tomorrow"))
    assert list(follower.more(names(count))) == [("i0", "from tomorrow")]
    group.streams["i1"].append(event(2000, "from today"))
    assert list(follower.more(names(count))) == [("i1", "from today")]


def test_a_cluster_that_grows_is_followed_on() -> None:
    door: Any = Group(**{name: ["begun"] for name in names(60)})
    follower = log_events.Follower(door)
    list(follower.more(names(3)))
    assert sorted(follower.more(names(60))) == sorted((name, "begun") for name in names(60)[3:])


def test_a_cluster_that_shrinks_is_followed_on() -> None:
    group = Group(**{name: ["begun"] for name in names(60)})
    door: Any = group
    follower = log_events.Follower(door)
    list(follower.more(names(60)))
    group.streams["i1"].append(event(9, "new"))
    assert list(follower.more(names(3))) == [("i1", "new")]


def test_logs_are_followed_on_where_aws_takes_a_token_no_more() -> None:
    """It takes one for 24 hours, in which a machine may write nothing."""
    group = Group(i0=["begun"], i1=["begun"])
    call = group.call

    def a_day_later(action: str, what: str, **wanted: Any) -> dict[str, Any]:
        if action == "logs:GetLogEvents" and "nextToken" in wanted:
            raise InvalidRequestError(what, operation=action, code="InvalidParameterException")
        return call(action, what, **wanted)

    door: Any = group
    follower = log_events.Follower(door)
    assert len(list(follower.more(["i0", "i1"]))) == 2
    group.call = a_day_later  # type: ignore[method-assign]
    group.streams["i1"].append(event(9, "new"))
    assert list(follower.more(["i0", "i1"])) == [("i1", "new")]
    assert list(follower.more(["i0", "i1"])) == []


@pytest.mark.parametrize("tail", [None, 100])
@pytest.mark.parametrize("count", [3, 40])
def test_a_machine_that_said_nothing_since_then_shows_no_line_of_its_boot(
    count: int, tail: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_events, "read_console", lambda aws, machine: f"boot of {machine}")
    door: Any = Group(**{name: ["begun"] for name in names(count)[1:]})
    later = datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)
    found = dict(log_events.said(door, names(count), since=later, tail=tail))
    # The first never shipped a line.
    assert found == {name: [] for name in names(count)} | {"i0": ["boot of i0"]}
    earlier = dict(log_events.said(door, names(count), since=later - timedelta(minutes=1), tail=tail))
    assert earlier == {name: ["begun"] for name in names(count)} | {"i0": ["boot of i0"]}


def test_calls_come_no_faster_than_their_pace() -> None:
    now = [0.0]
    waited: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            now[0] += timeout or 0.0
            return False

    pace = Pace(4, clock=lambda: now[0])
    for _ in range(5):
        pace.wait(Stop(), "reading")
    assert waited == [0.25] * 4
    now[0] += 10
    pace.wait(Stop(), "reading")
    assert len(waited) == 4
