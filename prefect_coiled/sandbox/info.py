"""A running sandbox: what is known of it, its admin interface, and whether it is itself."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefect_coiled.errors import SandboxError

__all__ = ["ACCESS_KEY", "NEXT", "REGION", "SandboxInfo", "ask", "is_itself", "proof_of"]

REGION = "us-east-1"
ACCESS_KEY = "sandbox"
NEXT = "See the log in the sandbox's state folder, or run `prefect-coiled sandbox stop` and try again."


@dataclass(frozen=True)
class SandboxInfo:
    """A running sandbox.

    Attributes:
        endpoint: The URL of everything: AWS's API, metadata, admin interface.
        pid: The process id of the server.
        state_dir: The folder with its log and its instances' folders.
        addresses: "many" when each instance has an address of its own (Linux), "one" when all share
            127.0.0.1 and what listens must take free ports.
        instances: How many instances are on or on their way.
        plane: What instances are made of; see the setting.
        client_address: The address that clients on this machine are seen from.
        image: "ready" where machines hold the client's environment, "bare" where they install it.
        profile: "fast", or "realistic" with the delays and rates of AWS.
        account: "used", or "fresh" for an AWS account that is new.
        idle: Seconds without calls and without instances after which it ends by itself; None if it does not.
        secret_access_key: The secret key of the access key "sandbox", new at each start. Whoever knows it may
            run programs as the user who started the sandbox.
    """

    endpoint: str
    pid: int
    state_dir: Path
    addresses: Literal["many", "one"]
    instances: int = 0
    plane: str = "process"
    client_address: str = "127.0.0.1"
    image: Literal["ready", "bare"] = "ready"
    profile: str = "fast"
    account: str = "used"
    idle: float | None = None
    secret_access_key: str = field(default="", repr=False)

    @property
    def shares_loopback(self) -> bool:
        """Whether instances reach what listens on the loopback of this machine, such as a Prefect server."""
        return self.plane == "process"

    def environment(self, region: str = REGION) -> dict[str, str]:
        """The variables that lead every AWS client to this sandbox.

        Args:
            region: The default region.
        """
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_DEFAULT_REGION": region,
            "AWS_REGION": region,
        }

    @contextlib.contextmanager
    def activated(self, region: str = REGION) -> Iterator[None]:
        """Lead the AWS clients that this process makes within the block here; afterwards all is as it was.

        For what finds AWS by itself, such as `dask.dataframe.read_csv("s3://...")`. Variables of AWS that
        were set are put aside, so that nothing within the block reaches AWS by accident. It holds for all
        threads.

        Args:
            region: The default region.
        """
        before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        session = _forget_clients()
        _replace_variables(self.environment(region))
        try:
            yield
        finally:
            _replace_variables(before)
            _forget_clients(session)

    def free_port(self) -> int:
        """A TCP port that nothing listens on now; needed when `addresses` is "one"."""
        return int(ask(self.endpoint, "GET", "free-port", secret=self.secret_access_key))


def _replace_variables(wanted: Mapping[str, str]) -> None:
    """Make these the only variables of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(wanted)


def _forget_clients(session: Any = None) -> Any:
    """Make boto3 and s3fs look at the variables again, where they are in use; gives boto3's old session."""
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
    boto3 = sys.modules.get("boto3")
    if boto3 is None:
        return None
    before, boto3.DEFAULT_SESSION = boto3.DEFAULT_SESSION, session  # type: ignore[attr-defined]
    return before


def ask(
    endpoint: str, method: str, path: str, body: Any = None, *, secret: str, timeout: float = 30.0
) -> Any:
    """Call the admin interface of a sandbox.

    Args:
        endpoint: The URL of the sandbox.
        method: The HTTP method.
        path: The path below /_sandbox/.
        body: Sent as JSON.
        secret: The sandbox's secret; see `SandboxInfo.secret_access_key`.
        timeout: Seconds.

    Raises:
        SandboxError: The sandbox does not answer, or refuses.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{endpoint}/_sandbox/{path}", data, method=method)
    request.add_header("Authorization", f"Bearer {secret}")
    # A proxy in the environment must not see calls to the loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        raise SandboxError(f"asking the sandbox ({method} {path})", text) from error
    except (OSError, ValueError) as error:
        raise SandboxError(f"asking the sandbox ({method} {path})", str(error), NEXT) from error


def proof_of(secret: str, nonce: str) -> str:
    """What a sandbox of this secret answers to a number that is used once."""
    return hmac.digest(secret.encode(), f"proof/{nonce}".encode(), "sha256").hex()


def is_itself(endpoint: str, secret: str) -> bool:
    """Whether it is the sandbox of this secret that answers, and nobody who took the port of one that died.

    Asked before anything is told, the secret too.
    """
    nonce = secrets.token_hex(16)
    answer = ask(endpoint, "GET", f"proof/{nonce}", secret="", timeout=10)
    return isinstance(answer, str) and hmac.compare_digest(answer.encode(), proof_of(secret, nonce).encode())
