"""Ctrl-C: the last line says what is left, its price, and what the next run does; there is no traceback."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_coiled import Cluster, load_account
from prefect_coiled.provision import take_inventory
from prefect_coiled.sandbox import SandboxInfo
from prefect_coiled.sandbox.info import ask

from .conftest import run

Until = Callable[..., Any]


class Ended(NamedTuple):
    """A program that was interrupted."""

    code: int
    output: str

    @property
    def last(self) -> str:
        return self.output.rstrip().splitlines()[-1]


class Typed:
    """A program in a terminal of its own, with who reads along.

    Args:
        words: The command line of ours, or a file of Python.
    """

    def __init__(self, *words: str, **environ: str) -> None:
        given = {k: v for k, v in os.environ.items() if k != "PREFECT_LOGGING_LEVEL"}
        given["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
        file = len(words) == 1 and words[0].endswith(".py")
        command = [sys.executable, *(() if file else ("-m", "prefect_coiled.cli")), *words]
        self._leader, follower = pty.openpty()
        self._seen = b""
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**given, **environ},
            start_new_session=True,
        )
        os.close(follower)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                got = os.read(self._leader, 4096)
            except OSError:  # the other end is closed
                return
            self._seen += got

    @property
    def output(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self._seen.decode(errors="replace"))

    def interrupt(self) -> None:
        """As a terminal does: everybody who is in it gets the signal."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Ended:
        code = self.process.wait(90)
        self._reader.join(10)
        os.close(self._leader)
        return Ended(code, self.output)


@pytest.fixture
def slow(sandbox: SandboxInfo, until: Until) -> Iterator[Callable[[str], Callable[[], None]]]:
    """Have calls of an action take seconds; gives what waits until one was made."""
    secret = sandbox.secret_access_key

    def set_faults(*rules: dict[str, Any]) -> None:
        ask(sandbox.endpoint, "POST", "faults", {"rules": list(rules), "seed": 0}, secret=secret)

    def hold(action: str) -> Callable[[], None]:
        set_faults({"effect": "latency", "action": action, "seconds": 3})
        return lambda: until(lambda: ask(sandbox.endpoint, "GET", "faults", secret=secret), 60)

    yield hold
    set_faults()


def interrupted(slow: Callable[[str], Callable[[], None]], action: str, *words: str) -> Ended:
    """What becomes of a command that gets Ctrl-C while it waits for AWS to do an action."""
    struck = slow(action)
    typed = Typed(*words)
    struck()
    typed.interrupt()
    return typed.end()


def orderly(ended: Ended) -> None:
    for word in ("Traceback", "Crash detected", "KeyboardInterrupt", "Aborted"):
        assert word not in ended.output, ended.output
    assert ended.last.startswith("Interrupted. "), ended.output
    assert ended.code == 130


GOES_ON = "Run it again: it goes on, and makes nothing twice."
THE_REST = "Run it again: what is left goes then."


@pytest.mark.parametrize("words", ["setup region", "setup aws --yes --account default"])
def test_a_set_up_says_what_is_there_and_goes_on(
    slow: Callable[..., Any], sandbox: SandboxInfo, words: str
) -> None:
    region = "eu-north-1" if words == "setup region" else "ap-south-1"
    keys: list[str] = []
    if "aws" in words:
        keys = ["--access-key-id", "sandbox", "--secret-access-key", sandbox.secret_access_key]
        keys += ["--endpoint-url", sandbox.endpoint]
        words = words.replace("default", "broken-off")
    ended = interrupted(slow, "CreateRouteTable", *words.split(), "--region", region, *keys)
    orderly(ended)
    assert f"in {region}" in ended.last
    assert ended.last.endswith(GOES_ON)
    whose = ("--account", "broken-off") if keys else ()
    account = load_account("broken-off" if keys else None)
    costly = [r for r in take_inventory(account.door(region), costly=True) if r.usd_per_hour]
    assert ("an hour at list prices" in ended.last) == bool(costly)
    slow("none of AWS's")
    assert run("setup", "region", *whose, "--region", region).exit_code == 0
    destroyed = run("account", "destroy", whose[1] if whose else "default", "--region", region, "--yes")
    assert destroyed.exit_code == 0, destroyed.output


def test_a_removal_says_what_is_left_and_its_price(slow: Callable[..., Any], sandbox: SandboxInfo) -> None:
    region = ("--region", "sa-east-1")
    assert run("setup", "region", *region).exit_code == 0
    swept = interrupted(slow, "DeleteNatGateway", "sweep", *region)
    orderly(swept)
    assert "in sa-east-1 (the sandbox)" in swept.last
    assert swept.last.endswith(THE_REST)
    slow("none of AWS's")
    assert run("setup", "region", *region).exit_code == 0
    destroyed = interrupted(slow, "DeleteSubnet", "account", "destroy", "default", *region, "--yes")
    orderly(destroyed)
    assert destroyed.last.endswith(THE_REST)
    slow("none of AWS's")
    assert run("account", "destroy", "default", *region, "--yes").exit_code == 0


def test_a_stop_says_what_is_left_of_the_cluster(slow: Callable[..., Any], cluster: Cluster) -> None:
    ended = interrupted(slow, "TerminateInstances", "stop", str(cluster.name), "--yes")
    orderly(ended)
    assert f"of cluster {cluster.name} in us-east-1 (the sandbox)" in ended.last
    assert ended.last.endswith(THE_REST)


def test_a_bake_removes_its_machine(slow: Callable[..., Any], sandbox: SandboxInfo) -> None:
    ended = interrupted(slow, "RunInstances", "environment", "bake")
    orderly(ended)
    assert ended.last.endswith("Run it again: it begins anew.")
    costly = take_inventory(load_account().door("us-east-1"), costly=True)
    assert not [one for one in costly if one.kind == "instance" and one.usd_per_hour]


@pytest.mark.parametrize("words", ["check", "ls", "quotas"])
def test_what_looks_has_changed_nothing(slow: Callable[..., Any], words: str) -> None:
    actions = {"check": "GetCallerIdentity", "ls": "DescribeInstances", "quotas": "DescribeInstances"}
    ended = interrupted(slow, actions[words], words)
    orderly(ended)
    assert ended.last == "Interrupted. Nothing was changed."


def test_a_second_one_ends_the_look_at_what_is_left(
    slow: Callable[..., Any], sandbox: SandboxInfo, until: Until
) -> None:
    assert run("setup", "region", "--region", "eu-west-2").exit_code == 0
    struck = slow("*")
    typed = Typed("sweep", "--region", "eu-west-2")
    struck()
    typed.interrupt()
    while typed.process.poll() is None:
        typed.interrupt()
        threading.Event().wait(0.5)
    ended = typed.end()
    slow("none of AWS's")
    assert "Traceback" not in ended.output, ended.output
    assert "\nInterrupted. " in ended.output
    assert ended.code in (130, -signal.SIGINT)
    assert run("account", "destroy", "default", "--region", "eu-west-2", "--yes").exit_code == 0


def test_the_demo_leaves_neither_cluster_nor_sandbox(tmp_path: Path, until: Until) -> None:
    typed = Typed("demo", "--workers", "1", XDG_STATE_HOME=str(tmp_path))
    until(lambda: "instances" in typed.output, 120)
    typed.interrupt()
    ended = typed.end()
    orderly(ended)
    assert "The sandbox was stopped, so that nothing of it is left." in ended.last
    assert not list(tmp_path.rglob("server.json"))


def test_the_sandbox_says_how_to_see_whether_it_is_there(tmp_path: Path, until: Until) -> None:
    typed = Typed("sandbox", "start", XDG_STATE_HOME=str(tmp_path))
    until(lambda: list(tmp_path.rglob("*")), 60)
    typed.interrupt()
    ended = typed.end()
    if ended.code != 0:  # it may have been there already
        orderly(ended)
        assert ended.last.endswith("Run it again: it finds the sandbox, or starts it.")
    stop = [sys.executable, "-m", "prefect_coiled.cli", "sandbox", "stop"]
    subprocess.run(stop, env={**os.environ, "XDG_STATE_HOME": str(tmp_path)}, check=True, capture_output=True)


FLOW = """
import time
from prefect import flow, task
from prefect_coiled import CoiledTaskRunner

@task
def wait() -> None:
    print("at work", flush=True)
    time.sleep(600)

@flow(task_runner=CoiledTaskRunner(n_workers=1, name="broken-off"))
def waits() -> None:
    wait.submit().result()

waits()
"""


@pytest.mark.parametrize("moment", ["instances: launching", "dashboard is available"])
def test_a_flow_says_what_became_of_its_cluster_below_pythons_traceback(
    sandbox: SandboxInfo, tmp_path: Path, until: Until, moment: str
) -> None:
    file = tmp_path / "waits.py"
    file.write_text(FLOW)
    typed = Typed(str(file), PREFECT_LOGGING_LEVEL="INFO")
    until(lambda: moment in typed.output, 120)
    typed.interrupt()
    ended = typed.end()
    assert ended.code not in (0, None)
    assert ended.last.startswith("Interrupted"), ended.output
    assert "is removed" in ended.last
    assert ended.last.endswith("The next run makes a new one.")
    costly = take_inventory(load_account().door("us-east-1"), "broken-off", costly=True)
    assert not [one for one in costly if one.usd_per_hour]


def test_who_says_no_when_asked_is_told_that_nothing_was_changed(cluster: Cluster) -> None:
    refused = run("stop", str(cluster.name), answer="n\n")
    assert (refused.exit_code, refused.stderr) == (1, "Aborted. Nothing was changed.\n")
