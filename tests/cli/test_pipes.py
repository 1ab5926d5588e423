"""What is piped: whole lines, and no end of the work where nobody reads on."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_coiled import Cluster
from prefect_coiled.sandbox import SandboxInfo

from .conftest import run


def begun(*words: str, output: str | None = None) -> subprocess.Popen[str]:
    """The command line in a process of its own, whose output is read from a pipe, or goes to a file."""
    environ = {key: value for key, value in os.environ.items() if key != "PREFECT_LOGGING_LEVEL"}
    return subprocess.Popen(
        [sys.executable, "-m", "prefect_coiled.cli", *words],
        env={**environ, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output is None else os.open(output, os.O_WRONLY),
        stderr=subprocess.PIPE,
        text=True,
    )


def closed_after(lines: int, *words: str) -> tuple[int, str]:
    """The status and the errors of a command of which somebody reads so many lines."""
    process = begun(*words)
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(lines):
        process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    return process.wait(timeout=300), error


@pytest.mark.parametrize("words", ["ls", "ls --json", "account list", "quotas", "policies setup"])
def test_what_shows_something_ends_quietly_where_nobody_reads_it(words: str, sandbox: SandboxInfo) -> None:
    assert closed_after(0, *words.split()) == (0, "")


@pytest.mark.parametrize("words", ["--version", "ls --help", "ls", "sandbox status --json"])
def test_a_disk_that_is_full_is_told_in_one_line(words: str, sandbox: SandboxInfo) -> None:
    process = begun(*words.split(), output="/dev/full")
    assert process.communicate(timeout=300)[1] == (
        "Error: standard output could not be written: No space left on device.\n"
    )
    assert process.returncode == 1


@pytest.mark.parametrize(("closed", "status"), [("<&-", 1), (">&-", 0), ("2>&-", 0)])
def test_what_a_shell_closed_is_as_an_empty_file(closed: str, status: int, sandbox: SandboxInfo) -> None:
    words = "setup aws --account closed" if status else "sandbox status"
    command = f"exec {shlex.quote(sys.executable)} -m prefect_coiled.cli {words} {closed}"
    environ = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (status, "Aborted. Nothing was changed.\n" if status else "")


@pytest.mark.long
def test_a_set_up_goes_on_where_nobody_reads_on(sandbox: SandboxInfo) -> None:
    keys = ("--access-key-id", "sandbox", "--secret-access-key", sandbox.secret_access_key)
    place = ("--account", "piped", "--region", "eu-north-1")
    words = ("setup", "aws", "--yes", *place, "--endpoint-url", sandbox.endpoint, *keys)
    assert closed_after(1, *words) == (0, "")
    there = {one["kind"] for one in json.loads(run("resources", *place, "--json").stdout)}
    assert {"VPC", "subnet", "IAM role", "NAT gateway"} <= there


def test_logs_that_are_followed_end_where_nobody_reads_on(cluster: Cluster) -> None:
    assert closed_after(1, "logs", cluster.name, "--follow") == (0, "")


def test_a_table_in_a_pipe_is_not_folded(cluster: Cluster) -> None:
    ids = [one["resource_id"] for one in json.loads(run("resources", "--json").stdout)]
    table = begun("resources").communicate(timeout=300)[0].splitlines()
    for one in ids:
        assert [line for line in table if one in line], one
    told = begun("notifications", "--limit", "500").communicate(timeout=300)[0].splitlines()
    rows = json.loads(run("notifications", "--limit", "500", "--json").stdout)
    assert len(told) == len(rows) + 1
