"""The sandbox's own interface under /_sandbox/: what AWS does not have, for tests and the command line.

GET  health                          pid, state folder, form of addresses
GET  calls        DELETE calls       the record of calls
GET  faults       POST faults        what was struck; new rules
GET  decisions                       what IAM decided
GET  settings     POST settings      see `Settings`
GET  instances                       address, state, pid of each
POST instances/ID/interrupt|crash|unplug|replug
GET  checkip                         the address that the client is seen from, as plain text
GET  free-port                       a port that nothing listens on
POST reset                           an empty account
POST stop                            the end
*    imds/ID/KEY/...                 the metadata service of one instance; at hub, what Docker Hub has
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import imds
from prefect_coiled.sandbox.addresses import free_port
from prefect_coiled.sandbox.calls import CallLog, Environ, StartResponse, WsgiApp, reply
from prefect_coiled.sandbox.corrections.states import Instances
from prefect_coiled.sandbox.faults import Faults
from prefect_coiled.sandbox.iam.evaluator import Iam
from prefect_coiled.sandbox.settings import Settings
from prefect_coiled.sandbox.supervisor import Supervisor

__all__ = ["PREFIX", "Admin"]

PREFIX = "/_sandbox/"
_ON_INSTANCE = re.compile(r"instances/(i-[0-9a-f]+)/(interrupt|crash|unplug|replug)")


class Admin:
    """Middleware: answers what is under /_sandbox/, and lets everything else through.

    Args:
        app: The next application of the chain.
        lock: The one lock of the sandbox.
        health: What `health` tells.
        stop: Ends the server.
        reset: Empties the account.
        imds_path: Where the metadata of the instance with that id is.
    """

    def __init__(
        self,
        app: WsgiApp,
        *,
        lock: threading.RLock,
        health: dict[str, Any],
        calls: CallLog,
        faults: Faults,
        iam: Iam,
        settings: Settings,
        supervisor: Supervisor,
        instances: Instances,
        stop: Callable[[], None],
        reset: Callable[[], None],
        imds_path: Callable[[str], str],
    ) -> None:
        self._app = app
        self._lock = lock
        self._faults = faults
        self._settings = settings
        self._supervisor = supervisor
        self._instances = instances
        self._imds_path = imds_path
        self._client_address = str(health["client_address"])
        self._routes: dict[tuple[str, str], Callable[[Any], Any]] = {
            ("GET", "health"): lambda body: {**health, "instances": supervisor.live()},
            ("GET", "calls"): lambda body: calls.entries(),
            ("DELETE", "calls"): lambda body: calls.clear(),
            ("GET", "faults"): lambda body: faults.struck(),
            ("POST", "faults"): lambda body: faults.set(body["rules"], body.get("seed", 0)),
            ("GET", "decisions"): lambda body: iam.decisions(),
            ("GET", "settings"): lambda body: asdict(settings),
            ("POST", "settings"): lambda body: settings.update(body, running=True),
            ("GET", "instances"): lambda body: self._describe(),
            ("GET", "free-port"): lambda body: free_port(),
            ("POST", "reset"): lambda body: reset(),
            ("POST", "stop"): lambda body: stop(),
        }

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or hand on to the next application."""
        path = environ["PATH_INFO"]
        if not path.startswith(PREFIX):
            return self._app(environ, start_response)
        path = path.removeprefix(PREFIX)
        if path.startswith("imds/"):
            return self._imds(path.removeprefix("imds/"), environ, start_response)
        if path == "checkip":
            return reply(start_response, 200, self._client_address)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        try:
            body = json.loads(environ["wsgi.input"].read(length)) if length else {}
            if not isinstance(body, dict):
                raise ValueError("the body is no JSON object")
            status, result = self._answer(environ["REQUEST_METHOD"], path, body)
        except (SandboxError, KeyError, TypeError, ValueError, RecursionError) as error:
            status, result = 400, {"error": str(error)}
        return reply(start_response, status, json.dumps(result), "application/json")

    def _answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        on_instance = _ON_INSTANCE.fullmatch(path)
        if on_instance and method == "POST":
            with self._lock:
                return self._strike(on_instance[1], on_instance[2], body)
        route = self._routes.get((method, path))
        return (200, route(body)) if route else (404, {"error": f"no such path: {method} {path}"})

    def _strike(self, instance_id: str, what: str, body: Any) -> tuple[int, Any]:
        machine = self._supervisor.machines.get(instance_id)
        if machine is None:
            return 404, {"error": f"no machine is on for {instance_id}"}
        if what == "interrupt":
            self._supervisor.interrupt(instance_id, float(body.get("seconds", 120)))
        elif what == "crash":
            self._supervisor.crash(instance_id)
        elif what == "unplug":
            machine.unplug()
        else:
            machine.replug()
        return 200, None

    def _describe(self) -> dict[str, Any]:
        with self._lock:
            known: dict[str, Any] = self._instances.describe()
            for instance_id, machine in self._supervisor.machines.items():
                known[instance_id].update(
                    address=machine.address,
                    pid=machine.pid,
                    metadata=self._imds_path(instance_id),
                    folder=str(machine.folder),
                    crashed=machine.crashed,
                    unplugged=machine.unplugged,
                )
        return known

    def _imds(self, rest: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        instance_id, _, path = rest.split("/", 2) if rest.count("/") > 1 else (rest, "", "")
        if path == "hub":
            told = {"hub_images": self._settings.hub_images, "hub_tokens": self._settings.hub_tokens}
            return reply(start_response, 200, json.dumps(told), "application/json")
        with self._lock:
            machine = self._supervisor.machines.get(instance_id)
            instance = self._instances.get(instance_id)
            if machine is None or instance is None:
                return reply(start_response, 404, "")
            path = re.sub("/+", "/", path).strip("/")
            status, body = imds.answer(machine, instance, environ["REQUEST_METHOD"], path, environ)
        return reply(start_response, status, body)
