"""What clusters of any size ask of AWS, under its rules, rates and times, in the sandbox.

    python benchmarks/launch.py sizes [--workers 1 20 250 1000] [--profile realistic] [--json FILE]
    python benchmarks/launch.py calls [--workers 20]
    python benchmarks/launch.py ways [--workers 20]
    python benchmarks/launch.py boots [--workers 1 5 20] [--profile realistic]

`sizes`: for each size: calls by action, those that AWS throttled, seconds until all machines are launched,
until they are listed and their logs are read, and until all are gone, and the client's peak memory. Beside
it stands how long EC2's own rate of machines (1,000 at once, and two more a second) takes at least. It
measures the client: the machines are running without any process, and each has written a few lines. It judges
nothing.

`calls`: the calls of a launch in an account where nothing is known yet, and of the next ones, in their
order. Each takes a tenth of a second, so that those that wait for each other come one after the other; the
number on the left is a call's place in the longest row of calls that came before it.

`boots`: clusters whose machines boot, in an account that is known: calls and seconds until all workers are
registered, with the load of the machine.

`ways`: workers by RunInstances, a type and zone after the other, and by an instant fleet over all of them,
where AWS has none of the first so many.
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

from botocore.config import Config
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
                row["throttled_to_launch"] = sum(counts.throttled.values())
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


# Each call takes so many seconds, and more than AWS takes are throttled.
_SLOW: dict[str, Any] = {"boot": "none", "api_delay": (0.1, 0.1), "rates": "on"}


class _Row:
    """Calls in their order: what was called, when it began and ended, by which thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, float, bool]] = []
        answer = Endpoint._get_response

        def noted(endpoint: Any, request: Any, operation: Any, context: Any) -> Any:
            begun = time.monotonic()
            result = answer(endpoint, request, operation, context)
            name = f"{operation.service_model.service_name}:{operation.name}"
            aside = threading.current_thread().name == "notifications"
            self.calls.append((name, begun, time.monotonic(), aside))
            return result

        Endpoint._get_response = noted  # type: ignore[method-assign]

    def rows(self) -> list[dict[str, Any]]:
        """Each call with its place in the longest row of calls that came before it."""
        made = sorted(self.calls, key=lambda call: call[1])
        places: list[int] = []
        for n, (_, begun, _, aside) in enumerate(made):
            # Nobody waits for what keeps notifications.
            before = [p for p, c in zip(places, made[:n], strict=True) if c[2] <= begun and not c[3]]
            places.append(0 if aside else 1 + max(before, default=0))
        start = made[0][1] if made else 0.0
        return [
            {"place": place, "call": name, "at": round(begun - start, 2), "seconds": round(end - begun, 2)}
            for place, (name, begun, end, _) in zip(places, made, strict=True)
        ]


def calls(number: int) -> list[dict[str, Any]]:
    """The calls of three launches, one after the other."""
    from pydantic import SecretStr

    from prefect_coiled.aws.credentials import CredentialSource
    from prefect_coiled.aws.loaded_account import Account
    from prefect_coiled.cluster import launch as launching
    from prefect_coiled.cluster.request import Request
    from prefect_coiled.events import hearing
    from prefect_coiled.provision import remove_cluster, set_up_account
    from prefect_coiled.sandbox import Sandbox
    from prefect_coiled.tasks.steps import Session, use_session

    row, found = _Row(), []
    with Sandbox(_SLOW) as sandbox:
        keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
        account = Account("bench", credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
        launching.load_account = lambda slug: account
        with use_session(Session(account.door("us-east-1"))):
            set_up_account("bench", "us-east-1")
        for what in ("nothing known", "known", "known"):
            row.calls.clear()
            with hearing():
                made = launching.launch(Request({}, n_workers=number), threading.Event())
            rows = row.rows()
            found.append({"what": what, "workers": number, "calls": rows})
            print(f"{what}: {len(rows)} calls for {number} workers")
            for one in rows:
                print(f"  {one['place'] or '':>3}  {one['at']:6.2f} s  {one['call']}")
            remove_cluster(made.aws, made.spec.name, made.spec.uid)
            time.sleep(3)  # what is kept of it is sent
    return found


def boots(numbers: list[int], profile: str) -> list[dict[str, Any]]:
    """Clusters whose machines boot, until all workers are registered; the first one is not counted."""
    import prefect_coiled.sandbox.control as control
    from prefect_coiled.cluster import Cluster
    from prefect_coiled.sandbox import Sandbox

    settings: dict[str, Any] = {} if profile == "fast" else {"profile": profile, "nat_pending": 1.0}
    row, found = _Row(), []
    with Sandbox(settings) as sandbox:
        control.ensure_started = lambda: sandbox.info
        Cluster(n_workers=0, quiet=True).close()
        for n in numbers:
            row.calls.clear()
            begun = time.monotonic()
            with Cluster(n_workers=n, wait_for_workers=True, quiet=True) as cluster:
                seconds = time.monotonic() - begun
                made = [name for name, _, end, _ in row.calls if end <= begun + seconds]
                launched = max(end for name, _, end, _ in row.calls if name == "ec2:RunInstances")
                told = {
                    "workers": n,
                    "calls": len(made),
                    "in a row until the scheduler boots": min(
                        one["place"] for one in row.rows() if one["call"] == "ec2:RunInstances"
                    ),
                    "seconds": round(seconds, 1),
                    "seconds after the last launch": round(begun + seconds - launched, 1),
                    "load": [round(one, 1) for one in os.getloadavg()],
                    "by call": dict(Counter(made).most_common()),
                }
                print(told, flush=True)
                print(f"  {cluster.name}: {len(cluster.observed)} workers", flush=True)
            found.append(told)
    return found


def ways(number: int) -> list[dict[str, Any]]:
    """Workers by RunInstances, a type and zone after the other, and by one instant fleet over all of them."""
    from prefect_coiled.sandbox import Sandbox

    types, zones = ("m6i.large", "m5.large", "m5a.large"), ("us-east-1a", "us-east-1b", "us-east-1c")
    row, found = _Row(), []
    with Sandbox(_SLOW) as sandbox:
        ec2 = sandbox.client("ec2")
        subnets = {s["AvailabilityZone"]: s["SubnetId"] for s in ec2.describe_subnets()["Subnets"]}
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        for full in (0, 1, 3, 9):
            pairs = [(kind, zone) for zone in zones for kind in types]
            missing = [{"instance_type": kind, "zone": zone, "free": 0} for kind, zone in pairs[:full]]
            sandbox.set(capacity=missing)
            for how in ("RunInstances", "CreateFleet"):
                row.calls.clear()
                begun = time.monotonic()
                if how == "RunInstances":
                    got = _one_by_one(sandbox, pairs, subnets, image, number)
                else:
                    got = _by_fleet(ec2, pairs, subnets, image, number, f"{full}")
                rows = row.rows()
                told = {
                    "how": how,
                    "without capacity": full,
                    "got": got,
                    "calls": len(rows),
                    "in a row": max(one["place"] for one in rows),
                    "seconds": round(time.monotonic() - begun, 2),
                }
                found.append(told)
                print(told, flush=True)
    return found


def _one_by_one(
    sandbox: Any, pairs: list[tuple[str, str]], subnets: dict[str, str], image: str, number: int
) -> int:
    # As the library does (`aws.door`): botocore by itself asks five times for what AWS does not have.
    ec2 = sandbox.client("ec2", config=Config(retries={"total_max_attempts": 1}))
    for kind, zone in pairs:
        try:
            made = ec2.run_instances(
                ImageId=image, InstanceType=kind, SubnetId=subnets[zone], MinCount=1, MaxCount=number
            )
            return len(made["Instances"])
        except ec2.exceptions.ClientError:
            continue
    return 0


def _by_fleet(
    ec2: Any, pairs: list[tuple[str, str]], subnets: dict[str, str], image: str, number: int, name: str
) -> int:
    # A fleet launches by a template, which EC2 has to know.
    made = ec2.create_launch_template(
        LaunchTemplateName=f"fleet-{name}", LaunchTemplateData={"ImageId": image}
    )
    template = made["LaunchTemplate"]["LaunchTemplateId"]
    while True:
        try:
            ec2.describe_launch_templates(LaunchTemplateIds=[template])
            break
        except ec2.exceptions.ClientError:
            continue
    overrides = [
        {"InstanceType": kind, "SubnetId": subnets[zone], "Priority": float(n)}
        for n, (kind, zone) in enumerate(pairs)
    ]
    reply = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                "Overrides": overrides,
            }
        ],
        OnDemandOptions={"AllocationStrategy": "prioritized"},
        TargetCapacitySpecification={
            "TotalTargetCapacity": number,
            "DefaultTargetCapacityType": "on-demand",
        },
    )
    return sum(len(one["InstanceIds"]) for one in reply["Instances"])


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
        f"{row['launched']} launched in {row['launched_s']} s by {row['calls_to_launch']} calls, "
        f"{row['throttled_to_launch']} of them throttled",
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
    parser.add_argument("what", choices=["sizes", "calls", "ways", "boots"])
    parser.add_argument("--workers", type=int, nargs="+", default=None)
    parser.add_argument("--profile", default="realistic")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("PREFECT_HOME", home)
        if given.what == "calls":
            found = calls(*(given.workers or [20])[:1])
        elif given.what == "boots":
            found = boots(given.workers or [1, 5, 20], given.profile)
        elif given.what == "ways":
            found = ways(*(given.workers or [20])[:1])
        else:
            found = sizes(given.workers or [1, 20, 250, 1000], given.profile)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
