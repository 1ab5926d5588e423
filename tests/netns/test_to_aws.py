"""The four steps of docs/to-aws.md as they stand there: an empty home, no server, keys that may what it says.

AWS is the sandbox as AWS is told of: by its endpoint alone. Machines are bare, IAM judges, and none of them
reaches what listens here, such as Prefect's temporary server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_coiled.environment import DISTRIBUTION
from prefect_coiled.sandbox import Sandbox
from tests.environments import needless

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "to-aws.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.timeout(900)

RECORDED = """
import json
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    [run] = client.request("POST", "/flow_runs/filter", json={
        "flows": {"name": {"any_": ["squares"]}}}).json()
    of = {"flow_run_id": {"any_": [run["id"]]}}
    tasks = client.request("POST", "/task_runs/filter", json={"task_runs": of}).json()
    logs = client.request("POST", "/logs/filter", json={"logs": of}).json()
print(json.dumps([run["state_name"], [(t["name"], t["state_name"]) for t in tasks],
                  [line["message"] for line in logs]]))
"""


def steps() -> dict[int, str]:
    """The text of each step, by its number."""
    parts = re.split(r"^## (.*)$", PAGE, flags=re.M)
    numbered = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {int(title[0]): text for title, text in numbered.items() if title[0].isdigit()}


def block(text: str, language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def aws(possible):
    with Sandbox({"plane": "netns", "image": "bare", "iam": "on", "grace": 2}) as running:
        yield running


def test_the_page_has_four_steps():
    assert sorted(steps()) == [1, 2, 3, 4]
    assert PAGE.startswith("# From the sandbox to AWS\n\nFour steps.")


def test_each_step_does_what_the_page_says(aws, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kept = ("TMPDIR", "PREFECT_COILED_SUITE", "LANG", "UV_CACHE_DIR")
    environ = {name: os.environ[name] for name in kept if name in os.environ}
    environ |= {
        "HOME": str(home),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "DASK_COILED__PACKAGE_SYNC_IGNORE": repr(needless(DISTRIBUTION)),
        # Nothing says where an API is; but this machine may be busy.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "150",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }

    def do(*command: str, **more: str) -> str:
        ended = subprocess.run(
            command, env={**environ, **more}, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}"
        return ended.stdout

    text = steps()
    # 1. The policies, printed and attached.
    do("sh", "-e", "-c", block(text[1], "sh"))
    policies = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("setup", "ongoing")]
    key, secret = aws.add_user("installer", *policies)
    # 2. The account is named; what it would ask is said.
    said = block(text[2], "sh").strip()
    answers = f"--access-key-id {key} --endpoint-url {aws.endpoint} --yes"
    done = do("sh", "-e", "-c", f"{said} {answers}", PREFECT_COILED_SECRET_ACCESS_KEY=secret)
    assert "Account my-team is set up in us-east-1" in done
    # 3. It is checked.
    checked = do("sh", "-e", "-c", block(text[3], "sh"))
    assert "123456789012" in checked
    # 4. The flow names it.
    (tmp_path / "squares.py").write_text(block(text[4], "python"))
    assert "285" in do(sys.executable, "squares.py")
    state, tasks, logs = json.loads(do(sys.executable, "-c", RECORDED).splitlines()[-1])
    assert state == "Completed"
    assert [state for name, state in tasks if name.startswith("square-")] == ["Completed"] * 10
    assert any("Tasks ask the Prefect API through this process" in line for line in logs)
    # And back.
    destroyed = subprocess.run(
        ["prefect-coiled", "account", "destroy", "my-team"],
        env=environ,
        input="my-team\n",
        capture_output=True,
        text=True,
    )
    assert destroyed.returncode == 0, destroyed.stdout + destroyed.stderr
