"""The command line against a background sandbox of the tests' own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from prefect_coiled import load_account, set_backend_options
from prefect_coiled.cluster import Cluster
from prefect_coiled.options import merge
from prefect_coiled.plan.machine_policies import boundary_of
from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.sandbox import Sandbox, SandboxInfo, ensure_started, stop
from prefect_coiled.saved_accounts import reset_account

_OWN = {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "TERMINAL_WIDTH": "90",
    "NO_COLOR": "1",
}


@pytest.fixture(scope="package", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[None]:
    own = {
        **_OWN,
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
    }
    saved = {key: os.environ.get(key) for key in own}
    os.environ.update(own)
    try:
        yield
    finally:
        stop()
        for key, value in saved.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


@pytest.fixture(scope="package")
def sandbox(own_folders: None) -> SandboxInfo:
    """The sandbox that is the default account of this folder's tests."""
    return ensure_started()


@pytest.fixture
def cluster(sandbox: SandboxInfo) -> Iterator[Cluster]:
    """A cluster of one worker that runs."""
    with Cluster(n_workers=1, name="of-the-cli", wait_for_workers=True, quiet=True) as made:
        yield made


def run(*arguments: str, answer: str | None = None) -> Result:
    """Run the command line in this process."""
    from prefect_coiled.cli import app

    return CliRunner().invoke(app, list(arguments), input=answer)


def held(slug: str) -> dict[str, str]:
    account = load_account(slug)
    rows = {row.name: row.value for row in merge(None, account.options).rows()}
    return rows | {"tags": str(dict(account.tags)), "key": account.credentials.access_key_id}


def of(name: str, *flags: str) -> str:
    result = run(*name.split(), *flags)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def aws() -> Iterator[Sandbox]:
    """An AWS without processes, in which keys must be right: one for each file."""
    with Sandbox({"boot": "none", "iam": "on"}) as running:
        arn, document = boundary_of("guided", "123456789012")
        running.client("iam").create_policy(
            PolicyName=arn.rpartition("/")[2], PolicyDocument=json.dumps(document)
        )
        yield running


@pytest.fixture(scope="module")
def keys(aws: Sandbox) -> dict[str, str]:
    shipped = iam_policies("guided")
    key, secret = aws.add_user("installer", shipped["setup"], shipped["ongoing"])
    return {"aws_access_key_id": key, "aws_secret_access_key": secret}


@pytest.fixture
def save(aws: Sandbox) -> Iterator[Callable[..., Any]]:
    """Save the account "saved", which is gone after the test."""
    yield lambda **options: set_backend_options(account="saved", endpoint_url=aws.endpoint, **options)
    reset_account("saved")
