"""A command that fails says why, once: its cause and what to do next, and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterLevel
from prefect.settings import PREFECT_API_URL

from prefect_coiled.doctor import Examination
from prefect_coiled.sandbox import SandboxInfo
from prefect_coiled.sandbox.info import ask

from .conftest import run

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


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch, sandbox: SandboxInfo) -> list[float]:
    """The examinations that the doctor made, by what each might cost: none takes any time."""
    made: list[float] = []
    nothing: dict[str, Any] = {
        "steps": (),
        "calls": {},
        "codes": {},
        "unknown_codes": (),
        "fields": {},
        "lacking": {},
    }

    def examine(account: object, *, spend: float) -> Examination:
        made.append(spend)
        where = {"version": "1", "python": "3", "region": "us-east-1", "sandbox": True, "usd_at_most": spend}
        return Examination.model_validate(where | nothing)

    monkeypatch.setattr("prefect_coiled.doctor.examine", examine)
    monkeypatch.setattr("prefect_coiled.doctor.hourly_price", lambda account: 0.05)
    return made


def test_a_report_that_cannot_be_written_is_told_before_anything_is_spent(lives: list[float]) -> None:
    told = run("doctor", "--report", "/proc/report.json")  # where nobody makes a file
    assert (told.exit_code, lives) == (1, [])
    (line,) = told.stderr.splitlines()
    assert line.startswith("Error: report /proc/report.json: it cannot be written: ")
    assert line.endswith("Name another file.")


@pytest.mark.parametrize("spend", ["0.001", "nan"])
def test_what_is_too_little_for_the_doctor_is_told_before_anybody_is_asked(
    spend: str, lives: list[float], save: Callable[..., Any], keys: dict[str, str]
) -> None:
    save(**keys)
    told = run("doctor", "--account", "saved", "--spend", spend, answer="y\n")
    assert (told.exit_code, told.stdout, lives) == (1, "", [])
    assert told.stderr.startswith(f"Error: spend {spend}: is less than ten minutes of two t3.small cost")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_report_that_cannot_be_written_in_the_end_is_printed(lives: list[float], flags: list[str]) -> None:
    told = run("doctor", "--report", "/dev/full", *flags)
    assert (told.exit_code, lives) == (1, [0.5])
    printed, _ = json.JSONDecoder().raw_decode(told.stdout, told.stdout.index("{"))
    assert Examination.model_validate(printed).usd_at_most == 0.5
    (line,) = told.stderr.splitlines()
    assert "report /dev/full: it could not be written: No space left on device. It is printed" in line


def test_a_report_that_is_tried_leaves_no_file_and_one_that_is_there_is_replaced(
    lives: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "report.json"
    assert run("doctor", "--report", str(report), "--spend", "2").exit_code == 0
    assert Examination.model_validate_json(report.read_text()).usd_at_most == 2
    assert run("doctor", "--report", str(report)).exit_code == 0
    assert Examination.model_validate_json(report.read_text()).usd_at_most == 0.5
    report.unlink()

    def killed(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prefect_coiled.doctor.examine", killed)
    run("doctor", "--report", str(report))
    assert not report.exists()
