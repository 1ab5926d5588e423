"""Sandbox: a sandbox of its own for a test, gone with the block (or with the process) that started it.

    with Sandbox() as sandbox:
        ec2 = sandbox.client("ec2")
        ...

It ends when the block ends, when this process ends in whatever way, and takes its instances along.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.control import end_process, launch
from prefect_coiled.sandbox.info import ACCESS_KEY, REGION, SandboxInfo, ask

__all__ = ["Sandbox"]


class Sandbox:
    """A running sandbox that belongs to this process.

    Args:
        settings: Delays and the form of booting; see `prefect_coiled.sandbox.settings.Settings`. For
            example {"boot": "none"} lets instances be running without any process.
        addresses: "many" or "one"; by default what the platform has.
        port: The port; 0 for a free one.

    Raises:
        SandboxError: It cannot start.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        addresses: Literal["many", "one"] | None = None,
        port: int = 0,
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="prefect-coiled-sandbox-"))
        arguments = ["--port", str(port), "--erase"]
        if addresses:
            arguments += ["--addresses", addresses]
        self._process: subprocess.Popen[bytes] | None = None
        self._session: Any = None
        self._clients: dict[tuple[str, ...], Any] = {}
        self._session_lock = threading.Lock()
        try:
            self._process = launch(folder, arguments, settings, lifeline=True)
            health = json.loads((folder / "server.json").read_text())
        except BaseException:
            self._end(folder)
            raise
        self.info = SandboxInfo(
            endpoint=health["endpoint"],
            pid=health["pid"],
            state_dir=folder,
            addresses=health["addresses"],
            plane=health["plane"],
            client_address=health["client_address"],
            image=health["image"],
            profile=health["profile"],
            account=health["account"],
            secret_access_key=health["secret_access_key"],
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The URL of everything."""
        return self.info.endpoint

    @property
    def addresses(self) -> Literal["many", "one"]:
        """Whether each instance has an address of its own."""
        return self.info.addresses

    def environment(self, region: str = REGION) -> dict[str, str]:
        """The variables that lead every AWS client to this sandbox.

        Args:
            region: The default region.
        """
        return self.info.environment(region)

    def client(self, service: str, region: str = REGION, **options: Any) -> Any:
        """A boto3 client for this sandbox; the environment is not touched. Without options it is made once.

        Args:
            service: The name of the service, such as "ec2".
            region: The region.
            options: Passed on to boto3.
        """
        with self._session_lock:  # sessions know no threads
            if self._session is None:
                from prefect_coiled.internals.botocore import session_of_keys_alone

                self._session = session_of_keys_alone(ACCESS_KEY, self.info.secret_access_key)
            kept = (service, region)
            if not options and kept in self._clients:
                return self._clients[kept]
            made = self._session.client(service, region, endpoint_url=self.endpoint, **options)
            if not options:
                self._clients[kept] = made
            return made

    def set(self, **settings: Any) -> None:
        """Change settings while it runs, for example `set(boot="none", nat_pending=5)`.

        Args:
            settings: See `prefect_coiled.sandbox.settings.Settings`.
        """
        self._ask("POST", "settings", settings)

    def faults(self, rules: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        """Replace the faults; an empty list ends them.

        Args:
            rules: See `prefect_coiled.sandbox.faults.Rule`.
            seed: For the rules with a probability.
        """
        self._ask("POST", "faults", {"rules": [dict(rule) for rule in rules], "seed": seed})

    def struck(self) -> list[dict[str, Any]]:
        """The calls that faults struck: at, service, action, effect, code."""
        found: list[dict[str, Any]] = self._ask("GET", "faults")
        return found

    def calls(self, access_key: str | None = "sandbox") -> list[tuple[str, str]]:
        """The calls so far, oldest first, as (service, action).

        Args:
            access_key: Only calls signed with this key: by default those of clients, not those of
                instances, which have keys of their own. None for all.
        """
        return [
            (entry["service"], entry["action"])
            for entry in self._ask("GET", "calls")
            if access_key in (None, entry["access_key"])
        ]

    def clear_calls(self) -> None:
        """Forget the calls so far."""
        self._ask("DELETE", "calls")

    def add_user(self, name: str, *policies: Mapping[str, Any]) -> tuple[str, str]:
        """Make an IAM user with managed policies; `set(iam="on")` makes them count.

        Args:
            name: The user's name.
            policies: Policy documents.

        Returns:
            The user's access key id and secret key.
        """
        iam = self.client("iam")
        iam.create_user(UserName=name)
        for n, document in enumerate(policies):
            made = iam.create_policy(PolicyName=f"{name}-{n}", PolicyDocument=json.dumps(dict(document)))
            iam.attach_user_policy(UserName=name, PolicyArn=made["Policy"]["Arn"])
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return str(key["AccessKeyId"]), str(key["SecretAccessKey"])

    def decisions(self) -> list[dict[str, Any]]:
        """What IAM decided so far, oldest first: principal, action, resource, context, allowed."""
        found: list[dict[str, Any]] = self._ask("GET", "decisions")
        return found

    def instances(self) -> dict[str, dict[str, Any]]:
        """Each instance's state and region; while it has a machine, its address, pid and folder too."""
        found: dict[str, dict[str, Any]] = self._ask("GET", "instances")
        return found

    def console(self, instance_id: str) -> str:
        """What an instance printed so far."""
        file = self.info.state_dir / instance_id / "console.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def interrupt(self, instance_id: str, seconds: float = 120.0) -> None:
        """Give a spot instance its notice, and take it away after so many seconds."""
        self._ask("POST", f"instances/{instance_id}/interrupt", {"seconds": seconds})

    def crash(self, instance_id: str) -> None:
        """Kill an instance's processes at once. Peers notice; EC2 goes on saying running, impaired."""
        self._ask("POST", f"instances/{instance_id}/crash")

    def unplug(self, instance_id: str) -> None:
        """Stop an instance where it is: no FIN, no answer, and EC2 goes on saying running."""
        self._ask("POST", f"instances/{instance_id}/unplug")

    def replug(self, instance_id: str) -> None:
        """Let an unplugged instance go on."""
        self._ask("POST", f"instances/{instance_id}/replug")

    def free_port(self) -> int:
        """A TCP port that nothing listens on now; needed when `addresses` is "one"."""
        return self.info.free_port()

    def reset(self) -> None:
        """An empty account: no instances, no resources, no faults, no record of calls."""
        self._ask("POST", "reset")

    def stop(self) -> None:
        """End the sandbox with all its instances, and remove its folder."""
        self._end(self.info.state_dir)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        if self._process is None:
            raise SandboxError("asking the sandbox", "it was stopped")
        return ask(self.endpoint, method, path, body, secret=self.info.secret_access_key)

    def _end(self, folder: Path) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            end_process(process.pid)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
