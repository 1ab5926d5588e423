"""A scheduler, workers with their nannies, and a Prefect server, each a process that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from distributed import Client
from prefect.settings import get_current_settings

from .cells import EACH, MACHINES

ROOT = Path(__file__).parents[2]
_DASK = "import sys; from distributed.cli.{0} import main; sys.argv[0] = '{0}'; sys.exit(main())"


def until(check: Callable[[], Any], seconds: float, pause: float = 0.02) -> Any:
    """Poll until a check gives something true; gives the last value."""
    end = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < end:
        time.sleep(pause)
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Machine:
    """A process and its children; they end together, and at once."""

    def __init__(self, *command: str, **environment: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def holds(self, pid: int) -> bool:
        """Whether a process is one of the machine's."""
        return pid in {self.pid, *(child.pid for child in _children(self.pid))}

    def kill(self) -> None:
        """As a machine ends that loses its power."""
        for process in (*_children(self.pid), self._process):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        self._process.wait()

    def ended(self, seconds: float) -> bool:
        """Whether it ends by itself within that time."""
        return until(lambda: self._process.poll() is not None, seconds) is not False


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


class Cluster:
    """Two machines with two threads each, and one for the scheduler; what died is there again when asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scheduler: Machine | None = None
        self._workers: list[Machine] = []
        self.address = ""

    def whole(self) -> str:
        """See that all of it is there and has nothing to do; gives the scheduler's address."""
        if self._scheduler is None or not self._fits():
            self.end()
            self.address = f"tcp://127.0.0.1:{free_port()}"
            port = self.address.rpartition(":")[2]
            quiet = ["--no-dashboard", "--host", "127.0.0.1"]
            self._scheduler = self._dask("dask_scheduler", "--port", port, *quiet)
        while len(self._workers) < MACHINES:
            # The port of the dashboard is one for all.
            options = ["--nthreads", str(EACH), "--no-dashboard", "--host", "127.0.0.1"]
            self._workers.append(self._dask("dask_worker", self.address, *options))
        with Client(self.address, timeout=60) as client:
            client.wait_for_workers(MACHINES, timeout=300)
            assert until(lambda: self._is_idle(client), 60), "an earlier cell's tasks are still there"
        return self.address

    @staticmethod
    def _is_idle(client: Client) -> bool:
        info = client.scheduler_info(n_workers=-1)["workers"]
        return len(info) == MACHINES and not any(client.processing().values())

    def _fits(self) -> bool:
        return self._scheduler is not None and not self._scheduler.ended(0.0)

    def _dask(self, program: str, *arguments: str) -> Machine:
        spill = str(self._folder)
        return Machine(
            sys.executable, "-c", _DASK.format(program), *arguments, DASK_TEMPORARY_DIRECTORY=spill
        )

    def kill_worker(self, pid: int) -> None:
        """Kill a worker's process; its nanny starts another."""
        os.kill(pid, signal.SIGKILL)

    def kill_machine(self, pid: int) -> None:
        """Kill the machine of a worker's process."""
        found = next(machine for machine in self._workers if machine.holds(pid))
        self._workers.remove(found)
        found.kill()

    def kill_scheduler(self) -> None:
        """Kill the scheduler's machine; the workers see that it is gone."""
        assert self._scheduler is not None
        self._scheduler.kill()

    def end(self) -> None:
        """End all of it."""
        for machine in (*self._workers, *([self._scheduler] if self._scheduler else [])):
            machine.kill()
        self._workers, self._scheduler = [], None


class Server:
    """A Prefect server with its database in a folder, which outlives it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self._machine: Machine | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        app = [
            "--factory",
            "prefect.server.api.server:create_app",
            "--lifespan",
            "on",
            "--log-level",
            "error",
        ]
        known = {k: v for k, v in os.environ.items() if k.startswith("PREFECT_")}
        known |= get_current_settings().to_environment_variables(exclude_unset=True)
        known |= {
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder}/prefect.db",
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.folder}/prefect.db",
            "PREFECT_UI_ENABLED": "0",
            "PREFECT_API_URL": self.url,
        }
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        self._machine = Machine(sys.executable, "-m", "uvicorn", *app, *where, **known)
        assert until(self._answers, 120), "the Prefect server does not start"

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def runs(self) -> bool:
        """Whether it was started, and not killed since."""
        return self._machine is not None

    def stop(self) -> None:
        """Let it hang: connections are made, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on where it was stopped."""
        self._signal(signal.SIGCONT)

    def _signal(self, what: signal.Signals) -> None:
        assert self._machine is not None
        os.kill(self._machine.pid, what)

    def kill(self) -> None:
        """Kill it."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None
