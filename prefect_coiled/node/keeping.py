"""How many machines with workers a scheduler should launch now. Pure: told the time, the workers, AWS's list.

A machine counts while AWS lists it as pending or running. One whose worker the scheduler has lost counts for
a while: its nanny may be starting the worker anew. After that it is as good as ended, and is replaced
though it runs; with such ones there are never more machines than twice those that are wanted. A spot machine
that AWS takes back is replaced while it still runs: what it holds can then move to the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prefect_coiled.plan.node_config import HOLD_S

# Seconds after each try until the next one; after the last one no more are made.
PAUSES_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, *(300.0,) * 6)
# Whoever launched the cluster says so when it has connected. Seconds after which nobody is waited for.
START_S = 600.0
# Seconds from the loss of a worker to the first look at AWS's list, between two looks, and so after a while.
FIRST_LOOK_S, LOOK_S, LATER_LOOK_S, A_WHILE_S = 2.0, 5.0, 15.0, 120.0
# Seconds for which AWS may not list a machine that it has just launched.
# https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
NOT_LISTED_YET_S = 120.0
# A launch whose machines all end before they join counts as so many tries: the next will hardly fare better.
STILLBORN = 4
# Seconds in the cluster after which a replacement was a success, so that tries are counted anew.
STABLE_S = 60.0
_ALIVE = ("pending", "running")


@dataclass
class _Launched:
    """A machine that was launched here: by which launch, and since when it is in the cluster."""

    launch: int
    since: float | None = None


@dataclass
class Keeping:
    """What is known of one cluster's machines with workers.

    Attributes:
        started: When the scheduler started, on a monotonic clock in seconds.
        wanted: How many machines there shall be.
        patience: Seconds that a machine may be without its worker.
        boot_s: Seconds from when AWS lists a machine first until it has a worker.
        pauses: Seconds after each try.
        pace: By what all pauses are multiplied.
        tries: Launches since the last success.
    """

    started: float
    wanted: int
    patience: float
    boot_s: float = 1260.0
    pauses: tuple[float, ...] = PAUSES_S
    pace: float = 1.0
    tries: int = 0
    #: Machines that AWS takes back in two minutes.
    leaving: set[str] = field(default_factory=set)
    #: How many stay, whatever is wanted: the scheduler's own machine, if it has a worker.
    least: int = 0
    _begun: bool = False
    _held: dict[str, float] = field(default_factory=dict)
    _there: set[str] = field(default_factory=set)
    _gone: dict[str, float] = field(default_factory=dict)
    _listed: dict[str, float] = field(default_factory=dict)
    _states: dict[str, str] = field(default_factory=dict)
    # What ran, and AWS's last list lacked.
    _missed: set[str] = field(default_factory=set)
    _fresh: dict[str, float] = field(default_factory=dict)
    _own: dict[str, _Launched] = field(default_factory=dict)
    _launches: int = 0
    _full_since: float | None = None
    _over_since: float | None = None
    _lacks_since: float | None = None
    _look_at: float = 0.0
    _try_at: float = 0.0

    def told(self, now: float, wanted: int | None = None, launched: Iterable[str] = ()) -> None:
        """A client says how many are wanted, and which machines it has just launched."""
        self._begun = True
        if wanted is not None:
            self.wanted = max(wanted, 0)
        self.tries, self._try_at, self._look_at = 0, now, now
        self._fresh.update(dict.fromkeys(launched, now))

    def hold(self, now: float, who: str) -> bool:
        """A client launches or retires workers itself, and says so again.

        Returns:
            Whether it may: one at a time.
        """
        if self._holds(now, but=who):
            return False
        self._held[who] = now
        return True

    def _holds(self, now: float, but: str = "") -> bool:
        return any(one != but and now - since < HOLD_S for one, since in self._held.items())

    def release(self, who: str) -> None:
        """It is done."""
        self._held.pop(who, None)

    def alone(self, now: float) -> None:
        """No client is there any more; what one has just launched is in AWS's list in a moment."""
        if self._held:
            self._held.clear()
            self._look_at = max(self._look_at, now + self.pace * LOOK_S)

    def workers(self, now: float, there: Iterable[str]) -> None:
        """These machines have a worker that the scheduler knows."""
        found = set(there)
        self.left(now, self._there - found)
        for machine in found:
            self._gone.pop(machine, None)
            if machine in self._own and self._own[machine].since is None:
                self._own[machine].since = now
        for machine, own in list(self._own.items()):
            stays = own.since is not None and now - own.since >= STABLE_S
            if stays:
                self.tries = 0
            if stays or (own.since is not None and machine in self._gone):
                del self._own[machine]
        self._there = found
        if len(found - self.leaving) >= self.wanted:
            self._full_since = now if self._full_since is None else self._full_since
            self._lacks_since = None
            if now - self._full_since >= STABLE_S:
                self.tries = 0
        else:
            self._full_since = None
            self._lacks_since = now if self._lacks_since is None else self._lacks_since

    def left(self, now: float, machines: Iterable[str]) -> None:
        """The scheduler has lost the worker of these, however short it was there."""
        for machine in machines:
            self._gone.setdefault(machine, now)
            soon = now + self.pace * FIRST_LOOK_S
            self._look_at = min(self._look_at, soon) if self._look_at > now else soon

    def going(self, machines: Iterable[str]) -> None:
        """A client ends these; what it launched a moment ago is not on its way any more."""
        for machine in machines:
            self._fresh.pop(machine, None)

    def announced(self, now: float, machines: Iterable[str]) -> None:
        """AWS has said that it takes these back."""
        self.leaving.update(machines)
        self._look_at = now

    def look_due(self, now: float) -> bool:
        """Whether AWS should be asked for its list."""
        begun = self._begun or now - self.started >= START_S
        lacks = len(self._there - self.leaving) < self.wanted
        return begun and not self._holds(now) and lacks and not self.spent and now >= self._look_at

    def excess_due(self, now: float) -> bool:
        """Whether there have been more workers than wanted for a while, with nobody at work on that.

        A worker that stayed away for so long that it was replaced may come back.
        """
        most = max(self.wanted, self.least)
        over = self._begun and len(self._there - self.leaving) > most and not self._holds(now)
        self._over_since = (now if self._over_since is None else self._over_since) if over else None
        return self._over_since is not None and now - self._over_since >= STABLE_S and now >= self._look_at

    def excess(self, now: float) -> tuple[set[str], int]:
        """Of which machines how many may go, by the list that AWS gave last."""
        self._over_since = now  # those that have work are looked at again in a while
        stay = {machine for machine in self._there - self.leaving if self._states.get(machine) in _ALIVE}
        return stay, max(len(stay) - max(self.wanted, self.least), 0)

    def unanswered(self, now: float) -> None:
        """AWS did not give its list."""
        self._look_at = now + self.pace * LATER_LOOK_S

    def machines(self, now: float, states: Mapping[str, str]) -> None:
        """AWS lists these machines with workers, in these states.

        One that ran, and is in one list no more, runs on for all that is known: what ended is listed as that
        for an hour, and a list may lack what another has.
        https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
        """
        over = states.keys() | self._missed | self.leaving
        missed = {m: state for m, state in self._states.items() if state in _ALIVE and m not in over}
        self._missed = set(missed)
        states = {**missed, **states}
        self._states = dict(states)
        self._fresh = {
            machine: since
            for machine, since in self._fresh.items()
            if machine not in states and now - since < NOT_LISTED_YET_S
        }
        self._gone = {machine: since for machine, since in self._gone.items() if machine in states}
        self.leaving &= states.keys() | self._there
        self._listed = {machine: self._listed.get(machine, now) for machine in states}
        self._bury()
        early = self._lacks_since is None or now - self._lacks_since < A_WHILE_S
        self._look_at = now + self.pace * (LOOK_S if early else LATER_LOOK_S)

    def _bury(self) -> None:
        """See which machines that were launched here ended before they joined."""
        ended = {m for m in self._own if self._states.get(m, "running") not in _ALIVE}
        dead = {m for m in ended if self._own[m].since is None}
        for launch in {self._own[m].launch for m in dead}:
            if all(own.launch != launch or m in dead for m, own in self._own.items()):
                self.tries += STILLBORN - 1
        for machine in ended:
            del self._own[machine]

    def alive(self) -> set[str]:
        """The machines that are there or on their way, by all that is known."""
        listed = {machine for machine, state in self._states.items() if state in _ALIVE}
        ended = self._states.keys() - listed
        return listed | self._fresh.keys() | (self._there - ended)

    def lacking(self, now: float) -> int:
        """How many machines to launch, by the list that AWS gave last."""
        alive = self.alive()
        lost = {machine for machine in alive - self._there if self._is_lost(now, machine)} | self.leaving
        return max(min(self.wanted - len(alive - lost), 2 * self.wanted - len(alive)), 0)

    def _is_lost(self, now: float, machine: str) -> bool:
        """Whether a machine that runs is not going to have a worker any more."""
        if machine in self._gone:
            return now - self._gone[machine] >= self.patience
        return machine in self._listed and now - self._listed[machine] >= self.boot_s

    def unlisted(self, now: float) -> list[str]:
        """Machines that were launched a moment ago, by whom ever, and that AWS did not list yet."""
        fresh = (m for m, since in self._fresh.items() if now - since < NOT_LISTED_YET_S)
        return sorted(m for m in fresh if m not in self._there and m not in self._gone)

    def may_try(self, now: float) -> bool:
        """Whether a launch may be tried now."""
        return not self.spent and now >= self._try_at

    @property
    def spent(self) -> bool:
        """Whether all tries were made."""
        return self.tries >= len(self.pauses)

    def tried(self, now: float, launched: Iterable[str] = ()) -> None:
        """A launch was tried; it gave these machines, or none."""
        self._launches += 1
        for machine in launched:
            self._fresh[machine], self._own[machine] = now, _Launched(self._launches)
        self._try_at = now + self.pace * self.pauses[min(self.tries, len(self.pauses) - 1)]
        self.tries += 1
