"""How a cluster came up: from what is kept of it, and from its machines' logs. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from prefect_coiled.aws import log_events
from prefect_coiled.aws.door import Aws
from prefect_coiled.events.rows import STREAM, choose
from prefect_coiled.events.spans import Span, decode, of_machine, timeline

# As many rows of what happened in the account as are looked at.
_ROWS = 10_000
_MADE = ("create_scheduler", "create_worker")


def find_timeline(aws: Aws, name: str, uid: str | None = None) -> tuple[Span, ...]:
    """The time line of a cluster that was ready once; of several of a name, of the newest.

    Args:
        uid: Of this one.

    Returns:
        Nothing where none is kept.
    """
    rows = choose(log_events.read_log(aws, STREAM, tail=_ROWS), limit=_ROWS)
    ready = [r for r in rows if r.event_type == "cluster_ready" and r.data.get("cluster") == name]
    ready = [r for r in ready if uid in (None, r.uid)]
    if not ready:
        return ()
    made = [row for row in rows if row.event_type in _MADE and row.uid == ready[-1].uid]
    machines = {
        one: (row.event_type.removeprefix("create_"), row.time) for row in made for one in row.machines
    }
    return timeline((*decode(ready[-1].data.get("spans")), *of_machines(aws, machines, ready[-1].time)))


def of_machines(aws: Aws, machines: Mapping[str, tuple[str, datetime]], until: datetime) -> tuple[Span, ...]:
    """What machines did as they came up.

    Args:
        machines: Role and launch of each, by id.
        until: When the cluster was ready; machines that were launched later are none of its launch.
    """
    launched = {one: known for one, known in machines.items() if known[1] <= until}
    if not launched:
        return ()
    since = min(at for _, at in launched.values()) - log_events.EARLIER
    found: list[Span] = []
    for one, lines in log_events.read_times(aws, launched, since=since):
        role, at = launched[one]
        found += of_machine(one, role, at, lines)
    return tuple(found)
