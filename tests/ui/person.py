"""What a person does in Prefect's UI, in either of its versions.

Used by the tests of this folder and by scripts/take_screens.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LOGOS = "https://cdn.sanity.io/"


@contextmanager
def prefect_server(home: Path, seconds: float = 120) -> Iterator[str]:
    """A Prefect server of its own, with its UI. Yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = {
        **os.environ,
        "PREFECT_HOME": str(home),
        # Without it the page looks for its API at port 4200.
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    environ.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        try:
            end = time.monotonic() + seconds
            while not _answers(f"http://127.0.0.1:{port}/api/health"):
                assert process.poll() is None, (home / "server.log").read_text()
                assert time.monotonic() < end, "Prefect's server did not start"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def open_page(url: str, version: str = "v2", logo: bytes | None = None, **options: Any) -> Iterator[Page]:
    """A page in a browser of its own that meets nothing but the server.

    Args:
        url: The server's address.
        version: "v2" or "v1".
        logo: Stands for the picture that the web has.
        options: Of the browser's context.
    """
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            context = browser.new_context(
                base_url=url + ("/v2/" if version == "v2" else "/"),
                viewport={"width": 1280, "height": 900},
                **options,
            )

            def answer(route: Any) -> None:
                asked = route.request.url
                if asked.startswith((url, "http://127.0.0.1:")):
                    # Not by Chromium, which breaks off whatever it fetches when an interface of the machine
                    # comes or goes (net::ERR_NETWORK_CHANGED): another suite's whole machines have some.
                    with suppress(Error):  # the page is gone
                        route.fulfill(response=route.fetch())
                elif asked.startswith("data:"):
                    route.continue_()
                elif logo is not None and asked.startswith(LOGOS):
                    route.fulfill(body=logo, content_type="image/png")
                else:
                    route.abort()

            context.route("**/*", answer)
            page = context.new_page()
            page.set_default_timeout(60_000)
            yield page
        finally:
            browser.close()


class FormV2:
    """A block's form in the newer UI: every field has a label."""

    name_label, save_label = "Name", "Save"

    def __init__(self, page: Page, block_type: str, saved: str = "") -> None:
        """Open the form of a new block, or of the one with that id."""
        self.page = page
        page.goto(f"blocks/block/{saved}/edit" if saved else f"blocks/catalog/{block_type}/create")
        self.root: Locator = page.locator("form").first
        self.field("Region").wait_for()

    def field(self, label: str) -> Locator:
        """The widget of a field."""
        return self.root.get_by_label(label)

    def name(self, text: str) -> None:
        self.root.get_by_label("Name", exact=True).fill(text)

    def text(self, label: str, text: str) -> None:
        self.field(label).fill(text)

    def switch(self, label: str) -> None:
        self.root.get_by_role("switch", name=label).click()

    def options(self, label: str) -> list[str]:
        """What a drop-down offers."""
        self.root.get_by_role("button", name=f"Select {label}").click()
        self.page.get_by_role("option").first.wait_for()
        found = self.page.get_by_role("option").all_inner_texts()
        self.page.keyboard.press("Escape")
        self.page.get_by_role("option").first.wait_for(state="detached")
        return found

    def choose(self, label: str, option: str) -> None:
        self.root.get_by_role("button", name=f"Select {label}").click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def ports(self, *ports: int) -> None:
        """Make the rows of the list these."""
        rows = self.root.get_by_role("spinbutton")
        while rows.count() < len(ports):
            self.root.get_by_role("button", name="Add item").first.click()
        while rows.count() > len(ports):
            row = rows.last.locator("xpath=../..")
            row.get_by_role("button", name="Open menu").click()
            self.page.get_by_role("menuitem", name="Delete").click()
        for n, port in enumerate(ports):
            rows.nth(n).fill(str(port))

    def add_block(self, label: str, name: str, **texts: str) -> None:
        """Add a block in place: a dialog over the form."""
        field = self.root.get_by_role("img", name=_TYPES[label]).locator("xpath=..")
        field.get_by_role("button", name="Add").click()
        dialog = self.page.get_by_role("dialog", name="Create New Block")
        dialog.get_by_label("Name", exact=True).fill(name)
        for key, value in texts.items():
            if key.startswith("choose_"):
                dialog.get_by_role("button", name=f"Select {_LABELS[key]}").click()
                self.page.get_by_role("option", name=value, exact=True).click()
            else:
                dialog.get_by_label(_LABELS[key]).fill(value)
        dialog.get_by_role("button", name="Create").click()
        dialog.wait_for(state="detached")

    def save(self) -> None:
        self.root.get_by_role("button", name="Save").click()
        self.page.wait_for_url("**/blocks/block/*")


_TYPES = {"AWS Credentials": "AWS Credentials", "Registry": "EC2 Dask Registry"}
_LABELS = {
    "key_id": "AWS Access Key ID",
    "secret": "AWS Access Key Secret",
    "choose_kind": "Registry",
}


class FormV1:
    """A block's form in the older UI: a field is found by its heading."""

    def __init__(self, page: Page, block_type: str, saved: str = "") -> None:
        """Open the form of a new block, or of the one with that id."""
        self.page = page
        page.goto(f"blocks/block/{saved}/edit" if saved else f"blocks/catalog/{block_type}/create")
        self.field("Region").wait_for()

    def field(self, label: str) -> Locator:
        """The part of the form that holds a field."""
        heading = self.page.locator("> .p-label__header > label").get_by_text(label)
        return self.page.locator(".p-label").filter(has=heading)

    def name(self, text: str) -> None:
        self.field("Block Name").get_by_role("textbox").fill(text)

    def text(self, label: str, text: str) -> None:
        self.field(label).get_by_role("textbox").fill(text)

    def switch(self, label: str) -> None:
        self.field(label).get_by_role("switch").click()

    def options(self, label: str) -> list[str]:
        """What a drop-down offers."""
        self.field(label).get_by_role("button").first.press("ArrowDown")
        self.page.get_by_role("option").first.wait_for()
        found = self.page.get_by_role("option").all_inner_texts()
        self.page.keyboard.press("Escape")
        return [o for o in found if o != "None"]

    def choose(self, label: str, option: str) -> None:
        self.field(label).get_by_role("button").first.press("ArrowDown")
        self.page.get_by_role("option", name=option, exact=True).click()

    def json(self, label: str, text: str) -> None:
        """Replace what is in a field of the kind that takes JSON."""
        self.field(label).get_by_role("textbox").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def add_block(self, label: str, name: str, **texts: str) -> None:
        """Add a block in place: a panel beside the form."""
        self.field(label).get_by_role("button", name="Add").click()
        panel = self.page.get_by_role("dialog")
        for title, text in {"Block Name": name, **{_LABELS[k]: v for k, v in texts.items()}}.items():
            heading = self.page.locator("> .p-label__header > label").get_by_text(title)
            panel.locator(".p-label").filter(has=heading).get_by_role("textbox").fill(text)
        panel.get_by_role("button", name="Create").click()
        panel.wait_for(state="detached")

    def save(self) -> None:
        self.page.get_by_role("button", name="Create").click()
        self.page.wait_for_url("**/blocks/block/*")
