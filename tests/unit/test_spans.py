"""How a cluster came up: from what is told and what machines say to spans, and what the rest waited for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from prefect_coiled.events import Event
from prefect_coiled.events.spans import (
    Client,
    Span,
    critical_words,
    decode,
    encode,
    of_machine,
    rows_of,
    timeline,
)

START = datetime(2026, 1, 31, 9, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def reply(action: str, end: float, seconds: float = 0.1, text: str = "") -> Event:
    return Event("reply", text, action=action, seconds=seconds, at=at(end))


def span(name: str, begin: float, end: float, of: str = "client", role: str = "") -> Span:
    return Span(name=name, begin=at(begin), end=at(end), of=of, role=role)


def names(spans: tuple[Span, ...], critical: bool = False) -> list[str]:
    return [s.name for s in spans if s.critical or not critical]


def heard(*events: Event) -> tuple[Span, ...]:
    client = Client()
    for event in events:
        client(event)
    return client.spans


def test_calls_are_told_by_what_they_are_for() -> None:
    spans = heard(
        reply("sts:GetCallerIdentity", 0.1),
        reply("ssm:PutParameter", 0.3, text="claiming (/prefect-coiled/team/one/intent)"),
        reply("ec2:DescribeVpcs", 0.5),
        reply("ec2:DescribeSubnets", 0.8, 0.4),
        reply("ec2:CreateSecurityGroup", 1.0),
        reply("ssm:PutParameter", 1.1, text="writing parameter (/prefect-coiled/team/one/u/node/worker)"),
        reply("ssm:PutParameter", 1.2, text="writing parameter (/prefect-coiled/team/one/u/client)"),
    )
    assert names(spans) == [
        "credentials",
        "name claimed",
        "network",
        "security groups",
        "TLS keys",
        "clients' keys",
    ]
    (network,) = [s for s in spans if s.name == "network"]
    assert (network.begin, network.end) == (at(0.4), at(0.8))


def test_launches_are_told_with_their_machines_and_the_end_with_when_the_cluster_was_ready() -> None:
    client = Client()
    for event in (
        Event("create_scheduler", seconds=1.0, at=at(2), ids=("i-s",)),
        Event("create_worker", seconds=1.5, at=at(4), ids=("i-1", "i-2")),
        Event("step", "ready", step="scheduler", at=at(30)),
        Event("cluster_ready", at=at(35)),
        reply("ec2:CreateLaunchTemplate", 40),
    ):
        client(event)
    assert [(s.name, s.begin, s.end) for s in client.spans] == [
        ("scheduler launched", at(1), at(2)),
        ("workers launched", at(2.5), at(4)),
        ("scheduler answers", at(2), at(30)),
        ("workers join", at(30), at(35)),
    ]
    assert client.machines["i-2"] == ("worker", at(4))


def test_a_machine_is_told_by_its_own_lines() -> None:
    lines = [
        (at(20), "prefect-coiled: worker of cluster one on i-1 at 10.77.0.4"),
        (at(21), "prefect-coiled: keys fetched after 1.0 s"),
        (at(22), "something else"),
        (at(24), "prefect-coiled: Dask worker ready after 4.0 s"),
        (at(90), "prefect-coiled: Dask worker ready after 70.0 s"),
    ]
    spans = of_machine("i-1", "worker", at(4), lines)
    assert [(s.name, s.seconds) for s in spans] == [
        ("machine boots", 16),
        ("keys fetched", 1),
        ("Dask starts", 3),
    ]
    assert {(s.of, s.role) for s in spans} == {("i-1", "worker")}


def test_the_critical_path_is_what_the_rest_waited_for() -> None:
    spans = timeline(
        [
            span("Dask starts", 22, 25, "i-2", "worker"),
            span("name claimed", 0, 1),
            span("network", 1, 3),
            span("image", 1, 1.5),
            span("workers launched", 3, 4),
            span("machine boots", 4, 20, "i-1", "worker"),
            span("machine boots", 4, 22, "i-2", "worker"),
            span("launch templates", 4, 5),
            span("Dask starts", 20, 23, "i-1", "worker"),
        ]
    )
    assert [s.begin for s in spans] == sorted(s.begin for s in spans)
    path = [(s.name, s.of) for s in spans if s.critical]
    assert path == [
        ("name claimed", "client"),
        ("network", "client"),
        ("workers launched", "client"),
        ("machine boots", "i-2"),
        ("Dask starts", "i-2"),
    ]
    assert critical_words(spans) == (
        "name claimed 1.0 s, network 2.0 s, workers launched 1.0 s, worker: machine boots 18.0 s, "
        "worker: Dask starts 3.0 s"
    )
    assert [row["critical"] for row in rows_of(spans)].count("yes") == 5


def test_nothing_has_no_path() -> None:
    assert timeline([]) == ()
    assert rows_of(()) == []


def test_spans_go_through_json_and_what_is_none_is_left_out() -> None:
    spans = (span("network", 0, 1), span("machine boots", 1, 2, "i-1", "worker"))
    assert decode(encode(spans)) == spans
    assert decode([*encode(spans), {"name": "x"}, 3]) == spans
    assert decode(None) == ()
