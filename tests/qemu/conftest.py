"""A sandbox of virtual machines as the default account.

`make qemu-test` runs these. Elsewhere they are skipped, because they need root, tools, and many minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefect_coiled.sandbox import Sandbox
from tests.qemu.images import BootableImages, reason
from tests.vm.conftest import (
    account,
    bare,
    complete,
    disk,
    ends,
    ignored,
    locked,
    prefect_url,
    uv_cache,
)
from tests.vm.images import Layer, skip_or_fail

__all__ = ["account", "bare", "complete", "ends", "ignored", "locked", "prefect_url", "uv_cache"]

HERE = Path(__file__).parent
ASKED = os.environ.get("PREFECT_COILED_QEMU_TEST", "")
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


@pytest.fixture(scope="session")
def images(home: Path) -> BootableImages:
    """The cache of images."""
    return BootableImages()


@pytest.fixture(scope="session")
def kernel(images: BootableImages) -> Layer:
    """The layer that lets the others boot."""
    return images.kernel()


@pytest.fixture(scope="session")
def sandbox(kernel: Layer, complete: list[Layer]) -> Iterator[Sandbox]:
    """A sandbox of virtual machines that have this environment."""
    settings = {"plane": "qemu", "root_disk": disk([kernel, *complete]), "grace": 90, "iam": "on"}
    with Sandbox(settings) as running:
        yield running
        left = {i["state"] for i in running.instances().values()}
        folder = running.info.state_dir
    assert left <= {"terminated"}
    assert leftovers(folder) == []


def leftovers(folder: Path) -> list[str]:
    """What there is on this computer that names the folder of a sandbox: processes, mounts, loop devices."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(folder) in line and process.pid != os.getpid():
            found.append(line)
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        if str(folder) in file.read_text():
            found.append(str(file))
    return found
