"""A client elsewhere: another time zone, a locale that knows no letters but ASCII."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

Live = Callable[[], list[dict[str, Any]]]

FLOW = """
import json, sys, time
import prefect_coiled.sandbox.control as control
info = control.SandboxInfo(**json.loads(sys.argv[1]))
control.ensure_started = lambda: info
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
from prefect.runtime import task_run
from prefect_coiled import CoiledTaskRunner

@task(log_prints=True)
def greet(name):
    from datetime import datetime
    print("\\u00a1" + name)
    return name, time.tzname[0], datetime.now().astimezone().utcoffset().total_seconds(), time.time()

@flow(name="gr\\u00fc\\u00dfe", task_runner=CoiledTaskRunner(
    n_workers=1, wait_for_workers=True, tags={"team": "M\\u00fcnchen"}, environ={"NAME": "Z\\u00fcrich"}))
def greetings():
    found = greet.submit("Zo\\u00eb \\u2764").result()
    assert found[0] == "Zo\\u00eb \\u2764", ascii(found)
    assert found[2] == 0, "machines have the time of UTC"
    assert abs(found[3] - time.time()) < 60
    return found

greetings()
print("RIGHT", time.tzname[0])
"""
PLACES = {
    "west": {"TZ": "America/New_York", "LC_ALL": "C.UTF-8"},
    "half an hour": {"TZ": "Asia/Kathmandu", "LC_ALL": "C.UTF-8"},
    "ascii": {"TZ": "UTC", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("where", PLACES)
def test_a_flow_runs_from_any_time_zone_and_locale(
    where: str, told: str, environ: dict[str, str], live: Live
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLOW, told],
        env={**environ, **PLACES[where], "PYTHONWARNDEFAULTENCODING": "1"},
        capture_output=True,
        check=False,
        timeout=240,
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, said
    assert "RIGHT" in said
    assert live() == []
    # What is written or read in this library is said to be of an encoding.
    ours = [line for line in said.splitlines() if "EncodingWarning" in line and "/prefect_coiled/" in line]
    assert ours == []
