"""The worker machines of a cluster: which count, which are on their way, and which are lost.

The truth is AWS's and the scheduler's, whoever scaled the cluster. A worker is lost when its machine has
ended, or when the scheduler has lost it for longer than Dask's `distributed.deploy.lost-worker-timeout`: a
nanny may be starting it anew. No clock but the given one, and no call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prefect_coiled.aws.instances import RUNS
from prefect_coiled.records import InstanceRecord

# Seconds for which AWS may not list a machine that it has just launched.
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
_NOT_LISTED_YET = 120.0


class Fleet:
    """The worker machines, by name, which is the machine's id.

    Args:
        clock: Seconds, for those that were launched a moment ago.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._machines: dict[str, InstanceRecord] = {}
        self._since: dict[str, float] = {}
        self._away: set[str] = set()
        self._lost: set[str] = set()
        self._ended: set[str] = set()
        # Those that AWS's last list lacked.
        self._missed: set[str] = set()

    @property
    def workers(self) -> dict[str, InstanceRecord]:
        """Those that count: they are there, on their way, or being started anew."""
        return {name: m for name, m in self._machines.items() if name not in self._lost}

    @property
    def awaited(self) -> frozenset[str]:
        """Those that count, and that the scheduler has lost: they may come back."""
        return frozenset(self._away & self.workers.keys())

    @property
    def all(self) -> dict[str, InstanceRecord]:
        """The lost ones too, whose machines may still run."""
        return dict(self._machines)

    def launched(self, machines: Iterable[InstanceRecord]) -> None:
        """These were launched now."""
        for machine in machines:
            self._machines[machine.instance_id] = machine
            self._since[machine.instance_id] = self._clock()
            self._ended.discard(machine.instance_id)

    def seen(self, machines: Iterable[InstanceRecord]) -> set[str]:
        """AWS lists these, in any state, and no others. Returns those that counted and have ended.

        One that is in no list has ended if the next one lacks it too: a single list may be incomplete.
        """
        listed = {machine.instance_id: machine for machine in machines}
        alive = {name: m for name, m in listed.items() if m.state in RUNS and name not in self._ended}
        now = self._clock()
        young = {name for name, since in self._since.items() if now - since < _NOT_LISTED_YET}
        missed = self._machines.keys() - listed.keys() - young
        ended = (self._machines.keys() & listed.keys() - alive.keys()) | (missed & self._missed)
        self._missed = missed - ended
        counted = ended - self._lost
        self.remove(ended)
        self._machines.update(alive)
        return counted

    def away(self, name: str, *, for_good: bool = False) -> None:
        """The scheduler has lost a worker; for good, where that was announced."""
        self._away.add(name)
        if for_good:
            self._lost.add(name)

    def joined(self, names: Iterable[str]) -> bool:
        """The scheduler has these. Returns whether some were launched by somebody else."""
        there = set(names)
        self._away -= there
        self._lost -= there
        return not there <= set(self._machines)

    def give_up(self, name: str) -> bool:
        """A worker had its time to come back. Returns whether it is lost now, and was not before."""
        lost = name in self._away and name in self._machines and name not in self._lost
        if lost:
            self._lost.add(name)
        return lost

    def remove(self, names: Iterable[str]) -> dict[str, InstanceRecord]:
        """These are terminated. Returns those that were known."""
        ended = set(names)
        known = {name: self._machines.pop(name) for name in sorted(ended) if name in self._machines}
        self._ended |= ended  # AWS may list them as they were for a moment
        for name in known:
            self._since.pop(name, None)
            self._lost.discard(name)
            self._away.discard(name)
        return known


class Workers(Mapping[str, InstanceRecord]):
    """A view of worker machines by name: it shows what is, also to who keeps it, as in Dask's own clusters.

    Args:
        look: Gives the machines as they are now, as a dictionary of its own.
    """

    def __init__(self, look: Callable[[], dict[str, InstanceRecord]]) -> None:
        self._look = look

    def __getitem__(self, name: str) -> InstanceRecord:
        return self._look()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())  # of a copy: machines come and go in another thread

    def __len__(self) -> int:
        return len(self._look())

    def __repr__(self) -> str:
        return repr(self._look())
