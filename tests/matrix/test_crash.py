"""Every call that changes something, and each way in which it can go wrong: then a sweep, or the same again.

make test                                        # one fault of each thing that a user does, at some calls
python -m pytest tests/matrix/test_crash.py      # a sample of each fault
make crash-matrix                                # every call, and pairs of them in a launch; writes the table
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prefect_coiled.aws import leases
from prefect_coiled.errors import PrefectCoiledError
from tests.provision.laid import hurry

from .lives import FAULTS, Killed, Life, answer, called, what_there_is
from .worlds import World, after, age, begin, differences

ALL = os.environ.get("PREFECT_COILED_MATRIX") == "all"
TABLE = os.environ.get("PREFECT_COILED_MATRIX_TABLE")
# How many pairs of faults of a launch are tried, and which.
PAIRS = int(os.environ.get("PREFECT_COILED_MATRIX_PAIRS") or (300 if ALL else 3))
PAIRS_SEED = int(os.environ.get("PREFECT_COILED_MATRIX_SEED", "1"))
# The values of parameters that an earlier life left.
_LEFT: set[str] = set()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of waits pass some hundred times as fast; no cluster counts as one that somebody starts now."""
    hurry(monkeypatch)
    # A lease of a life that is no more is old by the time that somebody else comes.
    age(monkeypatch, leases, _LEFT)


class Way(NamedTuple):
    """Something that a user does.

    Attributes:
        before: What there is before.
        does: What he does.
        swept: What may be there after a fault and a sweep: what any of these leaves; none where no sweep is
            for that.
        again: How he does the same once more.
        knows: Whether what an earlier launch saw of the account is known; None where that does not matter.
    """

    before: tuple[str, ...]
    does: str
    swept: tuple[tuple[str, ...], ...] = ()
    again: str = ""
    knows: bool | None = None


READY = ("ready",)
WAYS = {
    "set-up": Way((), "set_up"),
    "create": Way(READY, "create", (READY,), knows=False),
    "create by what is known": Way(READY, "create", (READY,), knows=True),
    "scale up": Way((*READY, "create"), "grow"),
    "scale down": Way((*READY, "create"), "shrink"),
    "delete": Way((*READY, "create"), "delete", (READY,)),
    "sweep": Way((*READY, "create", "orphan"), "sweep", (READY,)),
    "destroy": Way(READY, "destroy"),
    # An image that was made is whole, and stays.
    "bake": Way(READY, "bake", (READY, (*READY, "bake")), "bake_again"),
}


def note(row: dict[str, Any]) -> None:
    """Add a row to the table of what was run and what came of it, where one is asked for."""
    if TABLE:
        with Path(TABLE).open("a") as file:
            file.write(json.dumps(row) + "\n")


def lives(step: Callable[[], Any], faults: Mapping[int | str, str]) -> Life:
    """One life with its faults, and how it ended is its own."""
    life = Life(faults)
    with life.lived():
        try:
            step()
        except (PrefectCoiledError, Killed):
            pass
        except BaseException as error:
            if not any(isinstance(one, Killed) for one in _causes(error)) and "Killed" not in str(error):
                raise
    return life


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def chosen(number: int, of: int, fault: str) -> bool:
    """A sample, another one for each fault, and at least one of each."""
    return ALL or number % 11 == FAULTS.index(fault) % min(of, 11)


_FIRST = {("sweep", "killed before")}


# A life that is no more has threads that meet it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("way", "fault"),
    [
        # One fault of one way is met by `make test`.
        pytest.param(way, fault, marks=() if (way, fault) in _FIRST else pytest.mark.long)
        for way in WAYS
        for fault in FAULTS
    ],
)
def test_after_a_fault_at_any_call_a_sweep_cleans_up_and_the_same_command_reaches_its_goal(
    world: World, way: str, fault: str
) -> None:
    here = WAYS[way]
    goal, rests, counted = _without_a_fault(world, here)
    wrong = []
    for number in range(len(counted.calls)):
        if not chosen(number, len(counted.calls), fault):
            continue
        row = {"way": way, "fault": fault, "number": number, "call": counted.calls[number]}
        wrong += _noted(row, partial(_cell, world, here, {number: fault}, goal, rests))
    assert not wrong, json.dumps(wrong, indent=1)


# A launch goes on after the first of these, and so meets the second.
_GO_ON = ("reply lost", "failed after the effect", "denied", "slowed down")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.timeout(7200)
def test_after_two_faults_of_a_launch_a_sweep_cleans_up_and_the_same_command_reaches_its_goal(
    world: World,
) -> None:
    way = WAYS["create"]
    goal, rests, counted = _without_a_fault(world, way)
    many = len(counted.calls)
    pairs = [(i, a, j, b) for i in range(many) for a in _GO_ON for j in range(i + 1, many) for b in FAULTS]
    # Others with another seed; all of them would take days.
    chance = random.Random(PAIRS_SEED)
    wrong = []
    for one, first, other, second in chance.sample(pairs, PAIRS):
        faults: dict[int | str, str] = {one: first, other: second}
        row = {"way": "create", "faults": [[one, first], [other, second]]}
        wrong += _noted(row, partial(_cell, world, way, faults, goal, rests))
    assert not wrong, json.dumps(wrong, indent=1)


def _noted(row: dict[str, Any], cell: Callable[[], list[str]]) -> list[dict[str, Any]]:
    """Run a cell and note its row; the row once more if something in it is wrong."""
    begun = time.monotonic()
    try:
        row["wrong"] = cell()
    except Exception as error:
        row["wrong"] = [f"{type(error).__name__}: {error}"[:300]]
    note({**row, "seconds": round(time.monotonic() - begun, 1)})
    return [row] if row["wrong"] else []


def _without_a_fault(world: World, way: Way) -> tuple[Counter[str], list[Counter[str]], Life]:
    """What there is at the end, what may be there after a sweep, and the calls."""
    after(world)
    goal = after(world, *way.before, way.does)
    rests = [after(world, *steps) for steps in way.swept]
    begin(world, *way.before, anew=way.does == "bake", knows=way.knows)
    with (counted := Life()).lived():
        getattr(world, way.does)()
    assert counted.calls, f"{way.does} changes nothing: there is no call to have a fault at"
    return goal, rests, counted


def _cell(
    world: World, way: Way, faults: Mapping[int | str, str], goal: Counter[str], rests: list[Counter[str]]
) -> list[str]:
    wrong: list[str] = []
    for then in ("the same again", *(["a sweep"] if rests else [])):
        # A bake makes fewer calls where the bucket has its packages.
        begin(world, *way.before, anew=way.does == "bake", knows=way.knows)
        if not lives(getattr(world, way.does), faults).met:
            wrong.append(f"{then}: the call was never made")
        _LEFT.update(world.parameters())
        if way.does in ("create", "bake", "delete"):
            world.end_by_themselves()
        if then == "a sweep":
            world.sweep()
            found = what_there_is(world.sandbox)
            if found not in rests:
                least = min((differences(found, rest) for rest in rests), key=len)
                wrong += [f"{then}: {one}" for one in least]
            with (second := Life()).lived():
                world.sweep()
            wrong += [f"a second sweep: {call}" for call in second.calls]
        elif what_there_is(world.sandbox) != goal or way.does in ("set_up", "delete", "sweep", "destroy"):
            with called(answer):
                getattr(world, way.again or way.does)()
            wrong += [f"{then}: {one}" for one in differences(what_there_is(world.sandbox), goal)]
    return wrong
