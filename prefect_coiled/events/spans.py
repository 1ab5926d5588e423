"""How a cluster came up: what was done from when to when, and which of it the rest had to wait for.

    calls and steps of the client ─┐
                                   ├▶ spans ─▶ the critical path ─▶ table, picture, `Cluster.timeline()`
    lines of the machines ─────────┘

Pure: events, lines and moments in, spans out. May not ask anybody for them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from prefect_coiled.events.stream import Event
from prefect_coiled.records import Record

CLIENT = "client"
# What ends within so many seconds before something else begins may be what that waited for.
_SOON = 0.25


class Span(Record):
    """Something that was done while a cluster came up.

    Attributes:
        name: Such as "name claimed", "network" or "Dask".
        of: Who did it: "client", or the id of a machine.
        role: "scheduler" or "worker"; empty for the client.
        begin: When it began.
        end: When it was over.
        critical: Whether the cluster would have been ready sooner without it: the rest waited for it.
    """

    name: str
    of: str = CLIENT
    role: str = ""
    begin: datetime
    end: datetime
    critical: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.begin).total_seconds()


# What calls are for. A call that is not here, before machines are launched, is for the network.
_CALLS = {
    "sts:GetCallerIdentity": "credentials",
    "ec2:GetEbsDefaultKmsKeyId": "disk key",
    "ssm:GetParameters": "what is known",
    "pricing:GetProducts": "prices",
    "ec2:DescribeSpotPriceHistory": "prices",
    "ec2:CreateSecurityGroup": "security groups",
    "ec2:AuthorizeSecurityGroupIngress": "firewall rules",
    "ec2:CreateLaunchTemplate": "launch templates",
    "ec2:DescribeImages": "image",
    "ec2:DescribeInstances": "scheduler's address",
    "s3:ListObjectsV2": "packages",
    "s3:PutObject": "packages",
}
# Told with what they took.
_TOLD = {"create_scheduler": "scheduler launched", "create_worker": "workers launched"}
# What nobody waits for: it is done while machines boot.
_BESIDE = {"firewall rules", "clients' keys", "launch templates", "scheduler's address"}
# What comes first of all that was over before.
_FIRST = {
    ("machine boots", "scheduler"): "scheduler launched",
    ("machine boots", "worker"): "workers launched",
    ("workers launched", ""): "scheduler launched",
}
# What a machine says as it comes up, and what is over then.
_SAID = (
    (re.compile(r"prefect-coiled: \w+ of cluster \S+ on i-"), "machine boots"),
    (re.compile(r"prefect-coiled: host_setup_script is done"), "host_setup_script"),
    (re.compile(r"prefect-coiled: keys fetched"), "keys fetched"),
    (re.compile(r"prefect-coiled: Dask \w+ ready"), "Dask starts"),
)


class Client:
    """Hears what a client does for one cluster, until it is ready.

    Attributes:
        machines: The role of each machine that was launched, and when that was over, by id.
    """

    def __init__(self) -> None:
        self.machines: dict[str, tuple[str, datetime]] = {}
        self._spans: dict[str, tuple[datetime, datetime]] = {}
        self._lock = threading.Lock()
        self._launched = self._over = False

    def __call__(self, event: Event) -> None:
        """Note a call, a launch or a step."""
        with self._lock:
            if self._over:
                return
            if event.kind == "reply":
                self._add(self._of_call(event), event.at - timedelta(seconds=event.seconds), event.at)
            elif event.kind in _TOLD:
                self._launched = True
                role = event.kind.removeprefix("create_")
                self.machines.update(dict.fromkeys(event.ids, (role, event.at)))
                self._add(_TOLD[event.kind], event.at - timedelta(seconds=event.seconds), event.at)
            elif event.kind == "step" and event.step == "environment":
                self._add("packages", event.at, event.at)
            elif event.kind == "step" and event.step == "scheduler":
                self._after("scheduler launched", "scheduler answers", event.at)
            elif event.kind == "cluster_ready":
                self._over = True
                self._after("scheduler answers", "workers join", event.at)

    @property
    def spans(self) -> tuple[Span, ...]:
        """What was heard so far, each name once."""
        with self._lock:
            return tuple(Span(name=name, begin=b, end=e) for name, (b, e) in self._spans.items())

    def _of_call(self, event: Event) -> str:
        if event.action == "ec2:RunInstances" or event.action.startswith("logs:"):
            return ""  # told with its role; and what is kept of all this
        if event.action == "ssm:PutParameter":
            if "/known)" in event.text:
                return "what is known"
            if "/client)" in event.text:
                return "clients' keys"
            return "name claimed" if "claiming" in event.text else "TLS keys"
        if event.action == "ssm:GetParameter" and "/aws/service/" in event.text:
            return "image"
        return _CALLS.get(event.action, "" if self._launched else "network")

    def _after(self, before: str, name: str, at: datetime) -> None:
        if before in self._spans and name not in self._spans:
            self._add(name, self._spans[before][1], at)

    def _add(self, name: str, begin: datetime, end: datetime) -> None:
        if not name:
            return
        known = self._spans.get(name, (begin, end))
        self._spans[name] = min(known[0], begin), max(known[1], end)


def of_machine(
    machine: str, role: str, launched: datetime, lines: Iterable[tuple[datetime, str]]
) -> tuple[Span, ...]:
    """What a machine did until its part of Dask was up, by its own lines."""
    found: list[Span] = []
    since = launched
    for at, line in lines:
        name = next((name for pattern, name in _SAID if pattern.search(line)), "")
        if name and not any(span.name == name for span in found):
            found.append(Span(name=name, of=machine, role=role, begin=min(since, at), end=at))
            since = at
    return tuple(found)


def timeline(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans in the order in which they began, with the critical path marked.

    From the last one backwards: each waited for that of the others that was over last before it began.
    """
    listed = sorted(spans, key=lambda span: (span.begin, span.end))
    if not listed:
        return ()
    critical: set[int] = set()
    at: int | None = max(range(len(listed)), key=lambda n: listed[n].end)
    while at is not None and at not in critical:
        critical.add(at)
        at = _before(listed, at, critical)
    return tuple(s.model_copy(update={"critical": n in critical}) for n, s in enumerate(listed))


def _before(listed: Sequence[Span], at: int, known: set[int]) -> int | None:
    """The span that one waited for: its launch, of a machine; else what was over last before it began."""
    span = listed[at]
    first = _FIRST.get((span.name, span.role), "")
    launched = [n for n, other in enumerate(listed) if other.name == first]
    if launched:
        return launched[0]
    limit = span.begin + timedelta(seconds=_SOON)
    others = (n for n, s in enumerate(listed) if n not in known and s.end <= limit and s.name not in _BESIDE)
    # What a machine did goes before what the client saw of it.
    return max(others, key=lambda n: (listed[n].end, listed[n].of != CLIENT), default=None)


def encode(spans: Iterable[Span]) -> list[dict[str, Any]]:
    """As rows that go through JSON, for what is kept of a cluster."""
    return [span.model_dump(mode="json", exclude_defaults=True) for span in spans]


def decode(rows: Any) -> tuple[Span, ...]:
    """Read what `encode` made; what is none of it is left out."""
    found = []
    for row in rows if isinstance(rows, list) else ():
        try:
            found.append(Span.model_validate(row))
        except ValueError:
            continue
    return tuple(found)


def rows_of(spans: Sequence[Span]) -> list[dict[str, str]]:
    """A row each, for tables: what, whose, from, to, seconds, and whether it is on the critical path."""
    start = min((span.begin for span in spans), default=None)
    rows = []
    for span in spans:
        assert start is not None
        begin = (span.begin - start).total_seconds()
        rows.append(
            {
                "what": span.name,
                "of": f"{span.role} {span.of}".strip(),
                "from": f"{begin:.1f}",
                "to": f"{begin + span.seconds:.1f}",
                "seconds": f"{span.seconds:.1f}",
                "critical": "yes" if span.critical else "",
            }
        )
    return rows


def named(span: Span) -> str:
    """What a span is called beside others."""
    return f"{span.role} {span.of[-6:]}: {span.name}" if span.role else span.name


def critical_words(spans: Sequence[Span]) -> str:
    """The critical path in one line: what the rest waited for, and how long that took."""
    path = [(f"{s.role}: {s.name}" if s.role else s.name, s.seconds) for s in spans if s.critical]
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in path)
