"""Write docs/img/ui-*.png: what a person sees in Prefect, taken from a real server and real flow runs.

Starts a Prefect server and a sandbox of its own, fills the form of the account block, runs a flow on a
cluster and one that gets none, and takes the pages; and the docs' home page. Needs what `make ui-test` needs.

    .venv/bin/python scripts/take_screens.py [--docs-alone]
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "img"
# Bytes that a picture may have.
MOST = 150_000
sys.path.insert(0, str(ROOT / "tests" / "ui"))

from person import FormV2, open_page, prefect_server  # noqa: E402

# What the shots leave out: an offer of Prefect's.
_QUIET = "document.querySelectorAll('a[href*=\"cloud-vs-oss\"]').forEach(a => a.style.display = 'none')"


def main() -> None:
    """Take all of them."""
    _take_docs()
    if "--docs-alone" in sys.argv:
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ.update(
            HOME=folder,
            XDG_STATE_HOME=str(home / "state"),
            PREFECT_HOME=str(home / "prefect"),
            PREFECT_LOGGING_LEVEL="WARNING",
            PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL="1",
        )
        with prefect_server(home / "server") as url:
            os.environ["PREFECT_API_URL"] = f"{url}/api"
            _take(url)


class _Quietly(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _take_docs() -> None:
    """The home page of the docs, light and dark."""
    with tempfile.TemporaryDirectory() as site:
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", site]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quietly, directory=site))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            for scheme in ("light", "dark"):
                with open_page(url, version="v1", color_scheme=scheme) as page:
                    page.goto(f"{url}/index.html")
                    page.wait_for_load_state("networkidle")
                    _shoot(page, f"docs-home-{scheme}", 900)
        finally:
            server.shutdown()
            server.server_close()


def _take(url: str) -> None:
    import prefect_coiled.sandbox.control as control
    from prefect_coiled import Ec2DaskAccount
    from prefect_coiled.sandbox import Sandbox

    with open_page(url, logo=_logo(), device_scale_factor=1.25) as page:
        form = FormV2(page, "ec2-dask-account")
        form.add_block("AWS Credentials", "my-team-keys", key_id="AKIAEXAMPLE", secret="not-a-key")
        form.choose("Region", "eu-west-1")
        form.text("Zone", "eu-west-1b")
        form.switch("Spot Workers")
        form.choose("Spot Policy", "spot_with_fallback")
        form.ports(8786, 8787)
        form.text("Reachable From", "203.0.113.0/24")
        form.name("my-team")
        _shoot(page, "ui-form", height=1080)
        form.save()
        page.get_by_text("Ec2DaskAccount.load").first.wait_for()
        page.get_by_text("Block created successfully").first.wait_for(state="detached")
        _shoot(page, "ui-block", height=1000)

    Ec2DaskAccount(region="us-east-1", sandbox=True).save("research", overwrite=True)
    with Sandbox({"grace": 3}) as sandbox:
        control.ensure_started = lambda **keywords: sandbox.info  # type: ignore[assignment]
        done = _run("crunch", n_workers=4, spot=True)
        sandbox.set(capacity=[{"instance_type": "*", "zone": "*", "free": 0}])
        failed = _run("starved", n_workers=4, zone="us-east-1a")
    with open_page(url, logo=_logo(), device_scale_factor=1.25) as page:
        _visit(page, f"runs/flow-run/{done}?tab=SubflowRuns", "provision crunch")
        page.wait_for_timeout(3000)
        _shoot(page, "ui-flow-run", height=900)
        provision = _child(done, "provision crunch")
        _visit(page, f"runs/flow-run/{provision}?tab=TaskRuns", "4 x m6i.xlarge spot")
        page.wait_for_timeout(3000)
        _shoot(page, "ui-provision", height=900)
        _visit(page, f"runs/flow-run/{done}?tab=Artifacts", "dask-summary-research")
        page.wait_for_timeout(3000)
        _shoot(page, "ui-artifacts", height=900)
        _visit(page, f"artifacts/artifact/{_artifact(done, 'summary')}", "Time line")
        _shoot(page, "ui-summary", height=1250)
        _visit(page, f"artifacts/artifact/{_artifact(provision, 'resources')}", "security group")
        _shoot(page, "ui-resources", height=800)
        _visit(page, f"artifacts/artifact/{_artifact(failed, 'failure')}", "did not come up")
        _shoot(page, "ui-failure", height=900)


def _run(name: str, **options: Any) -> Any:
    """Run a flow on a cluster; returns the flow run's id."""
    from prefect import flow, runtime, task

    from prefect_coiled import CoiledTaskRunner

    @task
    def square(x: int) -> int:
        return x * x

    runner = CoiledTaskRunner(account="research", name=name, wait_for_workers=True, **options)
    seen = []

    @flow(name="sum of squares", flow_run_name=f"sum of squares on {name}", task_runner=runner)
    def squares() -> int:
        seen.append(runtime.flow_run.id)
        return sum(square.map(range(8)).result())

    squares(return_state=True)
    return seen[0]


def _child(run_id: Any, name: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return next(r.id for r in client.read_flow_runs() if r.name == name)


def _artifact(run_id: Any, what: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return next(
            a.id
            for a in client.read_artifacts()
            if a.key == f"dask-{what}-research" and str(a.flow_run_id) == str(run_id)
        )


def _visit(page: Any, path: str, text: str) -> None:
    """Go there, and wait for what shall be seen; the API lags behind the runs."""
    end = time.monotonic() + 60
    while True:
        page.goto(path)
        try:
            page.get_by_text(text).first.wait_for(timeout=10_000)
            break
        except Exception:
            if time.monotonic() > end:
                raise
    page.wait_for_load_state("networkidle")


def _shoot(page: Any, name: str, height: int) -> None:
    """Take the page as it is, in as few colours as keep it small."""
    from PIL import Image

    page.set_viewport_size({"width": 1280, "height": height})
    page.evaluate(_QUIET)
    page.evaluate("document.querySelectorAll('*').forEach(e => { if (e.scrollTop) e.scrollTop = 0 })")
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(800)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    file = IMAGES / f"{name}.png"
    for colors in (256, 128, 64, 32):
        picture.quantize(colors, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= MOST:
            break
    print(f"{file.relative_to(ROOT)}: {file.stat().st_size:,} bytes, {picture.width} x {picture.height}")


def _logo() -> bytes:
    """A square that stands for the logo, which is on the web."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (225, 225), "#232f3e")
    draw = ImageDraw.Draw(picture)
    draw.text((36, 72), "aws", fill="white", font_size=84)
    draw.arc((40, 90, 185, 190), 30, 150, fill="#ff9900", width=10)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
