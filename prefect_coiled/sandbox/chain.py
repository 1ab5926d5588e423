"""The way of a request through a sandbox, told once.

    Guard            refuses what a web page in the user's browser could send
    Authentication   who does not know the sandbox's secret gets no answer
    Admin            /_sandbox/: admin interface, and the metadata service of each instance
    CallLog          the record of the calls that arrived
    Delay            what a call takes
    Faults           delays, errors, lost replies, by rules
    Rates            token buckets, when they are switched on
    Lag              what EC2 just made is not there yet
    Authorization    IAM, when it is switched on
    Judge            AWS's rules about the call alone: see `rules`
    DryRun           EC2's DryRun goes no further
    Idempotency      EC2's client tokens: one effect each
    AccountJudge     AWS's rules about what is in the account
    FreeTier         a service that moto has not
    PriceList        another one
    OneAtATime       one lock around moto and the instances' states; S3 streams past it
    moto             with our corrections

Belongs to the server's process: it patches moto. `server` is the way to run it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from moto.ec2.models import ec2_backends
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from prefect_coiled.sandbox import corrections
from prefect_coiled.sandbox.admin import Admin
from prefect_coiled.sandbox.authentication import Authentication, Secret
from prefect_coiled.sandbox.authorization import Authorization
from prefect_coiled.sandbox.calls import CallLog, Environ, StartResponse, WsgiApp, call_of, reply, run
from prefect_coiled.sandbox.corrections import elastic, gateways, images, states
from prefect_coiled.sandbox.faults import Faults
from prefect_coiled.sandbox.free_tier import FreeTier
from prefect_coiled.sandbox.http import LOOPBACK, serve_on
from prefect_coiled.sandbox.iam.evaluator import Iam
from prefect_coiled.sandbox.idempotency import DryRun, Idempotency
from prefect_coiled.sandbox.lag import Delay, Lag
from prefect_coiled.sandbox.look import look
from prefect_coiled.sandbox.plane import DataPlane
from prefect_coiled.sandbox.price_list import PriceList
from prefect_coiled.sandbox.rules.account import History
from prefect_coiled.sandbox.rules.judge import AccountJudge, Judge
from prefect_coiled.sandbox.rules.rates import Rates
from prefect_coiled.sandbox.rules.times import role_works
from prefect_coiled.sandbox.settings import Settings
from prefect_coiled.sandbox.supervisor import Supervisor

__all__ = ["METADATA", "Server"]

METADATA = "server.json"
_SERVICES = ("ec2", "iam", "logs", "s3", "ssm", "sts", "tagging", "ecr")
_log = logging.getLogger(__name__)


class Guard:
    """Middleware: refuses requests that come from a web page.

    A page in the user's browser may send forms to the loopback, and user data is a program. Browsers say
    where a request comes from, and which host they meant; no AWS client sends an Origin.
    """

    def __init__(self, app: WsgiApp) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").rpartition(":")[0]
        local = host in ("127.0.0.1", "localhost") or host.endswith((".127.0.0.1", ".localhost"))
        if "HTTP_ORIGIN" in environ or "HTTP_SEC_FETCH_SITE" in environ or not local:
            return reply(start_response, 403, "The sandbox answers local AWS clients only.")
        return self._app(environ, start_response)


class OneAtATime:
    """Middleware: moto's models know no threads, and the instances' states change with their processes."""

    # moto answers every error of EC2 with 400.
    _STATUS = {
        b"<Code>InsufficientInstanceCapacity</Code>": "500 Internal Server Error",
        b"<Code>AuthFailure.ServiceLinkedRoleCreationNotPermitted</Code>": "403 Forbidden",
    }

    def __init__(self, app: WsgiApp, lock: threading.RLock, changed: Callable[[], None]) -> None:
        self._app = app
        self._lock = lock
        self._changed = changed

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = call_of(environ)
        if call.streams:
            return self._app(environ, start_response)
        with self._lock:
            if call.service == "ec2":
                _settle_gateways()
            status, headers, body = run(self._app, environ)
            # Before the answer: what was revoked is closed when the caller hears of it.
            if call.service == "ec2" and _may_change(call.action):
                self._changed()
        for code, right in self._STATUS.items():
            if status.startswith("400") and code in body:
                status = right
        start_response(status, headers)
        return [body]


def _may_change(action: str) -> bool:
    """Whether a call may change networks; NAT gateways come and go by the clock, as their states tell."""
    return action == "DescribeNatGateways" or not action.startswith(("Describe", "Get"))


def _settle_gateways() -> None:
    for account in list(ec2_backends.values()):
        for backend in list(account.values()):
            gateways.settle(backend)


class Server:
    """One sandbox in this process.

    Args:
        folder: The state folder; made if it is not there.
        settings: Delays and the form of booting.
        port: The port; 0 for a free one.
        plane: What instances are made of.
        stopped: Set when someone asks for the end through the admin interface.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        port: int,
        plane: DataPlane,
        *,
        stopped: threading.Event,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._folder = folder
        self._identity = _identity(folder)
        lock = threading.RLock()
        self._plane = plane
        self._instances = states.Instances(lock)
        self._supervisor = Supervisor(folder, settings, plane, lock, self._instances)
        states.install(self._supervisor, self._instances)
        self._history = History()
        corrections.install(settings, plane, self._history)
        images.keep_disks(self._supervisor)
        self._moto = DomainDispatcherApplication(create_backend_app)

        one = FreeTier(PriceList(OneAtATime(self._moto, lock, plane.changed), settings), settings)
        self._tokens = Idempotency(
            AccountJudge(one, settings, self._history, lock), self._instances.ended_any
        )
        self._iam = Iam(settings, lock, lambda role: role_works(role, settings, self._history))
        self._lag = Lag(Authorization(Judge(DryRun(self._tokens)), self._iam), settings)
        self._rates = Rates(self._lag, settings)
        self._faults = Faults(self._rates)
        self.calls = CallLog(Delay(self._faults, settings))
        self._lock = lock
        self.info: dict[str, Any] = {
            "pid": os.getpid(),
            "state_dir": str(folder),
            "plane": settings.plane,
            "addresses": plane.form,
            "client_address": plane.client_address,
            "python": sys.executable,
            # Whole machines hold nothing of the client's.
            "profile": settings.profile,
            "account": settings.account,
            "image": "bare" if settings.plane in ("nspawn", "qemu") else settings.image,
        }
        self._secret = Secret()
        admin = Admin(
            self.calls,
            lock=lock,
            health=self.info,
            calls=self.calls,
            faults=self._faults,
            iam=self._iam,
            settings=settings,
            supervisor=self._supervisor,
            instances=self._instances,
            stop=stopped.set,
            reset=self.reset,
            imds_path=self._secret.imds_path,
        )
        self._authentication = Authentication(admin, self._secret, lock)
        self._http = serve_on(LOOPBACK, port, Guard(self._authentication))
        self.info["endpoint"] = f"http://{LOOPBACK}:{self._http.server_port}"
        plane.open(
            self._authentication,
            self._http.server_port,
            lambda: look(self._instances.live()),
            self._secret.imds_path,
        )

    def start(self) -> None:
        """Answer requests, and say so in the state folder."""
        self._warm_up(_SERVICES[:1])
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True, name="http").start()
        written = self._folder / f"{METADATA}.new"
        written.unlink(missing_ok=True)
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({**self.info, "secret_access_key": self._secret.text}, file)
        written.replace(self._folder / METADATA)
        _log.info("sandbox at %s, addresses: %s", self.info["endpoint"], self.info["addresses"])
        threading.Thread(target=self._warm_up, args=(_SERVICES[1:],), daemon=True).start()

    def _warm_up(self, services: Sequence[str]) -> None:
        """Load services that every cluster uses, so that the first call is as fast as the next."""
        for service in services:
            request = {"PATH_INFO": "/", "HTTP_HOST": LOOPBACK, "HTTP_AUTHORIZATION": _scope(service)}
            self._moto.get_application(request)

    def idle_seconds(self) -> float:
        """Seconds since the last call; 0 while there are instances."""
        return 0.0 if self._supervisor.live() else time.monotonic() - self.calls.last

    def has_folder(self) -> bool:
        """Whether its state folder is there, and the one that it began with: without it nobody finds it."""
        return _identity(self._folder) == self._identity

    def reset(self) -> None:
        """Empty the account: no instances, no resources, no faults, no record."""
        self._supervisor.reset()
        with self._lock:
            self._instances.clear()
            elastic.forget(self._plane)
            moto_api_backend.reset()
            self._plane.changed()
            self._tokens.clear()
            self._history.clear()
        self._lag.clear()
        self._rates.clear()
        self._faults.set([])
        self._iam.clear()
        self._authentication.clear()
        self.calls.clear()

    def close(self) -> None:
        """Take all instances down and remove what is in the state folder, but for the log."""
        own = self.has_folder()
        if own:
            (self._folder / METADATA).unlink(missing_ok=True)
        self._supervisor.close()
        self._http.shutdown()
        self._plane.close()
        if not own:  # another sandbox may have the place by now
            return
        for name in ("bin", "bare-bin"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one in its place; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _scope(service: str) -> str:
    return f"AWS4-HMAC-SHA256 Credential=sandbox/20260101/us-east-1/{service}/aws4_request, Signature=0"
