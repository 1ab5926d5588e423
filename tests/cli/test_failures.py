"""A command that fails says why, once: its cause and what to do next, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterLevel
from prefect.settings import PREFECT_API_URL

from prefect_coiled.sandbox import SandboxInfo
from prefect_coiled.sandbox.info import ask

Refuse = Callable[..., None]

# The command, which call AWS refuses in it, and how the sentence begins.
NEW = "set-up --region eu-west-3"  # where nothing else sets anything up
CASES = {
    NEW: ("CreateVpc", "creating VPC"),
    "sweep": ("DescribeVpcs", "finding"),
    "stop anything --yes": ("DescribeInstances", "finding"),
    "account destroy default --yes": ("DescribeSubnets", "finding"),
    "resources": ("DescribeNatGateways", "finding"),
}


@pytest.fixture
def refuse(sandbox: SandboxInfo) -> Iterator[Refuse]:
    """Has the background sandbox refuse a call of EC2's from now on."""

    def set_faults(*actions: str) -> None:
        rule = {"service": "ec2", "effect": "error", "code": "UnauthorizedOperation", "status": 403}
        rules = [{**rule, "action": action} for action in actions]
        body, secret = {"rules": rules, "seed": 0}, sandbox.secret_access_key
        ask(sandbox.endpoint, "POST", "faults", body, secret=secret)

    yield set_faults
    set_faults()


@pytest.mark.parametrize("command", CASES)
def test_a_failing_command_tells_its_cause_once_and_no_traceback(command: str, refuse: Refuse) -> None:
    action, what = CASES[command]
    refuse(action)
    environ = {key: value for key, value in os.environ.items() if key != "PREFECT_LOGGING_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-m", "prefect_coiled.cli", *command.split()],
        env={**environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: "), done.stderr
    assert what in lines[-1]
    assert done.stderr.count("UnauthorizedOperation") == 1
    assert "Attach the" in lines[-1]
    assert "Traceback" not in done.stdout + done.stderr


def test_the_traceback_is_in_the_runs_log(refuse: Refuse) -> None:
    test_a_failing_command_tells_its_cause_once_and_no_traceback(NEW, refuse)
    with get_client(sync_client=True) as client:
        errors = client.read_logs(LogFilter(level=LogFilterLevel(ge_=40)), limit=200)
    assert any("Traceback" in log.message and "UnauthorizedOperation" in log.message for log in errors)
