"""What a client's settings become on a worker, on which many tasks start at once."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.context import SettingsContext
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    PREFECT_LOGGING_LEVEL,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_DATABASE_PASSWORD,
    temporary_settings,
)
from pydantic import BaseModel, SecretStr

from prefect_coiled.task_runner import worker_settings
from prefect_coiled.task_runner.worker_settings import _without_secrets, settings_for_relay


def test_tasks_that_start_at_once_have_the_file_of_the_apis_authority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
        def __init__(self, **arguments: Any) -> None:
            threading.Event().wait(0.1)
            super().__init__(**arguments)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Slow)
    # As it is in a process that has just begun.
    spec = importlib.util.spec_from_file_location("fresh", str(worker_settings.__file__))
    assert spec is not None
    assert spec.loader is not None
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    at_once = threading.Barrier(4)

    def begin(_: int) -> Path:
        at_once.wait(20)
        return Path(fresh.settings_here({"settings": {}}, "authority")["settings"]["api"]["ssl_cert_file"])

    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(begin, range(4)))
    assert {file.read_text() for file in files} == {"authority"}


def test_settings_for_a_relay_hold_no_secret() -> None:
    canary = "canary-0123456789"
    settings = {
        PREFECT_API_KEY: canary,
        PREFECT_API_AUTH_STRING: f"user:{canary}",
        PREFECT_API_URL: f"http://user:{canary}@10.0.0.1:4200/api",
        PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Way": canary},
        PREFECT_SERVER_DATABASE_PASSWORD: canary,
        PREFECT_SERVER_DATABASE_CONNECTION_URL: f"postgresql+asyncpg://a:{canary}@b/c",
        PREFECT_LOGGING_LEVEL: "DEBUG",
        PREFECT_API_REQUEST_TIMEOUT: 17.0,
    }
    with temporary_settings(settings):
        context = SettingsContext.get()
        assert context is not None
        assert canary in str(context.serialize())
        sent = settings_for_relay(context)
    assert canary not in str(sent)
    # What is no secret, and not of the API alone, goes along.
    assert sent["settings"]["logging"]["level"] == "DEBUG"
    assert sent["settings"]["api"] == {"request_timeout": 17.0}
    assert sent["settings"]["client"]["csrf_support_enabled"] is False


def test_a_secret_of_a_setting_that_is_not_known_here_stays_with_the_client() -> None:
    class Own(BaseModel):
        token: SecretStr = SecretStr("canary")
        level: str = "DEBUG"

    class All(BaseModel):
        own: Own = Own()

    sent = _without_secrets(All(), {"own": {"token": "canary", "level": "DEBUG"}})
    assert sent == {"own": {"level": "DEBUG"}}


def test_a_person_finds_runs_where_they_are() -> None:
    with temporary_settings({PREFECT_API_URL: "http://10.0.0.1:4200/api"}):
        context = SettingsContext.get()
        assert context is not None
        assert settings_for_relay(context)["settings"]["ui_url"] == "http://10.0.0.1:4200"
    with temporary_settings({PREFECT_API_URL: "http://user:canary@10.0.0.1:4200/api"}):
        context = SettingsContext.get()
        assert context is not None
        assert settings_for_relay(context)["settings"]["ui_url"] == "http://10.0.0.1:4200"
