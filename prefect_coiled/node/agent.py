"""The agent of one machine, alone responsible for its end.

    start Dask's process (it imports while the rest goes on)
    who am I (instance metadata) -> keys (SSM, by the instance's role) -> key files
    tell the process what to run; ship its lines to CloudWatch
    wait for whichever comes first: its end, a signal, a spot notice, a limit of time
    say the reason in one line, send the last lines, power off

Whatever goes wrong on the way ends in the same last line and the same power-off.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from prefect_coiled.errors import NodeError
from prefect_coiled.node import aws
from prefect_coiled.node.child import DaskChild
from prefect_coiled.node.host_setup import run_host_setup
from prefect_coiled.node.imds import Identity, Imds
from prefect_coiled.node.logs import LogShipper
from prefect_coiled.node.pacing import first_pause
from prefect_coiled.node.secrets import NodeFiles, fetch_secrets
from prefect_coiled.plan.node_config import NodeConfig

# Seconds. A spot notice comes two minutes before the end.
SPOT_POLL_S = 5.0
DRAIN_S = 100.0
STOP_S = 15.0
FLUSH_S = 10.0
# A Dask process that shows no sign of life for so long is stuck for good; large graphs block for minutes.
HANG_S = 600.0
# The agent's own limit stands behind the scheduler's: a loop that hangs checks no timer.
CLUSTER_TIMEOUT_MARGIN_S = 60.0


def power_off() -> int:
    """Power this machine off, which terminates it; returns the command's return code.

    In a container there is no such command: the machine powers off by itself when its container ends.
    """
    if os.environ.get("PREFECT_COILED_IMAGE"):
        return 0
    command = shutil.which("shutdown") or "/usr/sbin/shutdown"
    try:
        return subprocess.run([command, "-h", "now"], check=False, timeout=30).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"prefect-coiled: cannot power off: {error}", flush=True)
        return 1


class Agent:
    """Runs one machine from its configuration to its end.

    Args:
        client: Makes an AWS client of a service in a region.
        settings: Overrides of "spot_poll_s", "drain_s", "client_grace_s", "pulse_s", "hang_s" and
            "secrets_wait_s", in seconds, and of "keeper_pace".
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        imds: Imds | None = None,
        client: Callable[[str, str], Any] | None = None,
        settings: dict[str, float] | None = None,
    ) -> None:
        self._config = config
        self._imds = imds or Imds()
        self._client = client or aws.client
        self._settings = settings or {}
        self._events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._started = time.monotonic()
        self._child: DaskChild | None = None
        self._files: NodeFiles | None = None
        self._stop_watching = threading.Event()
        self._logs = LogShipper(lambda: self._client("logs", config.region), config.log_group, "unknown")

    def run(self) -> int:
        """Live. Returns 0 where the end was in order and the machine is powering off."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put(("signal", "stopped")))
        reason, code = "crashed", 1
        try:
            self._child = DaskChild(
                self._line,
                lambda text: self._events.put(("status", text)),
                lambda rc: self._events.put(("exit", rc)),
            )
            self._begin()
            reason, code = self._watch()
        except NodeError as error:
            reason = f"boot-failed error={str(error)!r}"
        except Exception as error:  # no failure may leave the machine running
            reason = f"agent-failed error={type(error).__name__}: {error}"
        finally:
            off = self._end(reason, code)
        return 0 if off == 0 and code == 0 else (off or 1)

    def _begin(self) -> None:
        config = self._config
        assert self._child is not None
        me = self._imds.identity()
        self._logs.stream = me.instance_id
        self._say(f"{config.role} of cluster {config.cluster} on {me.instance_id} at {me.address}")
        time.sleep(first_pause(me.index))
        secrets = fetch_secrets(
            lambda: self._client("ssm", config.region),
            config.secrets_parameter,
            wait_s=self._settings.get("secrets_wait_s", 300.0),
        )
        self._files = NodeFiles.make()
        environ = {name: value.get_secret_value() for name, value in secrets.environ.items()}
        if script := secrets.host_setup_script.get_secret_value():
            self._logs.start()
            self._say("host_setup_script begins")
            over, seconds = (lambda: not self._events.empty()), config.boot_timeout - self._up()
            run_host_setup(script, self._files.private, environ, self._line, over, seconds)
            self._say(f"host_setup_script is done after {self._up():.1f} s")
        order: dict[str, Any] = {
            "config": config.model_dump(),
            "files": self._files.write_keys(secrets),
            "scratch": str(self._files.scratch),
            "address": me.address,
            "instance_id": me.instance_id,
            "environ": environ,
            "dask_config": secrets.dask_config,
            "dashboard_token": secrets.dashboard_token.get_secret_value(),
        }
        for name in ("drain_s", "client_grace_s", "pulse_s", "keeper_pace"):
            if name in self._settings:
                order[name] = self._settings[name]
        self._child.order(order)
        self._say(f"keys fetched after {self._up():.1f} s")
        self._logs.start()
        if config.spot:
            threading.Thread(target=self._watch_spot, args=(me,), daemon=True).start()

    def _watch(self) -> tuple[str, int]:
        """Wait for the end; gives its reason and the Dask process's return code."""
        assert self._child is not None
        limits = {"boot-timeout": self._started + self._config.boot_timeout}
        if self._config.cluster_timeout is not None:
            limits["cluster-timeout"] = (
                self._started + self._config.cluster_timeout + CLUSTER_TIMEOUT_MARGIN_S
            )
        asked, told = "", ""
        while True:
            next_limit = min(limits, key=lambda name: limits[name], default="")
            try:
                left = max(0.0, limits[next_limit] - time.monotonic()) if next_limit else None
                kind, value = self._events.get(timeout=left)
            except queue.Empty:
                if next_limit == "ended":  # in order, but for a thread that hangs and is killed now
                    return asked or told, 0
                limits = {}
                if next_limit in ("kill", "hung"):
                    asked = asked or next_limit
                    self._child.kill()
                else:
                    asked = asked or next_limit
                    self._child.terminate()
                    limits["kill"] = time.monotonic() + STOP_S
                continue
            if kind == "exit":
                # What it said itself is nearer to the cause than its return code.
                return asked or told or "crashed", value
            if kind == "signal":
                asked = asked or value
                self._child.terminate()
                limits = {"kill": time.monotonic() + STOP_S}
            elif kind == "spot" and not asked:
                asked = "spot"
                self._say(f"spot notice: {value}; moving results away")
                self._child.drain()
                drain_s = self._settings.get("drain_s", DRAIN_S)
                limits = {"spot": time.monotonic() + drain_s + 5.0}
            elif kind == "status" and value == "ready":
                limits.pop("boot-timeout", None)
                limits["hung"] = time.monotonic() + self._settings.get("hang_s", HANG_S)
                self._say(f"Dask {self._config.role} ready after {self._up():.1f} s")
            elif kind == "status" and value == "alive" and "hung" in limits:
                limits["hung"] = time.monotonic() + self._settings.get("hang_s", HANG_S)
            elif kind == "status" and value.startswith("ended "):
                told = value.removeprefix("ended ")
                limits = {"ended": min(time.monotonic() + STOP_S, limits.get("kill", math.inf))}

    def _end(self, reason: str, code: int) -> int:
        self._stop_watching.set()
        if self._child is not None:
            self._child.kill()
            self._child.join_output(2.0)
        self._say(f"reason={reason} rc={code} role={self._config.role} up={self._up():.1f}s; powering off")
        if self._files is not None:
            self._files.remove()
        if self._logs.stream != "unknown":
            self._logs.start()
            self._logs.close(FLUSH_S)
        return power_off()

    def _watch_spot(self, me: Identity) -> None:
        while not self._stop_watching.wait(self._settings.get("spot_poll_s", SPOT_POLL_S)):
            try:
                action = self._imds.spot_notice()
            except OSError:
                continue
            if action:
                self._events.put(("spot", action))
                return

    def _line(self, text: str) -> None:
        """One line of the Dask process: to the console and to CloudWatch."""
        self._logs.line(text)
        with contextlib.suppress(OSError, ValueError):  # the console may be gone
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def _say(self, text: str) -> None:
        self._line(f"prefect-coiled: {text}")

    def _up(self) -> float:
        return time.monotonic() - self._started
