"""One Prefect server for the suite, a home of its own, and proof that nothing is left behind."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

# A shell starts what runs in its background with SIGINT ignored, and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything reads them: nothing of the suite touches the home of whoever runs it.
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "300"
os.environ["PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL"] = "1"
# What the tests do not look at, and what costs the machine under them a good part of a core.
for service in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "TRIGGERS", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP"):
    os.environ[f"PREFECT_SERVER_SERVICES_{service}_ENABLED"] = "false"
for name in [n for n in os.environ if n.startswith("AWS_")]:
    del os.environ[name]

_MARK = "PREFECT_COILED_SUITE"
# One mark for all processes of the suite, whichever of its workers started them, and one place for what they
# put into temporary folders.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ[_MARK] = str(os.getpid())
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="suite-")
    tempfile.tempdir = None  # it is read once, and may have been
    atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home: no AWS configuration, no Dask configuration, no Prefect profile."""
    folder = tmp_path_factory.mktemp("home")
    keep = pytest.MonkeyPatch()
    keep.setenv("HOME", str(folder))
    keep.setenv("XDG_STATE_HOME", str(folder / "state"))
    keep.setenv("PREFECT_HOME", str(folder / "prefect"))
    keep.setenv("DASK_CONFIG", str(folder / "dask"))
    yield folder
    keep.undo()


@pytest.fixture(scope="session")
def prefect_server(home: Path) -> Iterator[None]:
    """A real Prefect server, in its own process, with an empty database; or one that runs share."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    # A flow that has ended waits up to a second for the thread of its heartbeats.
    quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
    if shared := os.environ.get("PREFECT_COILED_SUITE_API"):
        with temporary_settings({PREFECT_API_URL: shared}), quiet:
            yield
        return
    with ExitStack() as stack:
        for left in (2, 1, 0):
            try:
                stack.enter_context(prefect_test_harness(server_startup_timeout=300))
                break
            except httpx.TransportError:
                # While its server comes up, the harness bears that nobody listens, but no connection that is
                # reset, as by a process that had the port until now (`SubprocessASGIServer.start`).
                if not left:
                    raise
        stack.enter_context(quiet)
        yield
        # States that are still on their way would be waited for a minute at the end of the process.
        if (recording := sys.modules.get("prefect_coiled.task_runner.recording")) is not None:
            recording.wait_until_recorded()


@pytest.fixture(scope="module", autouse=True)
def environment_is_left_alone() -> Iterator[None]:
    """What one file leaves in the environment would be met by every process of the files after it."""
    before = dict(os.environ)
    yield
    changed = {k for k in {*before, *os.environ} if before.get(k) != os.environ.get(k)}
    assert changed <= {"PYTEST_CURRENT_TEST"}, f"left in the environment: {sorted(changed)}"


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """Poll until a check gives something true."""

    def wait(check: Callable[[], Any], seconds: float = 30.0) -> Any:
        end = time.monotonic() + 5 * seconds  # the patience of a busy machine
        while not (found := check()):
            assert time.monotonic() < end, f"not within {5 * seconds} s: {check}"
            time.sleep(0.05)
        return found

    return wait


def _ours() -> list[psutil.Process]:
    """Processes that carry the suite's mark, this one apart."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.environ().get(_MARK) == os.environ[_MARK]
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a process or a temporary folder of a test, or of what it started, is still there."""
    if hasattr(session.config, "workerinput"):
        return  # whoever started the workers looks, once they have ended
    import multiprocessing.resource_tracker as tracker

    own = {getattr(tracker._resource_tracker, "_pid", None)}
    end = time.monotonic() + 15
    while (left := [p for p in _ours() if p.pid not in own]) and time.monotonic() < end:
        time.sleep(0.2)
    for process in left:
        print(f"left behind: {process.pid} {' '.join(process.cmdline())[:200]}")
        process.kill()
    files = [path.name for path in Path(os.environ["TMPDIR"]).glob("prefect-coiled-*")]
    for name in files:
        print(f"left behind in the temporary folder: {name}")
    if left or files:
        session.exitstatus = 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is `sampled`, leave all but each so-and-so-many-th case to the long tests."""
    seen: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("sampled")) is not None:
            name = item.nodeid.partition("[")[0]
            if seen[name] % mark.args[0]:
                item.add_marker(pytest.mark.long)
            seen[name] += 1


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage goes through all of it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def judged(sandbox: Any) -> Iterator[Any]:
    """The folder's sandbox, in which IAM judges."""
    sandbox.set(iam="on")
    yield sandbox
    sandbox.set(iam="off")
