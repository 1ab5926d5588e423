"""What a program's main script has goes to a worker by value, where its name would lead nowhere there."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import functools, sys, typing, typing_extensions
import cloudpickle
from prefect_coiled.cluster import base
from prefect_coiled.task_runner.by_name import Pickler

P = typing.ParamSpec("P")
Row = typing.NewType("Row", int)
Names = getattr(typing, "TypeVarTuple", typing.TypeVar)("Names")

@functools.lru_cache(maxsize=7, typed=True)
def cached(x): return 2 * x

@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)

class Holder:
    @functools.lru_cache
    def method(self): return 3
    @staticmethod
    @functools.cache
    def static(): return 4

def timed(function: "typing.Callable") -> "typing.Callable":
    @functools.wraps(function)
    def inner(*args): return function(*args)
    return inner
timed.__annotations__["function"] = typing.Callable[P, int]

def row(x: Row) -> Row: return Row(x + 1)

Whole = typing_extensions.TypeAliasType("Whole", int)

def whole(x: Whole): return x

def many(*names): return names
many.__annotations__["names"] = Names

def local():
    @functools.cache
    def inner(): return 5
    return inner

USES = {
    "a cache": lambda: (cached(2), cached.cache_parameters(), cached.cache_info().currsize),
    "a cache that calls itself": lambda: fib(20),
    "a method's cache": lambda: Holder().method() + Holder.static(),
    "a cache of a function inside of another": local(),
    "parameters of a decorator": lambda: timed(lambda: 1)(),
    "a type of one's own": lambda: (row(1), row.__annotations__["x"].__name__, Row.__module__),
    "another name of a type": lambda: (whole(1), whole.__annotations__["x"].__value__),
    "types in any number": lambda: many(1, 2),
}
import io, json
written = {}
for what, use in USES.items():
    for pickler in (cloudpickle.Pickler, Pickler):
        buffer = io.BytesIO()
        pickler(buffer).dump(use)
        written.setdefault(what, []).append(buffer.getvalue().hex())
print(json.dumps(written))
"""
GIVES = {
    "a cache": (4, {"maxsize": 7, "typed": True}, 1),
    "a cache that calls itself": 6765,
    "a method's cache": 7,
    "a cache of a function inside of another": 5,
    "parameters of a decorator": 1,
    "a type of one's own": (2, "Row", "__main__"),
    "another name of a type": (1, int),
    "types in any number": (1, 2),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the script sends of each use, as Dask and as Prefect write it."""
    script = tmp_path_factory.mktemp("job") / "job.py"
    script.write_text(SCRIPT)
    command = [sys.executable, script.name]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sent: dict[str, list[str]] = json.loads(done.stdout)
    return sent


@pytest.mark.parametrize(("what", "gives"), GIVES.items(), ids=list(GIVES))
def test_what_the_main_script_has_under_a_name_alone_goes_by_value(
    written: dict[str, list[str]], what: str, gives: Any
) -> None:
    by_dask, by_prefect = map(bytes.fromhex, written[what])
    assert pickle.loads(by_dask)() == gives
    assert pickle.loads(by_prefect)() == gives


def test_what_a_name_leads_to_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_cache.py").write_text("import functools\n@functools.cache\ndef one(): return object()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    imports = "import prefect_coiled.cluster.base, cloudpickle, own_cache"
    command = [sys.executable, "-c", f"{imports}; print(cloudpickle.dumps(own_cache.one).hex())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    import own_cache  # type: ignore[import-not-found]

    try:
        assert pickle.loads(bytes.fromhex(done.stdout.strip())) is own_cache.one
    finally:
        del sys.modules["own_cache"]
