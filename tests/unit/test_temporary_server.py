"""A temporary server of Prefect's that does not start ends in words, whatever was asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)
from typer.testing import CliRunner

from prefect_coiled.aws.caller import Caller
from prefect_coiled.blocks import Ec2DaskAccount, load_account
from prefect_coiled.blocks.loading import find_accounts
from prefect_coiled.cli import app
from prefect_coiled.errors import AccountError
from prefect_coiled.events import Event, hearing
from prefect_coiled.saved_accounts import reset_account, save_account


@pytest.fixture(autouse=True)
def server_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    def start(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server.")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    monkeypatch.setattr("prefect.server.api.server.create_app", start)
    monkeypatch.setattr(
        "prefect_coiled.saved_accounts._caller", lambda account: Caller(aws_account_id="1" * 12, arn="arn")
    )
    database = tmp_path / "prefect.db"
    database.touch()  # where nothing was ever saved, it is not started
    settings: dict[Any, Any] = {
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
        PREFECT_SERVER_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{database}",
    }
    with temporary_settings(settings, restore_defaults={PREFECT_API_URL}):
        yield


@pytest.mark.parametrize(
    "ask",
    [
        lambda: load_account("my-team"),
        lambda: load_account(),
        find_accounts,
        lambda: reset_account("my-team"),
        lambda: save_account(Ec2DaskAccount(region="us-east-1"), "my-team"),
    ],
    ids=["load", "load the default", "find", "reset", "save"],
)
def test_what_asks_prefect_says_that_its_server_did_not_start(ask: Callable[[], Any]) -> None:
    with pytest.raises(
        AccountError, match=r"temporary server could not be asked: Timed out.*prefect server start"
    ):
        ask()


def test_where_temporary_servers_are_switched_off_none_is_said_to_be_started() -> None:
    told: list[Event] = []
    with (
        temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}),
        hearing(told.append),
        pytest.raises(AccountError, match="no Prefect server is named, and temporary ones are switched off"),
    ):
        load_account("my-team")
    assert [event.text for event in told if event.kind == "server"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["account", "list"],
        ["account", "explain"],
        ["account", "reset", "--yes"],
        ["setup", "region"],
        ["sweep"],
        ["stop", "one", "--yes"],
        ["resources"],
        ["cost"],
        ["demo"],
        ["blocks", "apply", "blocks"],
    ],
    ids=" ".join,
)
def test_a_command_ends_in_one_line_and_no_traceback(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "temporary server could not be asked" in result.output
    assert "Traceback" not in result.output
