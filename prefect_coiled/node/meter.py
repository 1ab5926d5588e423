"""What a cluster has cost so far, counted by its scheduler: it is there when no client is. Pure.

It counts the workers that are in the cluster, by the second; and by AWS's list, now and then, all machines,
of which some boot still, or never join. The greater of both holds.
"""

from __future__ import annotations

from collections.abc import Iterable

# Seconds. A machine runs before its worker joins and after it left, and is billed for a minute at least.
# https://aws.amazon.com/ec2/pricing/on-demand
BEFORE, AFTER = 60.0, 30.0


class Meter:
    """Adds up what runs, until it is as much as the cluster may cost.

    Args:
        limit: US dollars.
        base: US dollars an hour of all but the workers.
        worker: US dollars an hour of a worker's machine.
        started: When the scheduler started, in seconds of a monotonic clock.
    """

    def __init__(self, limit: float, base: float, worker: float, started: float) -> None:
        self._limit, self._base, self._worker = limit, base / 3600, worker / 3600
        self._at = started
        self._known: set[str] = set()
        # By AWS's list: US dollars, as of then, and US dollars a second since.
        self._listed, self._listed_at, self._rate = 0.0, started, 0.0
        #: US dollars so far.
        self.spent = BEFORE * self._base

    def check(self, now: float, machines: Iterable[str]) -> bool:
        """Whether all is spent, with what it takes to end the machines.

        Args:
            machines: The workers' machines that are there.
        """
        here = set(machines)
        self.spent += (now - self._at) * (self._base + len(here) * self._worker)
        self.spent += len(here - self._known) * (BEFORE + AFTER) * self._worker
        self._at, self._known = now, self._known | here
        listed = self._listed + (now - self._listed_at) * self._rate
        return max(self.spent + AFTER * self._base, listed + AFTER * self._rate) >= self._limit

    def listed(self, now: float, usd: float, usd_per_hour: float) -> None:
        """What runs by AWS's list, and what it has cost: machines that take long to join are in it too."""
        self._listed, self._listed_at, self._rate = usd, now, usd_per_hour / 3600
