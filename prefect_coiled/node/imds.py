"""The instance metadata service, version 2 only.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

from prefect_coiled.errors import NodeError

DEFAULT_ENDPOINT = "http://169.254.169.254"
_TOKEN_TTL_S = 21600


@dataclass(frozen=True)
class Identity:
    """Which machine this is.

    Attributes:
        index: Which machine of its launch it is, from 0 on.
    """

    instance_id: str
    address: str
    region: str
    index: int = 0


class Imds:
    """A client of the metadata service.

    Args:
        endpoint: Its address; by default AWS_EC2_METADATA_SERVICE_ENDPOINT, else the real one.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        timeout_s: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        found = endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or DEFAULT_ENDPOINT
        self._endpoint = found.rstrip("/")
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._token = ""
        # A proxy must never see this traffic, whatever the environment says.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def get(self, path: str) -> str | None:
        """One value below /latest/meta-data/, or None where there is none.

        Raises:
            OSError: The service does not answer.
        """
        for fresh in (False, True):
            if fresh or not self._token:
                self._token = self._request(
                    "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
                )
            try:
                return self._request("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or fresh:
                    raise
        return None

    def identity(self, attempts: int = 30) -> Identity:
        """Which machine this is; the service may need a moment after power-on.

        Raises:
            NodeError: The service did not answer within the attempts.
        """
        last: Exception | None = None
        for attempt in range(attempts):
            if attempt:
                self._sleep(min(0.1 * 2**attempt, 3.0))
            try:
                values = [self.get(p) for p in ("instance-id", "local-ipv4", "placement/region")]
                index = (self.get("ami-launch-index") or "").strip()
            except OSError as error:
                last = error
                continue
            if all(values):
                name, address, region = (str(value).strip() for value in values)
                return Identity(name, address, region, int(index) if index.isdecimal() else 0)
        raise NodeError("asking the instance metadata service who this machine is", str(last or "no value"))

    def spot_notice(self) -> str | None:
        """The action of a spot interruption notice ("terminate", "stop", "hibernate"), if there is one.

        Raises:
            OSError: The service does not answer.
        """
        text = self.get("spot/instance-action")
        if not text:
            return None
        try:
            return str(json.loads(text).get("action", "terminate"))
        except (ValueError, AttributeError):
            return "terminate"

    def _request(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._endpoint}/latest/{path}", method=method, headers=headers)
        with self._open(request, timeout=self._timeout_s) as reply:
            return str(reply.read().decode())
