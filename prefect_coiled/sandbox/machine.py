"""One instance as a process tree, and the data plane of such trees on addresses of the loopback.

Knows processes and files, nothing of AWS. Not safe for several threads by itself: the supervisor holds
its lock around the calls, except for `power_on` and `wait`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from prefect_coiled.sandbox.addresses import Addresses
from prefect_coiled.sandbox.calls import WsgiApp
from prefect_coiled.sandbox.network import Vpc
from prefect_coiled.sandbox.plane import Address, Form, Machine
from prefect_coiled.sandbox.sweep import marked, sweep

__all__ = ["MARK", "POWER_COMMANDS", "ProcessMachine", "ProcessPlane", "can_separate", "copy_disk"]

MARK = "PREFECT_COILED_SANDBOX_INSTANCE"
POWER_COMMANDS = ("shutdown", "poweroff", "halt", "reboot", "systemctl")

_HERE = Path(__file__).parent
_INIT = _HERE / "instance" / "init.sh"
_SWEEP = _HERE / "sweep.py"
# A script cannot be executed while anybody has it open for writing, and a process that another thread forks
# meanwhile has it open until its own exec ("Text file busy"). So: one writes and forks at a time.
_forking = threading.Lock()


@functools.cache
def can_separate() -> tuple[str, ...]:
    """The command that gives an instance a pid namespace of its own; empty where there is none.

    With it, the end of the first process is the end of all, double-forked daemons too.
    """
    flags = ("--pid", "--fork", "--kill-child=KILL", "--mount-proc")
    rootless = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ("unshare", *rootless, *flags)
    if os.environ.get("PREFECT_COILED_SANDBOX_PIDNS") == "0" or sys.platform != "linux":
        return ()
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run([*command, "true"], capture_output=True, timeout=5).returncode == 0:
            return command
    return ()


class ProcessMachine(Machine):
    """One instance as a process tree.

    Args:
        instance_id: The id on EC2.
        address: Its addresses.
        folder: Its folder, with the console and the home of what runs inside.
        scratch: Its TMPDIR; apart from the folder because socket paths must be short.
        user_data: What it runs at its first boot.
        image: The disk that it begins with; an empty one if there is none.
    """

    def __init__(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> None:
        super().__init__(instance_id, address, folder, user_data)
        self._scratch = scratch
        self._booted = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id of the tree's root, when there is one."""
        return self._process.pid if self._process else None

    def power_on(self, environ: Mapping[str, str], grace: float) -> None:
        """Boot. User data runs on the first boot only, and only when it is a script.

        Args:
            environ: The environment of the user data.
            grace: Seconds between SIGTERM and SIGKILL when the machine goes down.
        """
        home = self.folder / "home"
        for folder in (home, self._scratch):
            folder.mkdir(parents=True, exist_ok=True)
        if self.image is not None and not self.root.exists():
            copy_disk(self.image, self.root)
        separate = can_separate()
        inside = {
            **environ,
            "HOME": str(home),
            "TMPDIR": str(self._scratch),
            "SANDBOX_DIR": str(self.folder),
            "SANDBOX_MARK": self.instance_id,
            "SANDBOX_GRACE": f"{grace:g}",
            "SANDBOX_PIDNS": "1" if separate else "0",
            "SANDBOX_PYTHON": sys.executable,
            "SANDBOX_SWEEP": str(_SWEEP),
        }
        with _forking:
            self._write_user_data()
            self._lifeline = self._spawn([*separate, "/bin/sh", str(_INIT)], inside)
        self.on = True

    def _write_user_data(self) -> None:
        script = self.folder / "user-data"
        script.unlink(missing_ok=True)
        if not self._booted and self.user_data.startswith(b"#!"):
            script.write_bytes(self.user_data)
            script.chmod(0o700)
        self._booted = True

    def _spawn(self, command: list[str], environ: dict[str, str], files: Sequence[int] = ()) -> IO[bytes]:
        """Start the first process, with some open files; gives the writing end of its lifeline."""
        read_end, write_end = os.pipe()
        try:
            with self.console.open("ab") as console:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=environ,
                    stdin=read_end,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                    pass_fds=files,
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return os.fdopen(write_end, "wb")

    def press_power(self) -> None:
        """Ask the machine to go down: SIGTERM to all, the grace, SIGKILL."""
        self.wake.set()
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        if self.unplugged:
            self.kill()

    def kill(self) -> None:
        """Kill all processes at once. The kernel closes their sockets, so peers notice."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if not can_separate():
            sweep(MARK, self.instance_id)

    def unplug(self) -> None:
        """Stop all processes where they are: no FIN, no answer, and yet "running" for AWS.

        The kernel still completes the handshake of new connections to sockets that listen, which a
        machine without power does not; nothing is ever read from them.
        """
        self.unplugged = True
        stopped: set[int] = set()
        while fresh := [process for process in self._inside() if process.pid not in stopped]:
            for process in fresh:
                stopped.add(process.pid)
                with contextlib.suppress(psutil.Error):
                    process.suspend()

    def replug(self) -> None:
        """Let the processes go on, as after a partition of the network."""
        self.unplugged = False
        for process in self._inside():
            with contextlib.suppress(psutil.Error):
                process.resume()

    def wait(self) -> None:
        """Wait until the last process is gone."""
        if self._process is None:
            return
        self._process.wait()
        if not can_separate():
            self.kill()
        self.on = False

    def forget(self) -> None:
        """The processes are gone: release what was held for them."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        self._process = None
        self.on = False

    def asked_inside(self) -> str:
        """What the machine asked for from within: "poweroff", "reboot" or nothing; told once."""
        note = self.folder / "power"
        asked = note.read_text().strip() if note.exists() else ""
        note.unlink(missing_ok=True)
        return asked

    def erase(self) -> None:
        """Remove its files, but not the console."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        # What was installed is many files, and nobody waits for their end.
        doomed = [self.folder / f"{name}.gone" for name in ("home", "root", "bin")]
        for folder, target in zip((self.folder / "home", self.root, self.commands), doomed, strict=True):
            with contextlib.suppress(OSError):
                folder.rename(target)
        threading.Thread(target=_remove, args=(doomed,), daemon=True, name="erase").start()
        for name in ("user-data", "pending-shutdown"):
            (self.folder / name).unlink(missing_ok=True)

    def _inside(self) -> list[psutil.Process]:
        return marked(MARK, self.instance_id)


def copy_disk(disk: Path, target: Path) -> None:
    """Copy a disk; what is on it is replaced where it changes, not written into, so that links do."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def link(source: str, copy: str) -> None:
        # A launch may share a file with many; the few that are appended to are small.
        if os.path.getsize(source) < 4096:
            shutil.copy2(source, copy)
        else:
            os.link(source, copy)

    shutil.copytree(disk, target, symlinks=True, copy_function=link)


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


class ProcessPlane:
    """Process trees on addresses of the loopback: every one can reach every other one, and the client too.

    Args:
        form: Whether each instance has an address of its own; by default what the platform has.
    """

    client_address = "127.0.0.1"

    def __init__(self, form: Form | None = None) -> None:
        self._addresses = Addresses(form)
        self._endpoint = ""
        self._imds_path: Callable[[str], str] = str

    @property
    def form(self) -> Form:
        """See `DataPlane`."""
        return self._addresses.form

    def open(
        self,
        app: WsgiApp,
        port: int,
        look: Callable[[], Sequence[Vpc]],
        imds_path: Callable[[str], str],
    ) -> None:
        """See `DataPlane`; what listens on 127.0.0.1 is reached from everywhere."""
        self._endpoint = f"http://127.0.0.1:{port}"
        self._imds_path = imds_path

    def take(self, instance_id: str, private: str) -> Address:
        """See `DataPlane`: one that really answers, and not that of the subnet."""
        address = self._addresses.take()
        return Address(address, address)

    def give_back(self, address: Address) -> None:
        """See `DataPlane`."""
        self._addresses.give_back(address.private)

    def take_public(self) -> str | None:
        """See `DataPlane`: nothing listens on an elastic address."""
        return None

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """See `DataPlane`."""
        return ProcessMachine(instance_id, address, folder, scratch, user_data)

    def environ(self, instance_id: str) -> dict[str, str]:
        """See `DataPlane`."""
        return {
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{self._endpoint}{self._imds_path(instance_id)}",
        }

    def changed(self) -> None:
        """See `DataPlane`: there are no walls, so nothing is to be done."""

    def close(self) -> None:
        """See `DataPlane`."""
        self._addresses.close()
