"""Two users at once: at each change of the one, the other comes and goes as far as he comes.

make test                                        # three pairs
python -m pytest tests/matrix/test_races.py      # each pair, at a few places
make races                                       # at every change, before it and after it
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from prefect_coiled.aws import leases, parameters
from prefect_coiled.errors import PrefectCoiledError
from tests.provision.laid import hurry

from .lives import Life, what_there_is
from .races import Race
from .worlds import World, after, age, begin, differences

ALL = os.environ.get("PREFECT_COILED_RACES") == "all"
# At how many places of each pair the first is held, for more than a sample and less than all.
PLACES = int(os.environ.get("PREFECT_COILED_RACES_PLACES", "3"))
TABLE = os.environ.get("PREFECT_COILED_RACES_TABLE")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of waits pass faster."""
    hurry(monkeypatch, 30.0, young=True)
    # But not that of a lease: its holder takes the time that a set-up takes.
    monkeypatch.setattr(leases, "PATIENCE", leases.PATIENCE * 30.0)
    # What was there before the two came is old: a sweep leaves alone what somebody may be starting.
    age(monkeypatch, parameters, _BEFORE)


class Pair(NamedTuple):
    """What there is before, what two users do, and what may be there in the end: what any of these leaves.

    Attributes:
        both: Whether both have to succeed.
        swept: Whether a sweep comes between the end and the look.
    """

    before: tuple[str, ...]
    first: str
    second: str
    ends: tuple[tuple[str, ...], ...]
    both: bool = True
    swept: bool = False


READY, THERE, BAKED = ("ready",), ("ready", "create"), ("ready", "bake")
PAIRS = {
    "set-up and set-up": Pair((), "set_up", "set_up", (("set_up",),)),
    "set-up and destroy": Pair((), "set_up", "destroy", (("set_up",), ()), both=False),
    "destroy and set-up": Pair(READY, "destroy", "set_up", (("set_up",), ()), both=False),
    "destroy and destroy": Pair(READY, "destroy", "destroy", ((),)),
    "sweep and launch": Pair((*THERE, "orphan"), "sweep", "create", (THERE,), swept=True),
    "launch and sweep": Pair((*THERE, "orphan"), "create", "sweep", (THERE,), swept=True),
    "sweep and sweep": Pair((*THERE, "orphan"), "sweep", "sweep", (READY,)),
    "launch and launch": Pair(READY, "create", "create", (THERE,)),
    # A launch into an account that is gone by then sets it up anew, in all zones.
    "launch and destroy": Pair(READY, "create", "destroy", (THERE, (), ("create",)), both=False),
    "destroy and launch": Pair(READY, "destroy", "create", (THERE, (), ("create",)), both=False),
    "destroy and launch without gateway": Pair(
        READY,
        "destroy",
        "create_without_gateway",
        ((*READY, "create_without_gateway"), (), ("create_without_gateway",)),
        both=False,
    ),
    "close and attach": Pair(THERE, "delete", "create", (THERE, READY), both=False),
    "scale and scale": Pair(THERE, "add_one", "add_one", ((*THERE, "add_one", "add_one"),)),
    "up and down": Pair(
        THERE, "add_one", "shrink", ((*THERE, "add_one", "shrink"), (*THERE, "shrink", "add_one"))
    ),
    "scale and close": Pair(THERE, "add_one", "delete", (READY,), both=False),
    "close and scale": Pair(THERE, "delete", "add_one", (READY,), both=False),
    "scale down and close": Pair(THERE, "shrink", "delete", (READY,)),
    "firewall and close": Pair(THERE, "open_a_port", "delete", (READY,), both=False),
    "close and firewall": Pair(THERE, "delete", "open_a_port", (READY,), both=False),
    "firewall and firewall": Pair(THERE, "open_a_port", "open_a_port", ((*THERE, "open_a_port"),)),
    "close and close": Pair(THERE, "delete", "delete", (READY,)),
    "bake and sweep": Pair(READY, "bake", "sweep", (BAKED,)),
    "sweep and bake": Pair((*THERE, "orphan"), "sweep", "bake", (BAKED,)),
    "bake and bake": Pair(READY, "bake", "bake", (BAKED,), both=False),
    "bake and destroy": Pair(READY, "bake", "destroy", (BAKED, (), ("bake",)), both=False),
    "destroy and bake": Pair(READY, "destroy", "bake", (BAKED, (), ("bake",)), both=False),
    "bake and launch": Pair(READY, "bake", "create", ((*READY, "create", "bake"),)),
}
# The values of parameters that were there before the two came.
_BEFORE: set[str] = set()
# What `make test` runs of them.
SHORT = ("sweep and launch",)


def places(number: int) -> list[tuple[int, bool]]:
    """At which changes the first is held: all, or a few of them and the last."""
    every = [(at, late) for at in range(number) for late in (False, True)]
    return every if ALL else sorted({*every[:: max(len(every) // PLACES, 1)], (number - 1, False)})


def note(row: dict[str, object]) -> None:
    """Add a row to the table of what was run and what came of it, where one is asked for."""
    if TABLE:
        with Path(TABLE).open("a") as file:
            file.write(json.dumps(row) + "\n")


# One that is refused has threads that meet it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "pair", [p if p in SHORT else pytest.param(p, marks=pytest.mark.long) for p in PAIRS]
)
def test_two_at_once_end_as_one_after_the_other_would(world: World, pair: str) -> None:
    race_of = PAIRS[pair]
    after(world)
    ends = [after(world, *steps) for steps in race_of.ends]
    _begin(world, race_of)
    with (alone := Life()).lived():
        getattr(world, race_of.first)()
    assert alone.calls, f"{race_of.first} changes nothing: there is no place to hold it at"
    wrong = {}
    for at, late in places(len(alone.calls)):
        where, begun = f"{'after' if late else 'before'} {at} {alone.calls[at]}", time.monotonic()
        try:
            told = _cell(world, race_of, Race(at, after=late), ends)
        except Exception as error:
            told = [f"{type(error).__name__}: {error}"[:300]]
        note({"pair": pair, "held": where, "wrong": told, "seconds": round(time.monotonic() - begun, 1)})
        if told:
            wrong[where] = told
    assert not wrong, json.dumps(wrong, indent=1)


def _begin(world: World, pair: Pair) -> None:
    begin(world, *pair.before)
    _BEFORE.clear()
    _BEFORE.update(world.parameters())


def _cell(world: World, pair: Pair, race: Race, ends: list[Counter[str]]) -> list[str]:
    _begin(world, pair)
    race.run(getattr(world, pair.first), getattr(world, pair.second))
    told = []
    for who, error in race.ended.items():
        if error is not None and (pair.both or not isinstance(error, PrefectCoiledError)):
            told.append(f"the {who}: {type(error).__name__}: {error}"[:400])
    if pair.swept:
        world.sweep()
    found = what_there_is(world.sandbox)
    if found not in ends:
        least = min((differences(found, one) for one in ends), key=len)
        errors = {who: str(error)[:300] for who, error in race.ended.items() if error is not None}
        told += [*least, *(f"{who} said: {error}" for who, error in errors.items())]
    return told
