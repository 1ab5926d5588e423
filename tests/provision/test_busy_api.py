"""A Prefect API that answers 503, as one with SQLite does under load: told in a line, and nothing is left."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from typer.testing import CliRunner

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.blocks.asking import api_failures
from prefect_coiled.cli import app
from prefect_coiled.cluster import launch as launching
from prefect_coiled.cluster.launch import launch
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import PrefectApiError, PrefectCoiledError
from prefect_coiled.provision import slots
from prefect_coiled.sandbox import Sandbox
from tests.provision.laid import live

pytestmark = pytest.mark.usefixtures("nothing_there")


class Busy(http.server.BaseHTTPRequestHandler):
    """Has no time for anybody."""

    def _answer(self) -> None:
        self.send_response(503)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_PATCH = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def busy() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.fixture
def asked(busy: str) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: busy, PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def test_a_launch_says_what_the_api_answered_and_leaves_nothing(
    asked: None, account: Account, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "load_account", lambda slug: account)
    monkeypatch.setattr(slots, "_AWAY", 0.0)
    with pytest.raises(PrefectApiError) as caught:
        launch(Request({}, name="kept-waiting", allow_ingress_from="192.0.2.7/32"), threading.Event())
    text = str(caught.value)
    assert "launching cluster 'kept-waiting'" in text
    assert "it answered 503 Service Unavailable" in text
    assert "PREFECT_CLIENT_MAX_RETRIES" in text
    assert "PostgreSQL" in text
    assert live(sandbox) == []


def test_a_command_says_it_in_a_line(asked: None) -> None:
    result = CliRunner().invoke(app, ["ls"])
    assert result.exit_code == 1
    assert "503" in result.output
    assert "Traceback" not in result.output


def test_what_is_no_failure_of_the_api_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), api_failures("dividing"):
        raise ZeroDivisionError
    with pytest.raises(PrefectCoiledError, match="ours"), api_failures("something"):
        raise PrefectCoiledError("what", "ours")
