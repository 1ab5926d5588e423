"""Starts, finds and stops sandboxes: the one in the background, and (for `handle`) one of a test's own.

    ensure_started   the background sandbox, started if it is not there; safe when two run at once
    start            the same, with a choice of port and time
    status           what runs, or None
    stop             the end of it, and of all its instances

The background sandbox belongs to one installation: its state folder is named after the interpreter and the
package. It ends by itself after a time without calls and without instances.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil

from prefect_coiled.errors import SandboxError
from prefect_coiled.install import has_sandbox, how
from prefect_coiled.sandbox.info import NEXT, SandboxInfo, ask, is_itself
from prefect_coiled.sandbox.sweep import sweep

__all__ = [
    "IDLE_SECONDS",
    "SETTINGS",
    "SandboxInfo",
    "end_process",
    "ensure_started",
    "launch",
    "start",
    "state_folder",
    "status",
    "stop",
]

IDLE_SECONDS = 1800.0
_START_SECONDS = 60.0
# The server answers for AWS: nothing in the environment may lead it to another one. And it lives on when this
# process has ended: nobody's secrets shall lie in its environment meanwhile.
_STAYS = re.compile(
    r"^(AWS|MOTO)_|^PREFECT_(?!COILED_SANDBOX)|KEY|SECRET|TOKEN|PASSW|CREDENTIAL|AUTH|INDEX_URL|DSN|COOKIE"
    r"|_(PWD|PAT)\Z",
    re.IGNORECASE,
)
# An address with a user, and mostly a password, in it: of a database, a proxy, an index.
_HAS_USER = re.compile(r"://[^\s/@]+@")
_STOP_SECONDS = 15.0
_METADATA = "server.json"
SETTINGS = "settings.json"


def state_folder() -> Path:
    """Where the background sandbox of this installation keeps its files.

    Raises:
        SandboxError: The user has no home, and names no folder.
    """
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise SandboxError(
            "finding the sandbox",
            "it keeps its files in the home folder, and this user has none.",
            "Set XDG_STATE_HOME to a folder of your own.",
        ) from error
    identity = f"{sys.prefix}\0{Path(__file__).resolve().parent}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    return Path(base) / "prefect-coiled" / "sandbox" / digest


def status(folder: Path | None = None) -> SandboxInfo | None:
    """The running background sandbox, or None.

    Args:
        folder: The state folder; by default that of this installation.
    """
    folder = folder or state_folder()
    known = _metadata(folder)
    if known is None:
        return None
    try:
        secret = str(known["secret_access_key"])
        if not is_itself(str(known["endpoint"]), secret):
            return None
        health = ask(known["endpoint"], "GET", "health", secret=secret, timeout=10)
    except (SandboxError, KeyError):  # dead, or one of an older release
        return None
    if health.get("state_dir") != str(folder):
        return None  # the port belongs to someone else by now
    return SandboxInfo(
        endpoint=known["endpoint"],
        pid=int(health["pid"]),
        state_dir=folder,
        addresses=health["addresses"],
        instances=int(health["instances"]),
        plane=health["plane"],
        client_address=health["client_address"],
        image=health.get("image", "ready"),
        profile=health.get("profile", "fast"),
        account=health.get("account", "used"),
        idle=health.get("idle"),
        secret_access_key=secret,
    )


def ensure_started() -> SandboxInfo:
    """The background sandbox; started if it does not run. Two that ask at once get the same one.

    Raises:
        SandboxError: It cannot start.
    """
    return start()


def start(
    detach: bool = True,
    *,
    port: int = 0,
    idle: float | None = None,
    settings: Mapping[str, Any] | None = None,
) -> SandboxInfo:
    """Start the background sandbox, or find the one that runs.

    Args:
        detach: True lets it live on after this process; False ties it to this process's life.
        port: The port; 0 for a free one.
        idle: Seconds without calls and without instances after which it ends by itself; `IDLE_SECONDS` for
            a new one if not given.
        settings: See `prefect_coiled.sandbox.settings.Settings`.

    Raises:
        SandboxError: It cannot start, or one runs whose port, idle time, data plane, profile or account is
            another than was asked for.
    """
    if not 0 <= port <= 65535:
        raise SandboxError(f"port {port}", "must be a number from 1 to 65535, or 0 for a free one.")
    if idle is not None and not 0 < idle < math.inf:
        raise SandboxError(f"idle {idle:g}", "must be a number of seconds, more than 0.")
    folder = state_folder()
    with _locked(folder):
        running = status(folder)
        if running is not None:
            asked = settings or {}
            for name, words in (("plane", "data plane"), ("profile", "profile"), ("account", "account")):
                if asked.get(name, getattr(running, name)) != getattr(running, name):
                    raise SandboxError(
                        "starting the sandbox",
                        f'one runs already, whose {words} is "{getattr(running, name)}"',
                        "Stop it first: `prefect-coiled sandbox stop`.",
                    )
            if port not in (0, urllib.parse.urlsplit(running.endpoint).port):
                raise SandboxError(
                    "starting the sandbox",
                    f"one runs already, at {running.endpoint}",
                    "Stop it first: `prefect-coiled sandbox stop`.",
                )
            if idle not in (None, running.idle):
                ends = (
                    "does not end by itself"
                    if running.idle is None
                    else f"ends after {running.idle:g} s without use"
                )
                raise SandboxError(
                    "starting the sandbox",
                    f"one runs already, which {ends}",
                    "Stop it first: `prefect-coiled sandbox stop`.",
                )
            return running
        _clear(folder)
        arguments = ["--port", str(port), "--idle", repr(float(IDLE_SECONDS if idle is None else idle))]
        process = launch(folder, arguments, settings, lifeline=not detach)
        # Holds the lifeline open as long as this process lives, and takes the server's exit status.
        threading.Thread(target=process.wait, daemon=True, name="sandbox").start()
        found = status(folder)
        if found is None:
            raise SandboxError("starting the sandbox", "it started but does not answer", NEXT)
        return found


def stop(folder: Path | None = None) -> bool:
    """End the background sandbox with all its instances.

    Args:
        folder: The state folder; by default that of this installation.

    Returns:
        Whether there was one.
    """
    folder = folder or state_folder()
    if not folder.exists():
        return False
    with _locked(folder):
        known = _metadata(folder)
        running = status(folder)
        if running is not None:
            with contextlib.suppress(SandboxError):
                ask(running.endpoint, "POST", "stop", secret=running.secret_access_key)
            end_process(running.pid)
        elif known is not None and _is_server(known["pid"], folder):
            end_process(known["pid"])
        _clear(folder)
        return known is not None


def launch(
    folder: Path, arguments: Sequence[str], settings: Mapping[str, Any] | None, *, lifeline: bool
) -> subprocess.Popen[bytes]:
    """Start a server and wait until it answers.

    Args:
        folder: Its state folder.
        arguments: Its arguments but for the folder and the settings.
        settings: What it starts with. They may hold tokens, and every user of the machine may read its
            arguments: they go by a file, which the server removes.
        lifeline: Whether it ends with the end of the pipe on its standard input.

    Raises:
        SandboxError: It ended before it answered, or does not answer in time, or what it needs is not there.
    """
    if not has_sandbox():
        raise SandboxError("starting the sandbox", "it needs moto.", how("sandbox"))
    _make_own(folder)
    command = [sys.executable, "-m", "prefect_coiled.sandbox.server", "--state-dir", str(folder), *arguments]
    if lifeline:
        command.append("--lifeline")
    given = folder / SETTINGS
    given.unlink(missing_ok=True)
    with open(os.open(given, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(dict(settings or {}), file)
    environ = {
        name: value
        for name, value in os.environ.items()
        if not _STAYS.search(name) and not _HAS_USER.search(value)
    }
    # Nor may anything in ~/.aws, or keep it from starting.
    environ |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    log = folder / "server.log"
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environ,
        )
    end = time.monotonic() + _START_SECONDS
    while not (folder / _METADATA).exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            process.wait()
            # Those of this start: an earlier one's were of something else.
            own = log.read_bytes()[before:].decode(errors="replace")
            tail = "\n".join(own.splitlines()[-5:])
            raise SandboxError("starting the sandbox", tail or "no answer in time")
        time.sleep(0.01)
    return process


def end_process(pid: int, seconds: float = _STOP_SECONDS) -> None:
    """Wait for a server's end; insist where it does not come.

    Args:
        pid: Its process id.
        seconds: How long it may take before SIGTERM, and again before SIGKILL.
    """
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        try:
            if number is not None:
                process.send_signal(number)
            process.wait(timeout=seconds)
        except psutil.TimeoutExpired:
            continue
        except psutil.NoSuchProcess:
            pass
        return


def _make_own(folder: Path) -> None:
    """Make the state folder, for this user alone.

    Raises:
        SandboxError: It cannot be made, or is somebody else's, who would read what is in it.
    """
    # Those above it too: who may write there could put a folder of his own in its place.
    try:
        for one in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            one.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise SandboxError(
            "starting the sandbox",
            f"its folder {folder} cannot be made: {error.strerror or error}",
            "Set XDG_STATE_HOME to a folder of your own.",
        ) from error
    if not _is_own(folder):
        raise SandboxError(
            "starting the sandbox",
            f"{folder} is a link, or another user's",
            "Remove it, or set XDG_STATE_HOME to a folder of your own.",
        )
    folder.chmod(0o700)


def _is_own(path: Path) -> bool:
    """Whether it is this user's, and no link."""
    return not path.is_symlink() and path.lstat().st_uid == os.getuid()


def _metadata(folder: Path) -> dict[str, Any] | None:
    try:
        if not (_is_own(folder) and _is_own(folder / _METADATA)):
            return None
        known = json.loads((folder / _METADATA).read_text())
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def _is_server(pid: int, folder: Path) -> bool:
    try:
        return str(folder) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _clear(folder: Path) -> None:
    """Remove what a dead server left: instances that still run, their folders, its metadata."""
    sweep("PREFECT_COILED_SANDBOX", str(folder))
    (folder / _METADATA).unlink(missing_ok=True)
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a")
    except OSError as error:
        raise SandboxError(
            "starting the sandbox",
            f"{path} cannot be written: {error.strerror or error}",
            "Set XDG_STATE_HOME to a folder of your own.",
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One start or stop at a time, between processes too."""
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise SandboxError("starting the sandbox", "it needs Linux or macOS") from error
    _make_own(folder)
    with _opened(folder / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
