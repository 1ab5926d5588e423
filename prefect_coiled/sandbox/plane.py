"""The data plane behind one small interface: what an instance is made of, and how packets reach it.

    DataPlane   gives addresses, makes machines, keeps the network as it is said to be
    Machine     one instance: power on, power button, pulled plug, gone; and what the supervisor notes on it

The planes that there are stand in `planes`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from prefect_coiled.sandbox.calls import WsgiApp
from prefect_coiled.sandbox.network import Vpc

__all__ = ["Address", "By", "DataPlane", "Ending", "Form", "Machine"]

By = Literal["user", "instance", "spot", "server"]
Ending = Literal["terminate", "stop", "reboot"]
Form = Literal["many", "one"]


@dataclass(frozen=True)
class Address:
    """Where an instance is reached.

    Attributes:
        private: By other instances.
        public: By clients, if it was launched with a public address.
    """

    private: str
    public: str


class Machine(ABC):
    """One instance. The supervisor holds its lock around all calls but `power_on` and `wait`.

    Args:
        instance_id: The id on EC2.
        address: Its addresses.
        folder: Its folder, with the console and whatever else its kind needs.
        user_data: What it runs at its first boot.

    Attributes:
        since: When it was launched, or booted again.
        on: Whether it runs.
        living: Whether a thread of the supervisor looks after it.
        crashed: Whether it died without anybody's asking.
        unplugged: Whether it is cut off.
        wanted: What it was asked for.
        wanted_by: Who asked.
        wake: Set when it is asked to go down before it is up.
        interrupt_at: When a spot instance is taken away.
        tokens: The metadata service's tokens, and until when they hold.
        image: The folder with the disk of the image that it starts from, if one was made of a machine.
    """

    def __init__(self, instance_id: str, address: Address, folder: Path, user_data: bytes) -> None:
        self.instance_id = instance_id
        self.addresses = address
        self.folder = folder
        self.user_data = user_data
        self.since = time.time()
        self.on = False
        self.living = False
        self.crashed = False
        self.unplugged = False
        self.wanted: Ending | None = None
        self.wanted_by: By = "user"
        self.wake = threading.Event()
        self.interrupt_at: float | None = None
        self.tokens: dict[str, float] = {}
        self.image: Path | None = None

    @property
    def address(self) -> str:
        """The address that it has inside."""
        return self.addresses.private

    @property
    def console(self) -> Path:
        """The file with what the machine printed."""
        return self.folder / "console.log"

    @property
    def root(self) -> Path:
        """What stands for its root directory, on a bare machine."""
        return self.folder / "root"

    @property
    def commands(self) -> Path:
        """Where a bare machine's commands get installed."""
        return self.folder / "bin"

    @property
    @abstractmethod
    def pid(self) -> int | None:
        """The process id of its root, while there is one."""

    @abstractmethod
    def power_on(self, environ: Mapping[str, str], grace: float) -> None:
        """Boot. User data runs on the first boot only.

        Args:
            environ: The environment of the user data.
            grace: Seconds that it gets to go down.

        Raises:
            OSError: It cannot boot.
            SandboxError: It cannot boot.
        """

    @abstractmethod
    def press_power(self) -> None:
        """Ask the machine to go down, and see that it does within its grace."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once; peers notice."""

    @abstractmethod
    def unplug(self) -> None:
        """Cut it off: no FIN, no answer, and yet "running" for AWS."""

    @abstractmethod
    def replug(self) -> None:
        """Let it go on."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until nothing of it runs any more."""

    @abstractmethod
    def forget(self) -> None:
        """Nothing of it runs any more: release what was held for that."""

    @abstractmethod
    def asked_inside(self) -> str:
        """What it asked for from within: "poweroff", "reboot" or nothing; told once."""

    @abstractmethod
    def erase(self) -> None:
        """Remove its files, but not the console."""


class DataPlane(Protocol):
    """Where instances live. All but `open` and `close` is called under the lock of the sandbox."""

    @property
    def form(self) -> Form:
        """Says "many" when each instance has an address of its own."""

    @property
    def client_address(self) -> str:
        """The address that clients on this machine are seen from."""

    def open(
        self,
        app: WsgiApp,
        port: int,
        look: Callable[[], Sequence[Vpc]],
        imds_path: Callable[[str], str],
    ) -> None:
        """Lead instances to AWS's API and to their metadata.

        Args:
            app: Answers both.
            port: Where it listens on 127.0.0.1.
            look: Tells what is said of networks now; to be called under the lock.
            imds_path: Where the application has the metadata of the instance with that id.
        """

    def take(self, instance_id: str, private: str) -> Address:
        """The addresses of a new instance.

        Args:
            instance_id: Its id.
            private: The address that its subnet has for it.
        """

    def give_back(self, address: Address) -> None:
        """The instance is gone."""

    def take_public(self) -> str | None:
        """A public address that stays (an elastic one); None where the plane has none to give."""

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """The machine of a new instance, switched off.

        Args:
            instance_id: Its id.
            address: What `take` gave.
            folder: A folder for it.
            scratch: A folder with a short name, to be made.
            user_data: What it runs at its first boot.
        """

    def environ(self, instance_id: str) -> dict[str, str]:
        """The variables that lead an instance to AWS's API and to its metadata."""

    def changed(self) -> None:
        """Networks may be other than they were: instances came or went, a call changed rules or routes."""

    def close(self) -> None:
        """Nothing is left of it; its machines are gone before."""
