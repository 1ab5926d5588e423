"""The instances' lives: each EC2 instance is a machine, and AWS's states follow what its processes do.

    launch      a machine for each new instance; pending, and running when its first process is there
    end         the API's terminate, stop and reboot; the state follows when the processes are gone
    _live       the life of one machine, in a thread of its own

What a machine is made of is the data plane's affair. Imports nothing of moto: whoever keeps the instances
gets told by `Events`. All state is changed under the one lock of the sandbox, which is never held while
waiting for a process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.machine import POWER_COMMANDS, copy_disk
from prefect_coiled.sandbox.plane import Address, By, DataPlane, Ending, Machine
from prefect_coiled.sandbox.settings import Settings

__all__ = ["OWNER_MARK", "Events", "Supervisor"]

OWNER_MARK = "PREFECT_COILED_SANDBOX"

_log = logging.getLogger(__name__)
_SYSTEM_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin")
# What the administrator of this machine installed is not on a bare one.
_BARE_PATH = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")


class Events(Protocol):
    """What the keeper of the instances is told; always under the lock."""

    def ending(self, instance_id: str, how: Ending) -> None:
        """The machine was asked to go down."""

    def running(self, instance_id: str, public_address: str) -> None:
        """The machine's first process is there."""

    def ended(self, instance_id: str, how: Ending, by: By) -> None:
        """The machine's processes are gone."""

    def shutdown_behavior(self, instance_id: str) -> Ending:
        """What a power-off from within means: "stop" or "terminate"."""


class Supervisor:
    """All machines of one sandbox.

    Args:
        folder: The state folder of the sandbox.
        settings: Delays and the form of booting.
        plane: Where machines and their addresses come from.
        lock: The one lock of the sandbox.
        events: Who is told.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        plane: DataPlane,
        lock: threading.RLock,
        events: Events,
    ) -> None:
        self.machines: dict[str, Machine] = {}
        self._folder = folder
        self._images = folder / "images"
        self._settings = settings
        self._plane = plane
        self._lock = lock
        self._events = events
        self._closed = False
        self._commands = _install_commands(folder / "bin")
        self._bare_commands = _install_bare_commands(folder / "bare-bin")

    # -- what the API does ---------------------------------------------------------------------------

    def address(self, instance_id: str, private: str) -> Address:
        """The addresses of an instance that is about to be launched.

        Args:
            instance_id: Its id.
            private: The address that its subnet has for it.
        """
        return self._plane.take(instance_id, private)

    def launch(self, new: Iterable[tuple[str, Address, bytes, str]]) -> None:
        """Boot new instances; each as (instance id, addresses, user data, image id)."""
        machines = []
        for instance_id, address, user_data, image_id in new:
            folder = self._folder / instance_id
            folder.mkdir(exist_ok=True)
            scratch = self._folder / "t" / instance_id[-8:]
            kept = self._images / image_id
            machine = self._plane.machine(instance_id, address, folder, scratch, user_data)
            machine.image = kept if kept.exists() else None
            self.machines[instance_id] = machine
            machines.append(machine)
        self._plane.changed()
        self._boot(machines)

    def start(self, instance_id: str) -> None:
        """Boot a stopped instance again."""
        machine = self.machines[instance_id]
        machine.wanted, machine.crashed = None, False
        machine.wake.clear()
        self._boot([machine])

    def end(self, instance_id: str, how: Ending, by: By = "user") -> None:
        """Take an instance down. Its state follows when the processes are gone."""
        machine = self.machines.get(instance_id)
        if machine is None:
            return
        machine.wanted, machine.wanted_by = how, by
        self._events.ending(instance_id, how)
        if machine.living:
            machine.press_power()
        else:
            self._finish(machine)

    def keep_image(self, image_id: str, instance_id: str) -> None:
        """Keep the disk of a machine, which machines of that image begin with."""
        machine = self.machines.get(instance_id)
        if machine is not None and machine.root.exists():
            copy_disk(machine.root, self._images / image_id)

    def drop_image(self, image_id: str) -> None:
        """Forget the disk of an image."""
        shutil.rmtree(self._images / image_id, ignore_errors=True)

    # -- ways to die ---------------------------------------------------------------------------------

    def crash(self, instance_id: str) -> None:
        """Kill an instance's processes at once; EC2 goes on saying running, its status impaired."""
        machine = self.machines[instance_id]
        machine.crashed = True
        machine.kill()

    def interrupt(self, instance_id: str, seconds: float) -> None:
        """Give a spot notice now, and take the instance away after so many seconds."""
        machine = self.machines[instance_id]
        machine.interrupt_at = time.time() + seconds
        timer = threading.Timer(seconds, self._reclaim, (instance_id,))
        timer.daemon = True
        timer.start()

    def _reclaim(self, instance_id: str) -> None:
        with self._lock:
            machine = self.machines.get(instance_id)
            if machine is not None and machine.wanted is None:
                self.end(instance_id, "terminate", "spot")

    # -- the life of a machine -----------------------------------------------------------------------

    def _boot(self, machines: list[Machine]) -> None:
        if self._settings.boot == "none":
            timer = threading.Timer(self._boot_delay(), self._pretend, (machines,))
            timer.daemon = True
            timer.start()
            return
        for machine in machines:
            machine.living = True
            threading.Thread(
                target=self._live, args=(machine,), daemon=True, name=machine.instance_id
            ).start()

    def _boot_delay(self) -> float:
        return self._settings.boot_delay + self._settings.boot_spread * random.random()

    def _pretend(self, machines: list[Machine]) -> None:
        with self._lock:
            for machine in machines:
                if machine.wanted is None and self._knows(machine):
                    machine.on = True
                    self._tell_running(machine)

    def _live(self, machine: Machine) -> None:
        again = True
        while again:
            machine.wake.wait(self._boot_delay())
            if machine.wanted is None and self._knows(machine):
                try:
                    machine.power_on(self._environ(machine), self._settings.grace)
                except (OSError, SandboxError) as error:
                    _log.error("%s cannot boot: %s", machine.instance_id, error)
                    machine.wanted, machine.wanted_by = "terminate", "server"
                self._announce(machine)
                machine.wait()
            with self._lock:
                again = machine.living = self._after(machine)

    def _knows(self, machine: Machine) -> bool:
        """Whether it still belongs here; not after `close`, even if its thread comes late."""
        return not self._closed and self.machines.get(machine.instance_id) is machine

    def _announce(self, machine: Machine) -> None:
        with self._lock:
            if machine.wanted is not None or not self._knows(machine):
                machine.press_power()
            else:
                _log.info("%s is on at %s, pid %s", machine.instance_id, machine.address, machine.pid)
                self._tell_running(machine)

    def _tell_running(self, machine: Machine) -> None:
        self._events.running(machine.instance_id, machine.addresses.public)
        self._plane.changed()

    def _after(self, machine: Machine) -> bool:
        """What follows the end of the processes; gives whether to boot again."""
        asked = machine.asked_inside()
        machine.forget()
        if not self._knows(machine):
            return False
        if machine.wanted is None and asked == "reboot":
            machine.wanted = "reboot"
        elif machine.wanted is None and asked == "poweroff":
            machine.wanted, machine.wanted_by = (
                self._events.shutdown_behavior(machine.instance_id),
                "instance",
            )
            self._events.ending(machine.instance_id, machine.wanted)
        _log.info("%s is off: %s by %s", machine.instance_id, machine.wanted, machine.wanted_by)
        if machine.wanted == "reboot":
            machine.wanted, machine.since = None, time.time()
            machine.wake.clear()
            return True
        if machine.wanted is None:
            machine.crashed = True
        else:
            self._finish(machine)
        return False

    def _finish(self, machine: Machine) -> None:
        how = machine.wanted or "terminate"
        machine.on = False
        if how == "reboot":
            machine.wanted = None
            self.start(machine.instance_id)
            return
        if how == "terminate":
            machine.erase()
            self._plane.give_back(machine.addresses)
            self.machines.pop(machine.instance_id, None)
        self._events.ended(machine.instance_id, how, machine.wanted_by)
        self._plane.changed()

    def _environ(self, machine: Machine) -> dict[str, str]:
        bare = self._settings.image == "bare"
        path = [str(self._commands), os.path.dirname(sys.executable), *_SYSTEM_PATH]
        if bare:
            path = [str(self._commands), str(self._bare_commands), str(machine.commands), *_BARE_PATH]
        environ = {
            "PATH": os.pathsep.join(dict.fromkeys(path)),
            "LANG": "C.UTF-8",
            **self._plane.environ(machine.instance_id),
            OWNER_MARK: str(self._folder),
        }
        if bare:
            # Where the boot script has its /opt: nothing of this machine is touched.
            environ["PREFECT_COILED_ROOT"] = str(machine.root)
            if self._settings.disk is not None:
                environ["SANDBOX_DISK"] = str(self._settings.disk)
        elif os.environ.get("PYTHONPATH"):
            # Relative to where the sandbox was started; an instance starts in its own home.
            given = os.environ["PYTHONPATH"].split(os.pathsep)
            environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in given if entry)
        return environ

    # -- the end -------------------------------------------------------------------------------------

    def live(self) -> int:
        """How many machines are on, or on their way up or down."""
        return sum(1 for machine in list(self.machines.values()) if machine.on or machine.living)

    def console(self, instance_id: str) -> bytes:
        """The last 64 KiB of what an instance printed."""
        file = self._folder / instance_id / "console.log"
        return file.read_bytes()[-65536:] if file.exists() else b""

    def close(self, grace: float = 1.0) -> None:
        """Take all machines down and forget them.

        Args:
            grace: Seconds before the plug is pulled.
        """
        with self._lock:
            self._closed = True
            machines = list(self.machines.values())
            for machine in machines:
                machine.press_power()
        end = time.monotonic() + grace
        while any(machine.pid for machine in machines) and time.monotonic() < end:
            time.sleep(0.02)
        for machine in machines:
            machine.kill()
        end = time.monotonic() + 5
        while any(machine.pid for machine in machines) and time.monotonic() < end:
            time.sleep(0.02)
        with self._lock:
            for machine in machines:
                self._plane.give_back(machine.addresses)
                shutil.rmtree(machine.folder, ignore_errors=True)
            self.machines.clear()
            shutil.rmtree(self._folder / "t", ignore_errors=True)
            shutil.rmtree(self._images, ignore_errors=True)

    def reset(self) -> None:
        """Take all machines down, and be ready for new ones."""
        self.close()
        with self._lock:
            self._closed = False


def _install_commands(folder: Path) -> Path:
    """What an instance finds first on its path: power commands, and stand-ins for Docker and AWS's CLI."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("docker", "aws"):
        program = Path(__file__).parent / "instance" / f"{name}.py"
        line = f'exec {shlex.quote(sys.executable)} {shlex.quote(str(program))} "$@"'
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    script = Path(__file__).parent / "instance" / "power.sh"
    for name in POWER_COMMANDS:
        command = folder / name
        with contextlib.suppress(FileNotFoundError):
            command.unlink()
        shutil.copy(script, command)
        command.chmod(0o755)
    return folder


def _install_bare_commands(folder: Path) -> Path:
    """What Amazon Linux has and this machine may not: python3 and dnf."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent / "instance"
    minor = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / f"python{minor}"
    python = str(base if base.exists() else getattr(sys, "_base_executable", sys.executable))
    dnf = (here / "dnf.sh").read_text().replace("@PYTHON@", f"python{minor}").replace("@EXECUTABLE@", python)
    scripts = {
        "dnf": dnf,
        "python3": f'#!/bin/sh\nexec "{python}" "$@"\n',
    }
    # One of this machine's own, which may be of another patch, is not the distribution's.
    if shutil.which(f"python{minor}", path=os.pathsep.join(_SYSTEM_PATH)):
        scripts[f"python{minor}"] = scripts["python3"]
    for name, text in scripts.items():
        command = folder / name
        command.write_text(text)
        command.chmod(0o755)
    return folder
