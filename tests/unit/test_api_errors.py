"""Where the Prefect API refuses, the error names the setting that is about it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from typer.testing import CliRunner

from prefect_coiled.blocks import load_account
from prefect_coiled.cli import app
from prefect_coiled.errors import AccountError
from prefect_coiled.plan.certificates import ClusterCertificates


@contextmanager
def api(status: int, certificates: Path | None = None) -> Iterator[str]:
    """A Prefect API that answers each request with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"exception_message": "no"}')

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates)
        server.socket, scheme = context.wrap_socket(server.socket, server_side=True), "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    url = f"{scheme}://127.0.0.1:{server.server_port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "names"),
    [
        (401, "PREFECT_API_AUTH_STRING"),
        (401, "prefect cloud login"),
        (403, "PREFECT_API_KEY"),
        (422, "prefect version"),
        (429, "asks for fewer requests"),
        (500, "server's own log"),
    ],
)
def test_a_refusal_says_its_status_and_names_the_setting(status: int, names: str) -> None:
    with api(status) as url, pytest.raises(AccountError) as caught:
        load_account("my-team")
    said = str(caught.value)
    assert f"{url} could not be asked: it answered {status}" in said
    assert names in said
    assert "developer.mozilla.org" not in said


def test_a_certificate_that_is_not_known_names_the_setting_for_its_authority(tmp_path: Path) -> None:
    pair = ClusterCertificates.make("c", datetime.now(timezone.utc)).scheduler
    (tmp_path / "server.pem").write_text(pair.cert + pair.key)
    with api(200, tmp_path / "server.pem"), pytest.raises(AccountError, match="PREFECT_API_SSL_CERT_FILE"):
        load_account("my-team")


@pytest.mark.parametrize("arguments", [["ls"], ["account", "list"], ["check"], ["sweep"]], ids=" ".join)
def test_commands_say_it_in_one_line(arguments: list[str]) -> None:
    with api(401):
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.output.count("PREFECT_API_AUTH_STRING=USER:PASSWORD") == 1, result.output
    assert "Traceback" not in result.output


def test_a_password_in_the_address_is_not_shown() -> None:
    with (
        api(401) as url,
        temporary_settings({PREFECT_API_URL: url.replace("//", "//me:sesame@")}),
        pytest.raises(AccountError) as caught,
    ):
        load_account("my-team")
    assert "sesame" not in str(caught.value)
