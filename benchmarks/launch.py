"""What clusters of any size ask of AWS, under its rules, rates and times, in the sandbox.

    python benchmarks/launch.py sizes [--workers 1 20 250 1000] [--profile realistic] [--json FILE]

For each size: calls by action, those that AWS throttled, seconds until all machines are launched, until they
are listed and their logs are read, and until all are gone, and the client's peak memory. Beside it stands how
long EC2's own rate of machines (1,000 at once, and two more a second) takes at least. It measures the client:
the machines are running without any process, and each has written a few lines. It judges nothing.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.endpoint import Endpoint

from prefect_coiled.aws.pace import Pace
from prefect_coiled.plan.aws_codes import SLOW_DOWN

LINES = 20
# EC2's bucket of machines: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
SIZE, REFILL = 1000.0, 2.0


class Counts:
    """Counts the answers of AWS that this process gets, those that botocore repeats a call for too."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.launched_at = 0.0
        answer = Endpoint._get_response

        def counted(endpoint: Any, request: Any, operation: Any, context: Any) -> Any:
            result = answer(endpoint, request, operation, context)
            name = f"{operation.service_model.service_name}:{operation.name}"
            self.calls[name] += 1
            parsed = result[0][1] if result[0] else {}
            if (parsed.get("Error") or {}).get("Code", "") in SLOW_DOWN:
                self.throttled[name] += 1
            if operation.name == "RunInstances" and "Instances" in parsed:
                self.launched_at = time.monotonic()
            return result

        Endpoint._get_response = counted  # type: ignore[method-assign]

    def clear(self) -> None:
        """Begin anew."""
        self.calls.clear()
        self.throttled.clear()


def sizes(numbers: list[int], profile: str) -> list[dict[str, Any]]:
    """Launch, list, scale and remove a cluster of each size."""
    from pydantic import SecretStr

    from prefect_coiled.aws import instances, log_events
    from prefect_coiled.aws.credentials import CredentialSource
    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.provision import add_workers, create_cluster, delete_cluster, set_up_account
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
        with use_session(Session(account.door("us-east-1"))):
            set_up_account("bench", "us-east-1")
        bucket = _Machines()
        for n in numbers:
            door = account.door("us-east-1", threading.Event())
            counts.clear()
            request = Request({}, n_workers=n, name=f"size-{n}")
            spec = request.spec(account, "bench", own_cidr=lambda: "192.0.2.1/32")
            row: dict[str, Any] = {"workers": n}
            with use_session(Session(door)):
                begun = time.monotonic()
                row["rate_s"] = round(bucket.take(n + 1, begun), 1)
                record = create_cluster(spec)
                row["launched_s"] = round(counts.launched_at - begun, 1)
                row["up_s"] = round(time.monotonic() - begun, 1)
                row["launched"] = len(record.workers)
                row["calls_to_launch"] = sum(counts.calls.values())
                more = max(1, n // 10)
                bucket.take(more, time.monotonic())
                row["added"] = len(add_workers(spec, record, more, "more"))
                begun = time.monotonic()
                listed = instances.find_instances(door, spec.name)
                row["listed"], row["listed_s"] = len(listed) - 1, round(time.monotonic() - begun, 1)
                _write_logs(sandbox, "bench", [m.instance_id for m in listed])
                begun = time.monotonic()
                read = dict(
                    log_events.read_logs(door, [m.instance_id for m in listed], since=record.created_at)
                )
                row["lines"] = sum(map(len, read.values()))
                row["logs_s"] = round(time.monotonic() - begun, 1)
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


class _Machines:
    """How long EC2 makes one wait at least for so many machines."""

    def __init__(self) -> None:
        self.left, self.at = SIZE, time.monotonic()

    def take(self, count: int, now: float) -> float:
        """Seconds until `count` machines more can be launched, by the bucket alone."""
        self.left, self.at = min(SIZE, self.left + (now - self.at) * REFILL), now
        self.left -= count
        return max(0.0, -self.left / REFILL)


def _write_logs(sandbox: Any, group: str, streams: list[str]) -> None:
    """Some lines of each machine, as fast as CloudWatch Logs makes streams."""
    logs = sandbox.client("logs")
    pace = Pace(40)
    now = int(time.time() * 1000)
    lines = [{"timestamp": now + n, "message": f"line {n}"} for n in range(LINES)]

    def write(stream: str) -> None:
        pace.wait(threading.Event(), "writing logs")
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=lines)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, streams))


def _tell(row: dict[str, Any]) -> None:
    throttled = sum(row["throttled"].values())
    told = (
        f"{row['launched']} launched in {row['launched_s']} s by {row['calls_to_launch']} calls",
        f"EC2's rate of machines alone: {row['rate_s']} s",
        f"scheduler's address after {row['up_s']} s",
        f"{row['added']} added",
        f"{row['listed']} listed in {row['listed_s']} s",
        f"{row['lines']} lines of logs read in {row['logs_s']} s",
        f"gone in {row['gone_s']} s, {row['left']} left",
        f"{throttled} throttled calls {row['throttled'] or ''}",
        f"peak {row['peak_mib']} MiB",
    )
    print(f"{row['workers']:5} workers: {'; '.join(told)}", flush=True)
    print(f"      {row['calls']}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["sizes"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 20, 250, 1000])
    parser.add_argument("--profile", default="realistic")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("PREFECT_HOME", home)
        found = sizes(given.workers, given.profile)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
