"""Instances as whole Linux machines in systemd-nspawn: real systemd, real cloud-init, the real addresses.

    NspawnPlane     the router that their cables end in; AWS's API and each one's metadata on it
    NspawnMachine   one of them: a disk over that of its image, a cable, a power button

A machine boots from the root file systems that the setting `image` names; cloud-init finds its user data at
169.254.169.254, as on AWS. Needs root, systemd-nspawn, iproute2 and nftables.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, reply
from prefect_coiled.sandbox.http import serve_on
from prefect_coiled.sandbox.network import Vpc, mac
from prefect_coiled.sandbox.plane import Address, Form, Machine
from prefect_coiled.sandbox.router import API, METADATA, Router
from prefect_coiled.sandbox.settings import Settings

__all__ = ["NspawnMachine", "NspawnPlane"]

_INIT = Path(__file__).parent / "instance" / "nspawn.sh"
_TOOLS = ("systemd-nspawn", "ip", "nft", "unshare", "nsenter")
_METADATA_PATH = "/_sandbox/imds"
# Settings of package managers are this computer's own affair: how it reaches its indexes, and whom it trusts.
_PASSED_ON = re.compile(
    r"^(PIP|UV)_\w+$|^(SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)$|^(https?|no|all)_proxy$",
    re.IGNORECASE,
)
_CONFIGURATION = ("/etc/pip.conf", "/etc/uv/uv.toml", "/etc/ssl/certs/ca-certificates.crt")


class NspawnMachine(Machine):
    """One instance.

    Args:
        instance_id: See `Machine`.
        address: See `Machine`.
        folder: See `Machine`; its disk is in it.
        user_data: See `Machine`; cloud-init fetches it.
        router: Where its cable ends.
        image: The root file systems under its disk, the upper first.
    """

    def __init__(
        self,
        instance_id: str,
        address: Address,
        folder: Path,
        user_data: bytes,
        router: Router,
        image: str,
    ) -> None:
        super().__init__(instance_id, address, folder, user_data)
        self._router = router
        self._image = image
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: IO[bytes] | None = None
        # The name of a network link has at most 15 characters.
        self._link = f"vm-{instance_id[-12:]}"
        self._name = f"coiled-{instance_id}"

    @property
    def pid(self) -> int | None:
        """See `Machine`."""
        return self._process.pid if self._process else None

    def power_on(self, environ: Mapping[str, str], grace: float) -> None:
        """See `Machine`. That user data runs once is cloud-init's own affair."""
        for name in ("disk", "work", "root"):
            (self.folder / name).mkdir(exist_ok=True)
        passed = {k: v for k, v in os.environ.items() if _PASSED_ON.match(k)}
        if "PIP_INDEX_URL" in passed and "UV_INDEX_URL" not in passed:  # uv does not read pip's
            passed.setdefault("UV_DEFAULT_INDEX", passed["PIP_INDEX_URL"])
        aws = {k: v for k, v in environ.items() if k.startswith("AWS_")}
        self._write_environment({**passed, **aws})
        shown = [path for path in dict.fromkeys([*passed.values(), *_CONFIGURATION]) if _is_path(path)]
        inside = {
            "PATH": os.environ.get("PATH", os.defpath),
            "MACHINE_DIR": str(self.folder),
            "MACHINE_LAYERS": self._image,
            "MACHINE_NAME": self._name,
            "MACHINE_UUID": hashlib.sha256(self.instance_id.encode()).hexdigest()[:32],
            "MACHINE_MAC": mac(self.address),
            "MACHINE_ROUTER": self._router.namespace.inherited,
            "MACHINE_LINK": self._link,
            "MACHINE_GRACE": f"{grace:g}",
        }
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]
        # Real paths: certificates are often links out of their folder.
        binds = [f"--bind-ro={os.path.realpath(path)}:{path}" for path in shown]
        self._lifeline = self._spawn([*unshare, "/bin/sh", str(_INIT), *binds], inside)
        self.unplugged = False
        self.on = True

    def _write_environment(self, variables: Mapping[str, str]) -> None:
        """What systemd gives to every service of the machine, cloud-init's scripts too."""
        folder = self.folder / "disk" / "etc" / "systemd" / "system.conf.d"
        folder.mkdir(parents=True, exist_ok=True)
        words = " ".join(f'"{name}={_escaped(value)}"' for name, value in sorted(variables.items()))
        (folder / "50-sandbox.conf").write_text(f"[Manager]\nDefaultEnvironment={words}\n")

    def _spawn(self, command: list[str], environ: dict[str, str]) -> IO[bytes]:
        """Start the first process; gives the writing end of its lifeline."""
        read_end, write_end = os.pipe()
        try:
            with self.console.open("ab") as console:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=environ,
                    stdin=read_end,
                    pass_fds=(self._router.namespace.descriptor,),
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
        except BaseException:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
        return os.fdopen(write_end, "wb")

    def press_power(self) -> None:
        """See `Machine`."""
        self.wake.set()
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        if self.unplugged:
            self.kill()

    def kill(self) -> None:
        """See `Machine`. Where the cable is in, the kernel still tells peers that the sockets are closed."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def unplug(self) -> None:
        """See `Machine`: the cable is pulled, so that no packet comes out, whatever happens inside."""
        self.unplugged = True
        self._router.plug(self._link, False)

    def replug(self) -> None:
        """See `Machine`."""
        self.unplugged = False
        self._router.plug(self._link, True)

    def wait(self) -> None:
        """See `Machine`."""
        if self._process is not None:
            self._process.wait()
            _remove_cgroup(self._name)
            self.on = False

    def forget(self) -> None:
        """See `Machine`."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None
        self._process = None
        self.on = False

    def asked_inside(self) -> str:
        """See `Machine`."""
        note = self.folder / "power"
        asked = note.read_text().strip() if note.exists() else ""
        note.unlink(missing_ok=True)
        return asked

    def erase(self) -> None:
        """See `Machine`."""
        for name in ("disk", "work", "root"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


class NspawnPlane:
    """Whole machines on a network of their own.

    Args:
        settings: For the image that machines boot from.

    Raises:
        SandboxError: It cannot be had here.
    """

    form: Form = "many"

    def __init__(self, settings: Settings) -> None:
        check(settings.image)
        self._settings = settings
        self._router = Router()
        # Public addresses are used again only after all others: a late client must not meet a stranger.
        self._numbers = itertools.cycle(range(10, 251))
        self._used: set[int] = set()
        self._by_private: dict[str, str] = {}
        self._look: Callable[[], Sequence[Vpc]] = tuple
        self._servers: list[object] = []

    @property
    def client_address(self) -> str:
        """See `DataPlane`."""
        return self._router.client_address

    def open(self, app: WsgiApp, port: int, look: Callable[[], Sequence[Vpc]]) -> None:
        """See `DataPlane`."""
        self._look = look

        def metadata(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            instance_id = self._by_private.get(environ["REMOTE_ADDR"])
            if instance_id is None:
                return reply(start_response, 404, "")
            environ["PATH_INFO"] = f"{_METADATA_PATH}/{instance_id}/{environ['PATH_INFO'].lstrip('/')}"
            return app(environ, start_response)

        def api(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"].startswith("/_sandbox"):
                return reply(start_response, 404, "")
            return app(environ, start_response)

        for address, answers in ((METADATA, metadata), (API, api)):
            listener = self._router.listen(address)
            server = serve_on(address, 80, answers, listener=listener)
            threading.Thread(target=server.serve_forever, args=(0.5,), daemon=True, name=address).start()
            self._servers.append(server)

    def take(self, instance_id: str, private: str) -> Address:
        """See `DataPlane`."""
        number = next((n for n in itertools.islice(self._numbers, 241) if n not in self._used), None)
        if number is None:
            raise SandboxError("giving an address to an instance", "all addresses of the sandbox are in use")
        self._used.add(number)
        self._by_private[private] = instance_id
        return Address(private, self._router.public(private, number))

    def give_back(self, address: Address) -> None:
        """See `DataPlane`."""
        self._by_private.pop(address.private, None)
        self._used.discard(int(address.public.rpartition(".")[2]))

    def take_public(self) -> str | None:
        """See `DataPlane`."""
        return None

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """See `DataPlane`."""
        return NspawnMachine(instance_id, address, folder, user_data, self._router, self._settings.image)

    def environ(self, instance_id: str) -> dict[str, str]:
        """See `DataPlane`; the metadata service is where it is on AWS, so nothing leads to it."""
        return {"AWS_ENDPOINT_URL": f"http://{API}"}

    def changed(self) -> None:
        """See `DataPlane`."""
        self._router.follow(self._look())

    def close(self) -> None:
        """See `DataPlane`."""
        self._router.close()


def check(image: str) -> None:
    """See whether machines can be made here.

    Args:
        image: The root file systems, the upper first, separated by colons.

    Raises:
        SandboxError: They cannot, with the reason.
    """
    what = "starting a sandbox of whole machines"
    if sys.platform != "linux" or os.geteuid() != 0:
        raise SandboxError(what, "it needs Linux and root")
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        hint = "On Debian: apt-get install systemd-container iproute2 nftables util-linux"
        raise SandboxError(what, f"not installed: {', '.join(missing)}", hint)
    folders = image.split(":") if image else []
    if not folders or not (Path(folders[-1]) / "usr/lib/systemd/systemd").exists():
        raise SandboxError(what, f"the setting image ({image!r}) names no root file system with systemd")


def _is_path(value: str) -> bool:
    return value.startswith("/") and os.path.exists(value)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _remove_cgroup(name: str) -> None:
    """Where the machine was killed, so that its first process could not do it itself."""
    for base in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        for folder, _, _ in os.walk(f"{base}/{name}", topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
