"""The first flow of a person who configured nothing, on machines that do not reach what listens here."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)

# What the Prefect API has, asked by the very configuration that the flow had.
ASK = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    def ask(kind, body):
        return client.request("POST", f"/{kind}/filter", json={"limit": 200, **body}).json()
    [run] = ask("flow_runs", {"flows": {"name": {"any_": ["flight delays"]}}})
    of = {"flow_run_id": {"any_": [run["id"]]}}
    print(json.dumps({
        "flow run": run["state_name"],
        "tasks": [(one["name"], one["state_name"]) for one in ask("task_runs", {"task_runs": of})],
        "logs": [(line["task_run_id"], line["message"]) for line in ask("logs", {"logs": of})],
        "ids": {one["name"]: one["id"] for one in ask("task_runs", {"task_runs": of})},
    }))
"""


class Person:
    """Somebody with an empty home, and a sandbox whose machines are in networks of their own."""

    def __init__(self, home: Path) -> None:
        # Of this suite's environment what tells its processes and files from others'.
        kept = ("PATH", "TMPDIR", "PREFECT_COILED_SUITE", "LANG")
        self.environ = {name: os.environ[name] for name in kept if name in os.environ}
        self.environ |= {
            "HOME": str(home),
            # Nothing says where an API is; but this machine may be busy.
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "150",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def run(self, *command: str) -> str:
        """What a command prints."""
        ended = subprocess.run(
            [sys.executable, *command], env=self.environ, capture_output=True, text=True, timeout=400
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}"
        return ended.stdout


@pytest.fixture
def person(possible, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    made = Person(home)
    made.run("-m", "prefect_coiled.cli", "sandbox", "start", "--plane", "netns")
    yield made
    made.run("-m", "prefect_coiled.cli", "sandbox", "stop")


def has_all(person: Person) -> None:
    """The quickstart's answer is right, and the API has each of its tasks, with their logs."""
    said = person.run(str(ROOT / "flows" / "quickstart.py"), "--workers", "1")
    assert "checked against pandas" in said
    found = json.loads(person.run("-c", ASK).splitlines()[-1])
    assert found["flow run"] == "Completed"
    tasks = dict(found["tasks"])
    own = {"whole year", *(f"month {n}" for n in range(1, 13))}
    assert own <= set(tasks)
    assert set(tasks.values()) == {"Completed"}
    # Each begins its log on the machine that it ran on.
    where = {run for run, line in found["logs"] if re.match("Runs on worker i-[0-9a-f]+", line)}
    assert where == {found["ids"][name] for name in own}
    assert [line for _, line in found["logs"] if line.startswith("Tasks ask the Prefect API through this ")]


def test_the_quickstart_runs_from_an_empty_home_with_no_server(person):
    has_all(person)
    assert not [name for name in person.environ if name.startswith("PREFECT_API")]


def test_the_quickstart_runs_from_an_empty_home_with_a_server_on_this_machine(person, until):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=person.environ, **quiet) as server:

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                    return True
            except OSError:
                assert server.poll() is None
                return False

        try:
            until(answers, 150)
            url = f"PREFECT_API_URL=http://127.0.0.1:{port}/api"
            person.run("-m", "prefect", "config", "set", url)
            has_all(person)
        finally:
            server.terminate()
