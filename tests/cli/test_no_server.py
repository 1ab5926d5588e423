"""Without a Prefect server: a temporary one where a block may be, once a command, and a word meanwhile."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)

from prefect_coiled import Ec2DaskAccount
from prefect_coiled.blocks.asking import read_here, reading_here
from prefect_coiled.blocks.loading import find_accounts
from prefect_coiled.sandbox import SandboxInfo

from .conftest import run


@pytest.fixture
def no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """No server is named, and a temporary one that is started fails; gives who started one."""
    started: list[str] = []
    monkeypatch.setattr("prefect_coiled.blocks.asking._servers", [])  # as in a process of its own

    def start(self: Any, *args: Any, **kwargs: Any) -> None:
        started.append("a server")
        raise RuntimeError("this test has none")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    settings: dict[Any, Any] = {
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
        PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{tmp_path}/prefect.db",
    }
    with temporary_settings(settings, restore_defaults={PREFECT_API_URL}):
        yield started


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "demo --help",
        "ls",
        "account list",
        "account explain",
        "resources",
        "check",
        "logs --help",
        "sandbox status",
        "policies setup --account my-team",
        "policies ongoing",
        "setup iam --account my-team --user dask --aws-account-id 123456789012",
    ],
)
def test_where_no_block_can_be_no_server_is_started(
    words: str, no_server: list[str], sandbox: SandboxInfo
) -> None:
    result = run(*words.split())
    assert result.exit_code == 0, result.output
    assert no_server == []


def test_an_account_of_ones_own_cannot_be_there_either(no_server: list[str]) -> None:
    result = run("ls", "--account", "my-team")
    assert result.exit_code == 1
    assert "no block of that name (there is none yet). Run `prefect-coiled setup aws --account my-team`" in (
        result.stderr
    )
    assert no_server == []
    assert find_accounts() == []


def test_what_only_reads_blocks_reads_them_without_a_server(
    no_server: list[str], sandbox: SandboxInfo, tmp_path: Path
) -> None:
    (tmp_path / "prefect.db").touch()
    with reading_here():
        assert read_here("a block", save_an_account) == "kept"
    no_server.clear()  # Prefect tells events of what was saved
    listed = json.loads(run("account", "list", "--json").stdout)
    assert [(row["account"], row["region"]) for row in listed] == [("kept", "eu-west-3"), ("default", "")]
    shown = run("ls", "--account", "kept")
    assert (shown.exit_code, shown.stdout.partition("\n")[0]) == (
        0,
        "No cluster of account kept runs in eu-west-3 (the sandbox on this machine).",
    )
    assert "there is: kept" in run("ls", "--account", "others").stderr
    assert run("policies", "setup", "--account", "kept").exit_code == 0
    assert no_server == []


async def save_an_account(client: PrefectClient) -> str:
    """Save the account "kept"; gives its name."""
    block: Any = Ec2DaskAccount(region="eu-west-3", sandbox=True)
    await block.save("kept", client=client)
    return "kept"


def test_a_command_starts_one_server_and_says_so_once(sandbox: SandboxInfo, tmp_path: Path) -> None:
    (tmp_path / "prefect.db").touch()
    environ = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environ |= {"PREFECT_HOME": str(tmp_path), "PREFECT_LOGGING_LEVEL": "INFO"}
    # It reads a block, and then runs a flow.
    done = subprocess.run(
        [sys.executable, "-m", "prefect_coiled.cli", "sweep", "--keep-nat"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("Starting temporary server on") == 1
    assert done.stderr.count("a temporary one is started") == 1
    assert "`prefect server start` runs one that stays" in done.stderr


def test_a_word_comes_while_prefect_is_still_being_imported(tmp_path: Path) -> None:
    # A Prefect whose import does not end before a word has come.
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "__init__.py").write_text("import sys; sys.stdin.readline()")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect_coiled.cli", "account", "list"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    try:
        seen = b""
        while b"One moment" not in seen:
            got = os.read(leader, 4096)
            assert got, seen
            seen += got
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_a_program_without_a_server_gives_a_temporary_one_its_time(
    sandbox: SandboxInfo, tmp_path: Path
) -> None:
    program = "from prefect_coiled import Cluster\nCluster(n_workers=0).close()"
    environ = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    # Less than it takes anywhere; 20 by Prefect's default, which a busy machine may need.
    environ |= {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
