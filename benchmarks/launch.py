"""What clusters of any size ask of AWS, under its rules, rates and times, in the sandbox.

    python benchmarks/launch.py sizes [--workers 1 20 250 1000] [--profile realistic] [--json FILE]

For each size: calls by action, those that AWS throttled, seconds until all machines are launched and until
all are gone, and the client's peak memory. It measures the client: the machines are running without any
process. It judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from botocore.endpoint import Endpoint

# The codes by which AWS asks to slow down; an error of the service itself is none.
THROTTLED = (
    "RequestLimitExceeded",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
)


class Counts:
    """Counts the answers of AWS that this process gets, those that botocore repeats a call for too."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        answer = Endpoint._get_response

        def counted(endpoint: Any, request: Any, operation: Any, context: Any) -> Any:
            result = answer(endpoint, request, operation, context)
            name = f"{operation.service_model.service_name}:{operation.name}"
            self.calls[name] += 1
            parsed = result[0][1] if result[0] else {}
            if (parsed.get("Error") or {}).get("Code", "") in THROTTLED:
                self.throttled[name] += 1
            return result

        Endpoint._get_response = counted  # type: ignore[method-assign]

    def clear(self) -> None:
        """Begin anew."""
        self.calls.clear()
        self.throttled.clear()


def sizes(numbers: list[int], profile: str) -> list[dict[str, Any]]:
    """Launch, list, scale and remove a cluster of each size."""
    from pydantic import SecretStr

    from prefect_coiled.aws import instances
    from prefect_coiled.aws.credentials import Account, CredentialSource
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.provision import add_workers, create_cluster, delete_cluster, set_up_account
    from prefect_coiled.provision.sessions import open_door
    from prefect_coiled.sandbox import Sandbox
    from prefect_coiled.tasks.steps import Session, use_session

    settings: dict[str, Any] = {"boot": "none"}
    if profile != "fast":
        settings["profile"] = profile
    rows = []
    counts = Counts()
    with Sandbox(settings) as sandbox:
        keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
        account = Account("bench", credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
        with use_session(Session(open_door(account, "us-east-1"))):
            set_up_account("bench", "us-east-1")
        for n in numbers:
            door = open_door(account, "us-east-1", threading.Event())
            counts.clear()
            request = Request(n_workers=n, name=f"size-{n}", defaults={})
            spec = request.spec(account, "bench", own_cidr=lambda: "192.0.2.1/32")
            row: dict[str, Any] = {"workers": n}
            with use_session(Session(door)):
                begun = time.monotonic()
                record = create_cluster(spec)
                row["launched_s"] = round(time.monotonic() - begun, 1)
                row["launched"] = len(record.workers)
                row["calls_to_launch"] = sum(counts.calls.values())
                more = max(1, n // 10)
                row["added"] = len(add_workers(spec, record, more, "more"))
                row["listed"] = len(instances.find_instances(door, spec.name)) - 1
                begun = time.monotonic()
                removal = delete_cluster("bench", "us-east-1", spec.name, spec.uid)
                row["gone_s"] = round(time.monotonic() - begun, 1)
                row["left"] = len(removal.left)
            row["throttled"] = dict(counts.throttled)
            row["calls"] = dict(counts.calls.most_common())
            row["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            rows.append(row)
            _tell(row)
    return rows


def _tell(row: dict[str, Any]) -> None:
    throttled = sum(row["throttled"].values())
    print(
        f"{row['workers']:5} workers: launched {row['launched']} in {row['launched_s']} s by "
        f"{row['calls_to_launch']} calls, added {row['added']}, listed {row['listed']}, gone in "
        f"{row['gone_s']} s, {row['left']} left, {throttled} throttled calls, peak {row['peak_mib']} MiB",
        flush=True,
    )
    print(f"      {row['calls']}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["sizes"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 20, 250, 1000])
    parser.add_argument("--profile", default="realistic")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("PREFECT_HOME", home)
        found = sizes(given.workers, given.profile)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
