"""What a cluster has cost so far, by AWS's own list of its machines: which, from when to when. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from prefect_coiled.plan import tags
from prefect_coiled.plan.node_config import Billed
from prefect_coiled.plan.prices import GP3_MIBPS, shipped
from prefect_coiled.plan.spending import CostRecord

# https://aws.amazon.com/ec2/pricing/on-demand: by the second, at least a minute.
_LEAST_S = 60.0
# Such as "User initiated (2026-01-31 09:30:00 GMT)".
_ENDED_AT = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)")
_ALIVE = ("pending", "running")


@dataclass
class _Machine:
    """One machine: what it costs an hour, None if that is not known, and from when to when it ran."""

    kind: str
    usd_per_hour: float | None
    beside: float
    begun: datetime
    ended: datetime | None = None


class Bill:
    """What is known of one cluster's machines.

    Args:
        machine: The scheduler's own.
    """

    def __init__(self, billed: Billed, cluster: str, machine: str) -> None:
        self._billed, self._cluster, self._own = billed, cluster, machine
        self._prices = billed.prices or shipped()
        self._machines: dict[str, _Machine] = {}
        self._seen_at: datetime | None = None

    def seen(self, now: datetime, listed: Iterable[Mapping[str, Any]]) -> None:
        """AWS lists these instances of the cluster, in any state.

        One that is listed no more, as those are that ended an hour ago, ran until it was seen last.
        """
        there: set[str] = set()
        for item in listed:
            name = str(item["InstanceId"])
            there.add(name)
            known = self._machines.setdefault(name, self._machine(item))
            if item["State"]["Name"] in _ALIVE:
                known.ended = None  # a list may have lacked it: lists are consistent in the end only
            if known.ended is None and item["State"]["Name"] not in _ALIVE:
                said = _ENDED_AT.search(str(item.get("StateTransitionReason", "")))
                at = datetime.fromisoformat(f"{said[1]}+00:00") if said else now
                known.ended = min(max(at, known.begun), now)
            if item.get("PublicIpAddress"):
                known.beside = self._beside(item, public=True)
        for name, machine in self._machines.items():
            if name not in there and machine.ended is None:
                machine.ended = self._seen_at or now
        self._seen_at = now

    def _machine(self, item: Mapping[str, Any]) -> _Machine:
        kind = str(item["InstanceType"])
        begun: datetime = item["LaunchTime"]
        price = self._prices.machine(kind, spot=item.get("InstanceLifecycle") == "spot")
        return _Machine(kind, price, self._beside(item, public=False), begun)

    def _beside(self, item: Mapping[str, Any], *, public: bool) -> float:
        """US dollars an hour of a machine's disk and address."""
        is_worker = tags.from_aws(item.get("Tags")).get(tags.ROLE) == "worker"
        billed = self._billed
        disk = billed.worker_disk if is_worker else billed.scheduler_disk
        throughput = billed.worker_throughput if is_worker else GP3_MIBPS
        return self._prices.beside(disk, public=public, throughput=throughput)

    def record(self, now: datetime, good_for: float) -> CostRecord | None:
        """What it has cost until now; None as long as AWS does not list the scheduler's own machine."""
        own = self._machines.get(self._own)
        if own is None:
            return None
        gateway = self._prices.nat if self._billed.nat else 0.0
        usd = gateway * _hours(own.begun, now)
        total_hours, now_usd, running = 0.0, gateway, 0
        for machine in self._machines.values():
            rate = (machine.usd_per_hour or 0.0) + machine.beside
            hours = max(_hours(machine.begun, machine.ended or now), _LEAST_S / 3600)
            usd += hours * rate
            total_hours += hours
            if machine.ended is None:
                now_usd += rate
                running += 1
        unpriced = {m.kind for m in self._machines.values() if m.usd_per_hour is None}
        return CostRecord(
            cluster=self._cluster,
            uid=self._billed.uid,
            flow=self._billed.flow,
            creator=self._billed.creator,
            since=min(own.begun, now).astimezone(timezone.utc),
            at=now,
            usd=round(usd, 6),
            usd_per_hour=round(now_usd, 6) if good_for else 0.0,
            machines=running if good_for else 0,
            machine_hours=round(total_hours, 6),
            good_for=good_for,
            unpriced=tuple(sorted(unpriced)),
            prices_of=self._billed.prices_of,
        )


def _hours(begun: datetime, ended: datetime) -> float:
    return max((ended - begun).total_seconds(), 0.0) / 3600
