"""What travels to the workers beside a task."""

from __future__ import annotations

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

from prefect_coiled.task_runner.parcel import _with_api_url


def test_prefects_temporary_server_is_named_where_no_setting_of_the_api_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Server:
        api_url = "http://127.0.0.1:1/api"

        def start(self) -> None: ...

    monkeypatch.setattr("prefect.server.api.server.SubprocessASGIServer", Server)
    with temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True}, restore_defaults={PREFECT_API_URL}):
        # As in a home where Prefect was never configured.
        assert _with_api_url({"settings": {}}) == {"settings": {"api": {"url": Server.api_url}}}
