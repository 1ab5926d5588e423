"""Artifacts on their way to Prefect: what goes wrong there is a word in the log, without a secret."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.subscribers import artifacts
from prefect_coiled.subscribers.artifacts import Artifacts

REFUSED = RuntimeError("401 for url 'http://me:hunter2@host/api/csrf-token'")


class Api:
    """An API that refuses."""

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *error: Any) -> None: ...

    def create_artifact(self, artifact: Any) -> Any:
        raise REFUSED


def none(**_: Any) -> Any:
    raise REFUSED


@pytest.mark.parametrize("get_client", [lambda **_: Api(), none])
def test_the_password_in_the_address_of_the_api_is_in_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, get_client: Any
) -> None:
    monkeypatch.setattr(artifacts, "get_client", get_client)
    caplog.set_level("DEBUG")
    told = Artifacts()
    told.put("a", "markdown", None, "text", "what it is")
    told.close(20.0)
    assert "http://host/api/csrf-token" in caplog.text
    assert "hunter2" not in caplog.text


def test_what_a_process_that_ends_no_longer_waits_for_is_told_by_no_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    asked, answer = threading.Event(), threading.Event()
    emitted: list[str] = []
    monkeypatch.setattr("prefect.events.utilities.emit_event", lambda event, **_: emitted.append(event))

    def slow(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/artifacts/"):
            asked.set()
            assert answer.wait(60)
        stamp = "2030-01-01T00:00:00Z"
        made = {"id": "11111111-1111-4111-8111-111111111111", "key": "a", "created": stamp, "updated": stamp}
        made |= {"token": "t", "client": "c", "expiration": stamp}  # that of `csrf-token`
        return httpx.Response(200, json=made)

    def client(**settings: Any) -> Any:
        settings["httpx_settings"]["transport"] = httpx.MockTransport(slow)
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            return get_client(**settings)

    monkeypatch.setattr(artifacts, "get_client", client)
    for ending in (True, False):
        asked.clear(), answer.clear()
        monkeypatch.setattr(artifacts, "is_ending", lambda ending=ending: ending)
        told = Artifacts()
        told.put("a", "markdown", None, "text", "what it is")
        assert asked.wait(20), caplog.text
        told.close(0.01)
        answer.set()
        told.close(60.0)
        assert emitted == ([] if ending else ["prefect.artifact.created"])
    assert "Traceback" not in caplog.text
