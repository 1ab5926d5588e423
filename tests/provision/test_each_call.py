"""Each call of what a user does goes wrong: the words say what to do, nothing runs on, the next try ends it.

Of a launch, of scaling up, of a close, of a set-up and of each removal the same is in other files. This one
has the rest: scaling down, reading logs, baking an image, `setup iam` and `setup aws`.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from prefect import task_engine
from typer.testing import CliRunner

import prefect_coiled.blocks
import prefect_coiled.saved_accounts
from prefect_coiled.aws import baked_images, log_events, logs, parameters, waits
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.pace import Pace
from prefect_coiled.cli import app
from prefect_coiled.cluster.launch import find_launched
from prefect_coiled.environment import Locked
from prefect_coiled.errors import NameTakenError, PrefectCoiledError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.user_data import BAKED
from prefect_coiled.provision import bake_image, create_cluster, delete_cluster
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.saved_accounts import reset_account
from prefect_coiled.tasks import launch as launching
from prefect_coiled.tasks.steps import Session, use_session
from tests.matrix.lives import action_of, call_aws, called
from tests.provision.laid import bring_up, hurry, live, refused

ZONE, NAME, WORKERS = "us-east-1a", "one", 3
NOT_FOUND = {
    "ec2": "InvalidInstanceID.NotFound",
    "ecr": "RepositoryNotFoundException",
    "iam": "NoSuchEntity",
    "logs": "ResourceNotFoundException",
    "s3": "NoSuchBucket",
    "ssm": "ParameterNotFound",
    "sts": "AccessDenied",
}
# None: it is done, and no answer comes.
FAULTS: dict[str, tuple[str, int] | None] = {
    "denied": ("AccessDenied", 403),
    "slowed down": ("Throttling", 400),
    "failing": ("InternalError", 500),
    "not found": ("", 404),
    "expired": ("ExpiredToken", 400),
    "used up": ("LimitExceeded", 400),
    "its reply is lost": None,
}
# What says no more than that something is wrong.
BARE = ("report it", "Look it up", "Traceback")


class World:
    """An AWS account in the sandbox, and what a user does in it."""

    def __init__(
        self, sandbox: Sandbox, account: Account, spec: Callable[..., ClusterSpec], locked: Locked
    ) -> None:
        self.sandbox, self.account, self.spec, self.locked = sandbox, account, spec, locked
        self.said = ""
        self.bakes = self.aside = False

    def plainly(self, do: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Do what is none of the user's own calls."""
        self.aside = True
        try:
            return do(*args, **more)
        finally:
            self.aside = False

    @property
    def aws(self) -> Aws:
        return self.account.door("us-east-1")

    def command(self, *words: str) -> None:
        """A command, which ends well or with an error of this library's."""
        done = CliRunner().invoke(app, list(words))
        self.said = done.output
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code:
            line = next((one for one in done.output.splitlines() if one.startswith("Error: ")), "")
            assert line, done.output
            raise PrefectCoiledError("doing it", line, "as the line says")

    def workers(self) -> list[str]:
        tags = [
            {t["Key"]: t["Value"] for t in m["Tags"]} | {"id": m["InstanceId"]} for m in live(self.sandbox)
        ]
        return sorted(t["id"] for t in tags if t.get("coiled-role") == "worker")


class Way:
    """Something that a user does."""

    def __init__(self, world: World) -> None:
        self.world = world

    def make(self) -> None:
        """What is there before."""

    def run(self) -> None:
        """What the user does."""
        raise NotImplementedError

    def again(self) -> None:
        """The same once more, or what the error says."""
        self.run()

    def reached(self) -> bool:
        """Whether that is how it should be."""
        raise NotImplementedError

    def failed(self) -> None:
        """What has to be so when it was told that it failed."""


class ScaleDown(Way):
    """Three workers become one."""

    def make(self) -> None:
        if len(self.world.workers()) < WORKERS:
            self.world.sandbox.reset()
            self.world.sandbox.set(boot="none")
            bring_up(self.world.aws, ZONE)
            with use_session(Session(self.world.aws)):
                create_cluster(self.world.spec(name=NAME, n_workers=WORKERS, zone=ZONE))
        found = find_launched(self.world.aws, NAME)
        assert found is not None
        self.cluster = found

    def run(self) -> None:
        there = sorted(
            m.instance_id for m in self.cluster.listed_workers() if m.state in ("pending", "running")
        )
        self.cluster.terminate_workers(there[1:])

    def reached(self) -> bool:
        return len(self.world.workers()) == 1

    def failed(self) -> None:
        counted = [m for m in self.cluster.listed_workers() if m.state in ("pending", "running")]
        assert sorted(m.instance_id for m in counted) == self.world.workers()
        assert self.world.workers()


class Logs(Way):
    """What twelve machines wrote, whole."""

    found: dict[str, list[str]] = {}

    lines = 3

    def make(self) -> None:
        aws = self.world.aws
        self.machines = [f"i-{n:017x}" for n in range(12)]
        if not self.found:
            self.world.sandbox.reset()
            bring_up(aws, ZONE)
            self.found = {"": []}
            for one in self.machines[1:]:  # the first never shipped a line
                logs.write_log(aws, one, [(datetime.now(timezone.utc), f"line {n}") for n in range(3)])

    def run(self) -> None:
        self.found = dict(log_events.said(self.world.aws, self.machines, tail=self.tail))

    tail: int | None = None

    def reached(self) -> bool:
        first, *others = (self.found[one] for one in self.machines)
        # Where its console cannot be read, that is said in its place.
        nothing = not first or "its console cannot be read" in first[0]
        return nothing and [len(lines) for lines in others] == [self.lines] * 11


class Tail(Logs):
    """The last line of each."""

    tail, lines = 1, 1


class Bake(Way):
    """An image with two packages; the machine that bakes stops as one that has installed them."""

    def make(self) -> None:
        aws = self.world.aws
        if not find(aws, KINDS["vpc"]):
            bring_up(aws, ZONE)
        # What AWS kept of an earlier builder: it is off, and its name is taken.
        self.forget(f"bake-{self.world.locked.lock.environment_hash}")
        for row in ("image", "snapshot"):
            kind = KINDS[row]
            if kind.delete and (items := find(aws, kind)):
                kind.delete(aws, items)

    def run(self) -> None:
        session = Session(self.world.aws)
        session.locked = self.world.locked
        with use_session(session):
            bake_image(self.world.spec(zone=ZONE))

    def again(self) -> None:
        try:
            self.run()
        except NameTakenError as taken:
            # Where it cannot be seen what the first one left, its name is kept.
            (name,) = re.findall(
                r"`prefect-coiled stop (bake-\w+) --account team --region us-east-1`", str(taken)
            )
            self.forget(name)
            self.run()

    def forget(self, name: str) -> None:
        """Remove what an earlier builder left, when the lease of whoever failed to is nobody's any more."""
        parameters.delete_parameters(self.world.aws, [parameters.removal_of("team", name)])
        with use_session(Session(self.world.aws)):
            delete_cluster("team", "us-east-1", name)

    def reached(self) -> bool:
        return len(baked_images.find_baked_images(self.world.aws)) == 1 and not live(self.world.sandbox)

    def failed(self) -> None:
        assert not live(self.world.sandbox)


class SetupIam(Way):
    """A user with the policies and a key."""

    def make(self) -> None:
        self.world.sandbox.reset()

    def run(self) -> None:
        self.world.command("setup", "iam", "--account", "team", "--user", "ann", "--apply", "--key", "--yes")

    def reached(self) -> bool:
        iam = self.world.sandbox.client("iam")
        attached = iam.list_attached_user_policies(UserName="ann")["AttachedPolicies"]
        return len(attached) == 2 and len(iam.list_access_keys(UserName="ann")["AccessKeyMetadata"]) == 1


WAYS: dict[str, type[Way]] = {
    "scale down": ScaleDown,
    "logs": Logs,
    "tail": Tail,
    "bake": Bake,
    "setup iam": SetupIam,
}
# What each does, beside what a set-up looks at.
CALLS = {
    "scale down": "ec2:DescribeInstances ec2:TerminateInstances",
    "logs": "logs:FilterLogEvents logs:GetLogEvents ec2:GetConsoleOutput",
    "tail": "logs:GetLogEvents ec2:GetConsoleOutput",
    "bake": """
        ec2:DescribeImages ssm:PutParameter s3:ListObjectsV2 s3:PutObject ec2:DescribeSecurityGroups
        ec2:CreateSecurityGroup ec2:AuthorizeSecurityGroupIngress ssm:GetParameter ec2:CreateLaunchTemplate
        ec2:DescribeLaunchTemplates ec2:RunInstances ec2:DescribeInstances ec2:GetConsoleOutput
        ec2:CreateImage ec2:TerminateInstances ssm:GetParametersByPath ec2:DeleteLaunchTemplate
        ec2:DeleteSecurityGroup ssm:DeleteParameters
    """,
    "setup iam": """
        sts:GetCallerIdentity iam:GetRole iam:GetUser iam:GetPolicy iam:ListAttachedUserPolicies
        iam:ListAccessKeys iam:CreateUser iam:CreatePolicy iam:AttachUserPolicy iam:CreateAccessKey
    """,
}
# A stream that is not there has no lines, which is an answer; and nobody reads a lost secret a second time.
OTHERWISE = {
    ("logs", "logs:GetLogEvents", "not found"),
    ("tail", "logs:GetLogEvents", "not found"),
    ("setup iam", "iam:CreateAccessKey", "its reply is lost"),
}
CASES = [
    case
    for way, calls in CALLS.items()
    for case in ((way, call, fault) for call in calls.split() for fault in FAULTS)
    if case not in OTHERWISE
]


def as_builders(world: World, operation: str, reply: Any) -> Any:
    """What a machine does that bakes: it stops, and its console says that all is installed."""
    if operation == "RunInstances" and world.bakes:
        ids = [machine["InstanceId"] for machine in reply["Instances"]]
        if [m for m in world.plainly(live, world.sandbox) if m["InstanceId"] in ids]:
            world.plainly(world.sandbox.client("ec2").stop_instances, InstanceIds=ids)
    if operation == "GetConsoleOutput" and world.bakes:
        return {**reply, "Output": f"prefect-coiled: {BAKED} 2 packages"}
    return reply


@contextmanager
def struck(world: World, call: str, fault: str, times: int = 10**6) -> Iterator[Counter[str]]:
    """One call has a fault, so many times. Gives how often each call is made."""
    made = Counter[str]()
    left = [times]

    def meet(client: Any, operation: str, given: dict[str, Any]) -> Any:
        if world.aside:
            return call_aws(client, operation, given)
        action = action_of(client, operation)
        made[action] += 1
        if action != call or not left[0]:
            return as_builders(world, operation, call_aws(client, operation, given))
        left[0] -= 1
        answer = FAULTS[fault]
        if answer is None:
            as_builders(world, operation, call_aws(client, operation, given))
            raise ConnectionClosedError(endpoint_url="https://aws")
        raise refused(operation, answer[0] or NOT_FOUND[action.partition(":")[0]], "AWS says so.", answer[1])

    with called(meet):
        yield made


@pytest.fixture
def world(
    sandbox: Sandbox,
    account: Account,
    spec: Callable[..., ClusterSpec],
    locked: Locked,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    hurry(monkeypatch)
    # Prefect's pauses between two tries of a step.
    monkeypatch.setattr(task_engine, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    monkeypatch.setattr(launching, "RATE_LIMIT", 600.0)
    quick = (waits.wait_for.__kwdefaults__ or {})["clock"]
    monkeypatch.setattr(launching, "time", SimpleNamespace(monotonic=quick))
    for module in (prefect_coiled.blocks, prefect_coiled.saved_accounts):
        monkeypatch.setattr(module, "load_account", lambda slug=None: account)
    # Reads of logs at the pace of CloudWatch would take minutes here.
    monkeypatch.setattr(log_events, "_filters", lambda region: Pace(1000))
    monkeypatch.setattr(log_events, "_READS", Pace(1000))
    yield World(sandbox, account, spec, locked)
    sandbox.reset()


def test_what_is_struck_is_all_that_is_called(world: World) -> None:
    looked_at = {f"ec2:Describe{what}" for what in ("AvailabilityZones", "RouteTables", "Vpcs", "Subnets")}
    looked_at |= {"ec2:DescribeInternetGateways", "ec2:DescribeNatGateways", "ec2:DescribeVpcEndpoints"}
    looked_at |= {"ec2:DescribeVpcAttribute", "ec2:DescribeAddresses", "logs:DescribeLogGroups"}
    looked_at |= {"logs:ListTagsForResource", "s3:GetBucketTagging", "iam:GetRole", "iam:GetRolePolicy"}
    looked_at |= {
        "iam:GetInstanceProfile",
        "sts:GetCallerIdentity",
        "logs:PutLogEvents",
        "logs:CreateLogStream",
    }
    for name, kind in WAYS.items():
        way = kind(world)
        world.bakes = kind is Bake
        way.make()
        with struck(world, "", "denied") as made:
            way.run()
        assert way.reached(), (name, world.said)
        assert set(made) - looked_at == set(CALLS[name].split()) - looked_at, name


def attempt(way: Way) -> PrefectCoiledError | None:
    try:
        way.run()
    except PrefectCoiledError as error:
        return error
    return None


@pytest.mark.parametrize(("way", "call", "fault"), CASES)
def test_a_call_that_goes_wrong_is_told_and_the_next_try_ends_it(
    world: World, way: str, call: str, fault: str
) -> None:
    does = WAYS[way](world)
    world.bakes = way == "bake"
    for times in (1, 10**6):
        does.make()
        with struck(world, call, fault, times) as made:
            failure = attempt(does)
        assert made[call], "it was not met"
        if failure is not None:
            assert failure.diagnosis.next_step
            assert not [bare for bare in BARE if bare in f"{failure} {world.said}"]
            does.failed()
            with struck(world, "", fault):
                does.again()
        assert does.reached(), (times, failure, world.said)


def test_a_key_whose_secret_nobody_was_told_is_said_with_the_commands(world: World) -> None:
    way = SetupIam(world)
    way.make()
    with (
        struck(world, "iam:CreateAccessKey", "its reply is lost"),
        pytest.raises(PrefectCoiledError) as caught,
    ):
        way.run()
    assert "`aws iam delete-access-key --user-name ann --access-key-id ID`" in str(caught.value)
    way.run()
    assert "access key of user ann: is there (AWS told its secret once, when it was made)" in world.said


def test_an_account_that_may_not_be_named_is_not_saved(world: World) -> None:
    info = world.sandbox.info
    keys = ("--access-key-id", "sandbox", "--secret-access-key", info.secret_access_key)
    words = ("setup", "aws", "--account", "guided", "--yes", *keys, "--endpoint-url", info.endpoint)
    for fault in FAULTS:
        with struck(world, "sts:GetCallerIdentity", fault), pytest.raises(PrefectCoiledError) as caught:
            world.command(*words)
        assert not [bare for bare in BARE if bare in f"{caught.value} {world.said}"]
    world.command(*words)
    assert "Account guided is set up in us-east-1" in world.said
    reset_account("guided")
