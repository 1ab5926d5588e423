"""Artifacts on their way to Prefect: what goes wrong there is a word in the log, without a secret."""

from __future__ import annotations

from typing import Any

import pytest

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
