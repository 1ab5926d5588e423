"""Reads what machines wrote to CloudWatch Logs: one stream to its end, or hundreds together.

    read_log     one stream; GetLogEvents, from its beginning or backwards from its end
    read_logs    any number, whole; FilterLogEvents, a hundred streams a call
    read_times   the same, with the time of each line
    read_prefixed  all streams whose names begin so; FilterLogEvents
    said         the same of machines; the console of one that never shipped a line
    Follower     any number, as they grow

AWS takes few of these calls, and a higher quota cannot be asked for: 5 FilterLogEvents and 10 GetLogEvents a
second, of all programs of an AWS account in a region together.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

from prefect_coiled.aws.batches import STREAMS, batches
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.instances import read_console
from prefect_coiled.aws.pace import Pace
from prefect_coiled.errors import AwsError, CredentialsError, InvalidRequestError, NotFoundError, printable

# The clock of the program that made a cluster may be off by so much.
EARLIER = timedelta(minutes=15)

# Lines that one call gives at most.
_LARGEST_PAGE = 10_000
# Calls a second: a little less than the least that AWS says of any region.
_READS = Pace(9)


@functools.cache
def _filters(region: str) -> Pace:
    return Pace(4)


# Up to so many streams are read one by one: each stands for itself, and can be read from its end.
_FEW = 10
# Milliseconds in which a line that is older than the newest one may still arrive.
_LATE = 120_000


def read_log(
    aws: Aws, stream: str, *, since: datetime | None = None, tail: int | None = None
) -> Iterator[str]:
    """Yield the lines of an instance's stream, oldest first."""
    wanted: dict[str, Any] = {}
    if since is not None:
        wanted["startTime"] = _milliseconds(since)
    if tail is None:
        for events, _ in _pages(aws, stream, forward=True, **wanted):
            yield from map(_line, events)
        return
    found: list[str] = []
    for events, _ in _pages(aws, stream, forward=False, limit=min(max(tail, 1), _LARGEST_PAGE), **wanted):
        found = [_line(event) for event in events] + found
        if len(found) >= tail:
            break
    yield from found[len(found) - tail :] if len(found) > tail else found


def read_logs(
    aws: Aws, streams: Iterable[str], *, since: datetime | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of each of many streams, oldest first; a stream that is not there has none.

    Args:
        streams: The instance ids; they come back in this order.
        since: Only what was logged from then on. It spares AWS a search of all that is older.
    """
    listed = list(dict.fromkeys(streams))
    if len(listed) <= _FEW:
        for stream in listed:
            yield stream, list(read_log(aws, stream, since=since))
        return
    begin = 0 if since is None else _milliseconds(since)
    for some in batches(listed, STREAMS):
        found: dict[str, list[str]] = {stream: [] for stream in some}
        for stream, event in _filtered(aws, some, begin):
            found[stream].append(_line(event))
        yield from found.items()


def read_times(
    aws: Aws, streams: Iterable[str], *, since: datetime
) -> Iterator[tuple[str, list[tuple[datetime, str]]]]:
    """Yield the lines of each of many streams, each with its time, by one call for a hundred of them."""
    for some in batches(list(dict.fromkeys(streams)), STREAMS):
        found: dict[str, list[tuple[datetime, str]]] = {stream: [] for stream in some}
        for stream, event in _filtered(aws, some, _milliseconds(since)):
            at = datetime.fromtimestamp(event["timestamp"] / 1000, timezone.utc)
            found[stream].append((at, _line(event)))
        yield from found.items()


def read_prefixed(aws: Aws, prefix: str, *, since: datetime) -> Iterator[str]:
    """Yield the lines of all streams whose names begin so, from then on; none without a log group.

    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
    """
    what = f"reading log streams ({prefix}*)"
    with suppress(NotFoundError):
        for events in _filter_pages(aws, what, _milliseconds(since), logStreamNamePrefix=prefix):
            yield from (str(event["message"]) for event in events)


def said(
    aws: Aws, machines: Iterable[str], *, since: datetime | None = None, tail: int | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield what each of many machines wrote: its log, or its console if it never shipped a line.

    One that shipped lines, but none since the moment that was asked for, has none. To know that takes a call
    for each machine without lines, as its console would.

    Args:
        machines: The instance ids; they come back in this order.
        tail: Only the last so many lines of each, which takes calls for each.
    """
    found = (
        ((one, list(read_log(aws, one, since=since, tail=tail))) for one in machines)
        if tail
        else read_logs(aws, machines, since=since)
    )
    for one, lines in found:
        if not lines and not (since is not None and _has_shipped(aws, one)):
            lines = _console(aws, one)
        yield one, lines[-tail:] if tail else lines


def _has_shipped(aws: Aws, machine: str) -> bool:
    return next(read_log(aws, machine, tail=1), None) is not None


def _console(aws: Aws, machine: str) -> list[str]:
    try:
        return read_console(aws, machine).splitlines()
    except CredentialsError:
        raise
    except AwsError as error:  # what others wrote is shown all the same
        return [f"(It shipped no line, and its console cannot be read: {' '.join(str(error).split())})"]


class Follower:
    """Reads streams as they grow: of each line one time, whatever their number.

    Args:
        clock: The time, in seconds since 1970.
    """

    def __init__(
        self, aws: Aws, since: datetime | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._aws = aws
        self._clock = clock
        self._since = 0 if since is None else _milliseconds(since)
        self._newest = self._since
        self._tokens: dict[str, str] = {}
        # Whether they are read together from now on, by time: one by one they would begin anew.
        self._many = False
        # What was read of the last moments: it is read again, with what came late.
        self._known: Counter[tuple[Any, ...]] = Counter()

    def more(self, streams: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield (stream, line) of what is new.

        Args:
            streams: The instance ids; they may be others each time.
        """
        self._many = self._many or len(streams) > _FEW
        events = self._together(streams) if self._many else self._each(streams)
        for stream, event in events:
            # A machine says itself when it wrote: one that is ahead, or lies, must not hide what others say.
            self._newest = max(self._newest, min(int(event["timestamp"]), int(self._clock() * 1000)))
            yield stream, _line(event)
        old = self._newest - _LATE
        self._known = Counter({key: n for key, n in self._known.items() if key[1] >= old})

    def _each(self, streams: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for at, stream in enumerate(streams):
            wanted: dict[str, Any] = {"startTime": self._since} if self._since else {}
            token = self._tokens.get(stream)
            pages = _pages(self._aws, stream, forward=True, token=token, **wanted)
            # What is behind this page comes with the next look.
            try:
                events, following = next(pages, ([], ""))
            except InvalidRequestError:
                if token is None:
                    raise
                # AWS takes a token for 24 hours; by time, reading goes on without one.
                self._many = True
                yield from self._together(streams[at:])
                return
            for event in events:
                self._known[_key(stream, event)] += 1
                yield stream, event
            if following:
                self._tokens[stream] = following

    def _together(self, streams: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        begin = max(self._since, self._newest - _LATE, 0)
        for some in batches(streams, STREAMS):
            read: Counter[tuple[Any, ...]] = Counter()
            for stream, event in _filtered(self._aws, some, begin):
                key = _key(stream, event)
                read[key] += 1
                if read[key] > self._known[key]:
                    self._known[key] = read[key]
                    yield stream, event


def _key(stream: str, event: dict[str, Any]) -> tuple[Any, ...]:
    return stream, int(event["timestamp"]), event.get("ingestionTime"), event["message"]


def _filtered(aws: Aws, streams: Sequence[str], begin: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (stream, event) of up to a hundred streams, by their time.

    One that is not there, such as that of a machine that still boots, refuses the whole call: fewer are asked
    for together then, and at last each by itself.
    """
    begun, what = False, f"reading {len(streams)} log streams"
    try:
        for events in _filter_pages(aws, what, begin, logStreamNames=list(streams)):
            begun = True
            yield from ((str(event["logStreamName"]), event) for event in events)
    except NotFoundError:
        if not begun:
            yield from _apart(aws, streams, begin)


def _filter_pages(aws: Aws, what: str, begin: int, **wanted: Any) -> Iterator[list[dict[str, Any]]]:
    """Pages of what FilterLogEvents finds.

    Raises:
        NotFoundError: The log group, or one of the streams, is not there, or not any more.
    """
    wanted |= {"logGroupName": aws.account}
    wanted |= {"startTime": begin} if begin else {}
    while True:
        _filters(aws.region).wait(aws.stop, what)
        reply = aws.call("logs:FilterLogEvents", what, **wanted)
        yield reply["events"]
        if not reply.get("nextToken"):
            return
        wanted["nextToken"] = reply["nextToken"]


def _apart(aws: Aws, streams: Sequence[str], begin: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if len(streams) > _FEW:
        for some in batches(streams, -(-len(streams) // 4)):
            yield from _filtered(aws, some, begin)
        return
    for stream in streams:
        wanted: dict[str, Any] = {"startTime": begin} if begin else {}
        for events, _ in _pages(aws, stream, forward=True, **wanted):
            yield from ((stream, event) for event in events)


def _pages(
    aws: Aws, stream: str, *, forward: bool, token: str | None = None, **wanted: Any
) -> Iterator[tuple[list[dict[str, Any]], str]]:
    """Pages of a stream, each oldest first, with the token of what follows; none if it is not there.

    From its beginning on, or from its end backwards. A page holds at most 1 MB, and may be empty with more
    behind it. The end is where the token comes back that was sent:
    https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
    """
    what = f"reading log stream ({stream})"
    key = "nextForwardToken" if forward else "nextBackwardToken"
    while True:
        _READS.wait(aws.stop, what)
        more = {"nextToken": token} if token else {}
        try:
            reply = aws.call(
                "logs:GetLogEvents",
                what,
                logGroupName=aws.account,
                logStreamName=stream,
                startFromHead=forward,
                **wanted,
                **more,
            )
        except NotFoundError:
            return
        following = str(reply.get(key) or "")
        yield reply["events"], following
        if following in ("", token):
            return
        token = following


def _line(event: dict[str, Any]) -> str:
    # A machine sends each line by itself. What has several must not look like lines of another machine.
    return printable(event["message"]).rstrip("\n").replace("\n", "\n    ")


def _milliseconds(moment: datetime) -> int:
    # CloudWatch knows no time before 1970.
    return max(0, int((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)).total_seconds() * 1000))
