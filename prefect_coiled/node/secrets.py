"""Fetches the node's secrets with the instance's role, and writes its keys where only it can read them."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_coiled.errors import NodeError
from prefect_coiled.node.pacing import pauses
from prefect_coiled.plan.node_config import NodeSecrets


def fetch_secrets(
    client: Callable[[], Any],
    parameter: str,
    *,
    wait_s: float = 300.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    between: Callable[[], Iterator[float]] = pauses,
) -> NodeSecrets:
    """Read the SSM parameter with this node's secrets.

    A new role or instance profile takes seconds to minutes until it works, so every refusal is tried
    again within the bound.

    Args:
        client: Makes an SSM client; called again after a failure, so that credentials are looked up anew.
        wait_s: Seconds until the node gives up.
        clock: A monotonic clock, in seconds.
        between: Gives the seconds between tries.

    Raises:
        NodeError: The parameter could not be read in time; carries AWS's last answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = clock() + wait_s
    for pause in between():
        try:
            reply = client().get_parameter(Name=parameter, WithDecryption=True)
        except (BotoCoreError, ClientError) as error:
            if clock() + pause > deadline:
                raise NodeError(
                    f"reading the keys of the cluster ({parameter})",
                    f"{error} (for {wait_s:.0f} s)",
                    "The instance's role needs ssm:GetParameter on it, and the machine a way to SSM.",
                ) from error
            sleep(pause)
        else:
            return NodeSecrets.decode(reply["Parameter"]["Value"])
    raise AssertionError("the pauses ended")


@dataclass(frozen=True)
class NodeFiles:
    """The node's own directories: keys in memory where possible, scratch space on disk."""

    private: Path
    scratch: Path

    @classmethod
    def make(cls) -> NodeFiles:
        """Make both, readable by this user only."""
        given = os.environ.get("TMPDIR")
        memory = None if given or not os.access("/run", os.W_OK) else "/run"
        # /tmp lives in memory on Amazon Linux, and what Dask spills must not.
        disk = None if given or not os.access("/var/tmp", os.W_OK) else "/var/tmp"
        private = Path(tempfile.mkdtemp(prefix="prefect-coiled-keys-", dir=memory))
        return cls(private, Path(tempfile.mkdtemp(prefix="prefect-coiled-", dir=disk)))

    def write_keys(self, secrets: NodeSecrets) -> dict[str, str]:
        """Write the TLS files with mode 0600.

        Returns:
            Paths by "ca", "cert" and "key".
        """
        paths = {}
        for name, text in (
            ("ca", secrets.ca),
            ("cert", secrets.cert),
            ("key", secrets.key.get_secret_value()),
        ):
            path = self.private / f"{name}.pem"
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
            paths[name] = str(path)
        return paths

    def remove(self) -> None:
        """Remove both."""
        for path in (self.private, self.scratch):
            shutil.rmtree(path, ignore_errors=True)
