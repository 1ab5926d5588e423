"""From where somebody calls: the word "me" asks AWS's own page, or the sandbox that the account is in."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import boto3
import pytest

from prefect_coiled.aws import caller
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.sandbox_info import SandboxInfo
from prefect_coiled.errors import OptionsError


class Page:
    """A page that answers with a text, and notes what it was asked."""

    def __init__(self) -> None:
        self.text, self.asked = "203.0.113.9\n", list[str]()
        page = self

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.asked.append(self.path)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(page.text.encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Page, Page]]:
    """AWS's page, and an endpoint of the user's own."""
    made = Page(), Page()
    monkeypatch.setattr(caller, "_CHECK_IP", made[0].url)
    yield made
    for page in made:
        page.server.shutdown()
        page.server.server_close()


def door(endpoint: str, sandbox: SandboxInfo | None = None) -> Aws:
    session = boto3.Session("a", "b", region_name="us-east-1")
    return Aws(session, "us-east-1", "team", endpoint_url=endpoint, sandbox=sandbox)


def test_an_endpoint_of_a_users_own_is_not_taken_for_the_sandbox(pages: tuple[Page, Page]) -> None:
    check_ip, own = pages
    assert caller.own_cidr(door(own.url)) == "203.0.113.9/32"
    assert own.asked == []
    assert check_ip.asked == ["/"]


def test_the_sandbox_knows_where_its_client_is(pages: tuple[Page, Page]) -> None:
    check_ip, own = pages
    info = cast(SandboxInfo, SimpleNamespace(client_address="127.0.0.1"))
    assert caller.own_cidr(door(own.url, info)) == "127.0.0.1/32"
    assert check_ip.asked == own.asked == []


@pytest.mark.parametrize("text", ["<html>", "", "2001:db8::1"])
def test_what_is_no_address_is_told(pages: tuple[Page, Page], text: str) -> None:
    pages[0].text = text
    with pytest.raises(OptionsError, match=r"did not tell our address.*Give the CIDR itself"):
        caller.own_cidr(door(pages[1].url))
