"""The package itself: it loads what is used, when it is used."""

from __future__ import annotations

import subprocess
import sys

FROZEN = """
import datetime, sys
import prefect_coiled

class Stand(datetime.datetime):
    pass

datetime.datetime = Stand  # as freezegun does, which then gets each name of each module
for name in dir(prefect_coiled):
    getattr(prefect_coiled, name)
print(sorted(one for one in sys.modules if one.startswith(("prefect", "dask", "pydantic"))))
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_test_whose_clock_is_frozen_loads_nothing_of_it() -> None:
    assert run(FROZEN) == "['prefect_coiled']"


def test_all_names_are_listed_and_the_blocks_are_found_by_them() -> None:
    code = "import inspect, prefect_coiled; print([name for name, _ in inspect.getmembers(prefect_coiled)])"
    assert {"Cluster", "CoiledTaskRunner", "Ec2DaskAccount", "Ec2DaskRegistry"} <= set(eval(run(code)))
