"""A sandbox of whole machines as the default account, and a Prefect server that machines reach.

`make vm-test` runs these. Elsewhere they are skipped, because they need root, tools, and minutes.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from prefect_coiled.environment import DISTRIBUTION, Locked, Wheel, capture, lock
from prefect_coiled.environment.download import download as direct_download
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.target import Target
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.addresses import free_port
from tests.environments import needless
from tests.vm.images import Images, Layer, reason, size, skip_or_fail

HERE = Path(__file__).parent
ASKED = os.environ.get("PREFECT_COILED_VM_TEST", "")
_figures: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, and say why; fail instead where it must run."""
    skip_or_fail(items, HERE, ASKED, reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The figures that the tests have measured."""
    for line in _figures:
        terminalreporter.write_line(f"measured: {line}")


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Note a figure for the end of the run."""
    return _figures.append


@pytest.fixture(scope="session", autouse=True)
def uv_cache(home: Path) -> Iterator[None]:
    """The user's own cache: the suite's home is empty."""
    with pytest.MonkeyPatch.context() as patch:
        if "UV_CACHE_DIR" not in os.environ:
            patch.setenv("UV_CACHE_DIR", str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/uv"))
        yield


@pytest.fixture(scope="session")
def images(home: Path) -> Images:
    """The cache of images."""
    return Images()


@pytest.fixture(scope="session")
def bare(images: Images, measured: Callable[[str], None]) -> list[Layer]:
    """The layers of a bare machine."""
    layers = images.bare()
    _tell(measured, "bare image", layers)
    return layers


@pytest.fixture(scope="session")
def ignored() -> list[str]:
    """What the suite alone needs: with it left out, this is the environment of a user with pandas."""
    # Functions of these tests bring pytest with them.
    return needless(DISTRIBUTION, "pandas", "pyarrow", "pytest")


@pytest.fixture(scope="session")
def locked(images: Images, ignored: list[str]) -> Iterator[Locked]:
    """The client's environment, as each cluster locks it; its wheels are downloaded once for all runs."""
    environment = capture(ignore=ignored)
    made = lock(environment, Target(environment.python))
    with pytest.MonkeyPatch.context() as patch:

        def download(wheel: Wheel, folder: Path, indexes: Indexes) -> Path:
            if not wheel.sha256:
                return direct_download(wheel, folder, indexes)
            return images.wheel(wheel, lambda place: direct_download(wheel, place, indexes))

        # The package has a function of the module's name.
        patch.setattr(sys.modules[Locked.__module__], "download", download)
        yield made
    made.discard()


@pytest.fixture(scope="session")
def complete(
    images: Images, bare: list[Layer], locked: Locked, measured: Callable[[str], None]
) -> list[Layer]:
    """The layers of a machine of an image that was baked with this environment."""
    assert locked.folder is not None
    folder = locked.folder
    layers = images.complete(locked.lock, lambda wheel: locked.fetch(wheel, folder))
    _tell(measured, "image with the environment", layers)
    return layers


def _tell(measured: Callable[[str], None], what: str, layers: list[Layer]) -> None:
    seconds, cpu = sum(layer.seconds for layer in layers), sum(layer.cpu for layer in layers)
    made = f"made in {seconds:.0f} s, {cpu:.0f} CPU s" if seconds else "from the cache"
    measured(f"{what}: {size(layer.folder for layer in layers)} MB, {made}")


def disk(layers: list[Layer]) -> str:
    """The setting for machines that boot from these layers."""
    return ":".join(str(layer.folder) for layer in layers)


@pytest.fixture(scope="session")
def sandbox(complete: list[Layer]) -> Iterator[Sandbox]:
    """A sandbox of whole machines that have this environment."""
    with Sandbox({"plane": "nspawn", "root_disk": disk(complete), "grace": 10, "iam": "on"}) as running:
        yield running
        left = {i["state"] for i in running.instances().values()}
    assert left <= {"terminated"}
    assert _cgroups() == []


def _cgroups() -> list[Path]:
    places = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    return [found for place in places for found in place.glob("coiled-i-*")]


@pytest.fixture(scope="session")
def prefect_url(sandbox: Sandbox, home: Path) -> Iterator[str]:
    """A Prefect server on the address at which machines see this computer."""
    host, port = sandbox.info.client_address, free_port(sandbox.info.client_address)
    url = f"http://{host}:{port}/api"
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        host,
        "--port",
        str(port),
        "--no-ui",
    ]
    log = home / "prefect-server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 150
        while not _answers(f"{url}/health"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def account(sandbox: Sandbox, prefect_url: str, locked: Locked) -> Iterator[None]:
    """The sandbox is the default account: what a user has who configured nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: sandbox.info)
        yield


@pytest.fixture(scope="session")
def told(sandbox: Sandbox) -> str:
    """The sandbox's whereabouts as JSON, for a process whose default account it shall be."""
    info = sandbox.info
    return json.dumps({**vars(info), "state_dir": str(info.state_dir)})


@pytest.fixture(scope="session")
def ends(sandbox: Sandbox, until: Callable[..., Any]) -> Callable[..., list[str]]:
    """Wait until instances are terminated; gives the codes of the reasons."""

    def wait(ids: list[str], seconds: float = 60.0) -> list[str]:
        ec2 = sandbox.client("ec2")

        def gone() -> list[str] | None:
            found = ec2.describe_instances(InstanceIds=ids)["Reservations"]
            told = [i for r in found for i in r["Instances"]]
            if any(i["State"]["Name"] != "terminated" for i in told):
                return None
            return [i["StateReason"]["Code"] for i in told]

        codes: list[str] = until(gone, seconds)
        return codes

    return wait
