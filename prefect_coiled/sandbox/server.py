"""The process of a sandbox: one port for AWS's API, the metadata services and the admin interface.

Run as `python -m prefect_coiled.sandbox.server --state-dir DIR`; `control` and `handle` do. What happens to
a request is told in `chain`. The process ends on SIGTERM, SIGINT or SIGHUP, by the admin interface, at the
end of its lifeline (a pipe on standard input), or when nothing happened for long; its instances end with it
even when it is killed, because each holds a pipe to it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.control import SETTINGS
from prefect_coiled.sandbox.loading import loaded, prepare
from prefect_coiled.sandbox.planes import make_plane
from prefect_coiled.sandbox.settings import Settings

__all__ = ["main"]

_log = logging.getLogger(__name__)


def _watch_lifeline(stopped: threading.Event) -> None:
    """End with whoever holds the other end of standard input, in whatever way it ends."""

    def watch() -> None:
        # Not sys.stdin: its lock, held by this thread, would abort the interpreter's exit.
        while os.read(0, 4096):
            pass
        stopped.set()

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def _take(file: Path) -> dict[str, Any]:
    """The settings that whoever starts a sandbox left in its folder; they may hold tokens, and go."""
    try:
        given: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    file.unlink()
    return given


def main(argv: list[str] | None = None) -> int:
    """Run a sandbox until it is stopped."""
    parser = argparse.ArgumentParser(prog="prefect_coiled.sandbox.server", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--addresses", choices=("many", "one"))
    parser.add_argument("--idle", type=float, help="seconds without calls and instances until it ends")
    parser.add_argument("--lifeline", action="store_true", help="end at the end of standard input")
    parser.add_argument("--erase", action="store_true", help="remove the state folder at the end")
    options = parser.parse_args(argv)

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings()
    try:
        settings.update(_take(options.state_dir / SETTINGS))
        plane = make_plane(settings, options.addresses)
    except (SandboxError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stopped.set())
    if options.lifeline:
        _watch_lifeline(stopped)

    prepare()
    from prefect_coiled.sandbox.chain import Server  # loads moto

    server = Server(options.state_dir, settings, options.port, plane, stopped=stopped)
    server.info["idle"] = options.idle
    try:
        server.start()
        loaded()
        while not stopped.wait(min(1.0, options.idle or 1.0)):
            if options.idle is not None and server.idle_seconds() > options.idle:
                _log.info("no calls and no instances for %g s", options.idle)
                break
            if not server.has_folder():
                _log.info("the state folder is gone: nobody could find or stop this one")
                break
    finally:
        server.close()
        if options.erase:
            shutil.rmtree(options.state_dir, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
