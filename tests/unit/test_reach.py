"""Whether a machine reaches the Prefect API: one that took the request and is slow is reached."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import prefect
import pytest
from prefect.context import SettingsContext
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings

from prefect_coiled.task_runner import reach


class Slow(ThreadingHTTPServer):
    """An API that says nothing to requests until it is told to go on."""

    def __init__(self) -> None:
        self.asked = 0
        self.goes_on = threading.Event()
        super().__init__(("127.0.0.1", 0), _Answers)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"


class _Answers(BaseHTTPRequestHandler):
    server: Slow

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.goes_on.wait(60)
        text = json.dumps(prefect.__version__ if "version" in self.path else True).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:
            pass  # who asked has gone

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(reach, "_REQUEST", 0.2)
    monkeypatch.setattr(reach, "settings_here", lambda settings, *_: settings)
    with Slow() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with temporary_settings({PREFECT_API_URL: server.url}):
            yield server
        server.goes_on.set()
        server.shutdown()
        thread.join()


def ask() -> Any:
    context = SettingsContext.get()
    assert context is not None
    told = {
        "settings_context": {"profile": context.profile, "settings": context.settings},
        "flow_run_context": None,
        "authority": "",
        "relay": None,
    }
    return reach._ask_here(cloudpickle.dumps(told), SimpleNamespace())


def test_one_that_took_the_request_has_the_time_that_the_user_gives_it(api: Slow) -> None:
    def go_on() -> None:
        while api.asked < 2:
            pass
        api.goes_on.set()

    waiting = threading.Thread(target=go_on)
    waiting.start()
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 60.0}):
        assert ask() is None
    waiting.join()


def test_one_that_never_answers_is_told_of(api: Slow) -> None:
    with temporary_settings({PREFECT_API_REQUEST_TIMEOUT: 0.5}):
        reason, _ = ask()
    assert reason.startswith("ReadTimeout")
    assert api.asked >= 2
