"""What AWS refuses and the sandbox does not: rules laid over botocore, and clusters that come through."""

from __future__ import annotations

import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from prefect_coiled.aws import spot_role
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cli import app
from prefect_coiled.cluster.launch import find_launched
from prefect_coiled.errors import (
    AccessDeniedError,
    AccountStateError,
    AwsError,
    NoAnswerError,
    QuotaError,
    ThrottledError,
)
from prefect_coiled.events import hearing
from prefect_coiled.notifications import read_notifications
from prefect_coiled.plan import machines
from prefect_coiled.plan.aws_codes import SPOT_ROLE_COMMAND, SPOT_ROLE_MISSING
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import add_workers, create_cluster, delete_cluster, set_up_account, sweep
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.rules.rates import Bucket
from prefect_coiled.tasks import launch as launching
from prefect_coiled.tasks.steps import Session, use_session
from tests.provision.laid import Lay, Rule, live, refusing

Spec = Callable[..., ClusterSpec]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(shared_sandbox: Sandbox) -> Iterator[None]:
    yield
    shared_sandbox.reset()


@pytest.fixture(autouse=True)
def network(session: Session, sandbox: Sandbox) -> Iterator[None]:
    """The account's network is there; no machine is left."""
    set_up_account("team", "us-east-1")
    yield
    sandbox.faults([])
    if ids := [m["InstanceId"] for m in live(sandbox)]:
        sandbox.client("ec2").terminate_instances(InstanceIds=ids)


def filter_limit(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html"""
    values = [v for f in parameters.get("Filters", ()) for v in f.get("Values", ())]
    if action.startswith("ec2:") and len(values) > 200:
        return "FilterLimitExceeded", "The maximum number of filter values specified on a single call is 200"
    return None


@pytest.mark.long
def test_hundreds_of_machines_are_made_added_to_and_removed_whole(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, lay: Lay
) -> None:
    sizes: list[int] = []

    def rule(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        if action == "ec2:RunInstances":
            sizes.append(parameters["MaxCount"])
        return filter_limit(action, parameters)

    lay(rule)
    plan = spec(n_workers=210)
    record = create_cluster(plan)
    assert sizes == [1, 100, 100, 10]
    assert len({w.instance_id for w in record.workers}) == 210
    assert len(add_workers(plan, record, 105, "more")) == 105
    removal = delete_cluster("team", "us-east-1", plan.name)
    assert not removal.left
    assert live(sandbox) == []


def test_a_tag_that_ec2_takes_is_on_the_machines_as_it_is(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay
) -> None:
    odd = {"team": "R&D", "cost (center)": "42", "place": "東京 🚀", "empty": ""}

    def rule(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        texts = [t for tag in parameters.get("Tags") or () for t in tag.values()] if "ssm:" in action else []
        bad = [t for t in texts if any(c in "&()🚀," for c in t)]
        return ("ValidationException", f"Value at 'tags' failed: {bad}") if bad else None

    lay(rule)
    # An IAM user's name may have a comma.
    plan = spec(tags=odd).model_copy(update={"creator": "Doe, Jane"})
    create_cluster(plan)
    for machine in live(sandbox):
        labels = {t["Key"]: t["Value"] for t in machine["Tags"]}
        assert odd.items() <= labels.items()
        assert labels["coiled-creator"] == "Doe, Jane"


def no_spot_role(there: list[str], *, may: bool) -> Rule:
    """An AWS account without the role; whether the caller may make it."""

    def rule(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        if action == "iam:CreateServiceLinkedRole":
            assert parameters == {"AWSServiceName": spot_role.SERVICE}
            if not may:
                return "AccessDenied", "User is not authorized to perform: iam:CreateServiceLinkedRole"
            there.append(action)
        if action == "ec2:RunInstances" and parameters.get("InstanceMarketOptions") and not there:
            return SPOT_ROLE_MISSING, "The provided credentials do not have permission."
        return None

    return rule


def test_the_role_of_spot_machines_is_made_where_that_is_permitted(
    session: Session, spec: Spec, lay: Lay
) -> None:
    lay(no_spot_role([], may=True))
    assert all(w.spot for w in create_cluster(spec(spot=True)).workers)


def test_without_the_role_one_line_says_how_to_make_it(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, lay: Lay, calls: Counter[str]
) -> None:
    lay(no_spot_role([], may=False))
    calls.clear()
    with pytest.raises(AccessDeniedError) as caught:
        create_cluster(spec(spot=True))
    assert SPOT_ROLE_COMMAND in str(caught.value)
    assert live(sandbox) == []
    assert calls["ec2:RunInstances"] == 2  # the scheduler, and spot machines once


def test_without_the_role_workers_are_on_demand_where_they_may(
    session: Session, spec: Spec, lay: Lay
) -> None:
    lay(no_spot_role([], may=False))
    assert not any(w.spot for w in create_cluster(spec(spot_policy="spot_with_fallback")).workers)


def free_plan(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
    """https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/free-tier-plans.html"""
    allowed = ("t3.micro", "t3.small", "t4g.micro", "t4g.small", "c7i-flex.large", "m7i-flex.large")
    if action == "ec2:RunInstances" and parameters["InstanceType"] not in allowed:
        return "InvalidParameterCombination", "The specified instance type is not eligible for Free Tier."
    return None


def test_on_the_free_plan_the_types_that_would_do_are_named(
    session: Session, spec: Spec, aws: Aws, lay: Lay, calls: Counter[str]
) -> None:
    lay(free_plan)
    with pytest.raises(AccountStateError, match=r"free plan.*scheduler_vm_types=\"m7i-flex.large\""):
        create_cluster(spec())
    types = len(machines.DEFAULT_TYPES["x86_64"])
    assert calls["ec2:RunInstances"] == types  # each once, not in each zone


def test_on_the_free_plan_a_type_that_it_has_is_taken(session: Session, spec: Spec, lay: Lay) -> None:
    lay(free_plan)
    types = ["m6i.xlarge", "m7i-flex.large"]
    record = create_cluster(spec(worker_vm_types=types, scheduler_vm_types=["t3.small"]))
    assert {w.instance_type for w in record.workers} == {"m7i-flex.large"}


def vcpu_quota(sandbox: Sandbox, limit: int) -> Rule:
    """A quota of standard vCPUs, which Service Quotas tells and RunInstances holds to."""

    def rule(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        if action != "ec2:RunInstances":
            return None
        table = machines.table()
        used = sum(table[m["InstanceType"]].vcpus for m in live(sandbox))
        wanted = parameters["MaxCount"] * table[parameters["InstanceType"]].vcpus
        if used + wanted <= limit:
            return None
        return "VcpuLimitExceeded", f"You have requested more vCPU capacity than your limit of {limit} allows"

    return rule


def test_as_many_workers_come_up_as_a_quota_leaves_room_for(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, lay: Lay, calls: Counter[str]
) -> None:
    told: list[tuple[str, str]] = []
    lay(vcpu_quota(sandbox, 32))
    with hearing(lambda event: told.append((event.step, event.text))):
        record = create_cluster(spec(n_workers=20, wait_for_workers=2))
    assert Counter(w.instance_type for w in record.workers) == {"m6i.xlarge": 7}
    assert calls["ec2:RunInstances"] <= 1 + 1 + 5
    (text,) = (state for name, state in told if name == "shortage")
    assert "L-1216C47A" in text


@pytest.mark.parametrize(
    ("keywords", "quota", "code", "used"),
    [
        ({}, "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", "L-1216C47A", 4),
        ({"worker_gpu": 1}, "Running On-Demand G and VT instances", "L-DB2E81BA", 0),
    ],
    ids=["standard", "gpu"],
)
def test_a_quota_is_told_by_code_and_use_and_asked_once_for_all_that_share_it(
    session: Session,
    spec: Spec,
    sandbox: Sandbox,
    aws: Aws,
    lay: Lay,
    calls: Counter[str],
    keywords: dict[str, Any],
    quota: str,
    code: str,
    used: int,
) -> None:
    lay(vcpu_quota(sandbox, 5))
    with pytest.raises(QuotaError) as caught:
        create_cluster(spec(n_workers=1, wait_for_workers=True, **keywords))
    text = str(caught.value)
    assert f"{quota} ({code})" in text
    assert f"{used} used" in text
    assert f"https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}" in text
    assert calls["ec2:RunInstances"] == 2
    assert live(sandbox) == []


def machine_rate(size: float, refill: float) -> Rule:
    """https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html: a bucket of machines."""
    bucket = Bucket(size, refill, time.monotonic())

    def rule(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        if action != "ec2:RunInstances" or bucket.take(float(parameters["MaxCount"]), time.monotonic()):
            return None
        return "RequestLimitExceeded", "Request limit exceeded."

    return rule


@pytest.mark.long
def test_machines_come_as_fast_as_aws_takes_them_and_no_faster(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, lay: Lay, calls: Counter[str]
) -> None:
    lay(machine_rate(60, 15))
    record = create_cluster(spec(n_workers=110, wait_for_workers=True))
    assert len(record.workers) == 110
    assert len(live(sandbox)) == 111
    assert calls["ec2:RunInstances"] <= 20
    with use_session(session):
        pass  # what is to be kept has been sent at its end
    assert "RequestLimitExceeded" not in str(read_notifications(aws))


@pytest.mark.long
def test_where_launches_are_refused_for_long_as_many_as_came_are_taken(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "RATE_LIMIT", 2.0)
    lay(machine_rate(61, 0.0))
    record = create_cluster(spec(n_workers=110, wait_for_workers=0.5))
    assert len(record.workers) == len(live(sandbox)) - 1
    assert 50 <= len(record.workers) <= 60
    delete_cluster("team", "us-east-1", record.name)
    lay(machine_rate(61, 0.0))
    with pytest.raises(ThrottledError, match=r"RequestLimitExceeded.*two more a second"):
        create_cluster(spec(n_workers=110, wait_for_workers=True))
    assert live(sandbox) == []


def test_a_throttled_launch_is_sent_again_with_its_token(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    rule = {"service": "ec2", "action": "RunInstances", "effect": "error"}
    throttled = {**rule, "code": "RequestLimitExceeded", "status": 503, "skip": 1, "times": 3}
    failed = {**rule, "effect": "error_after", "skip": 5, "times": 1}
    sandbox.faults([throttled, failed])
    assert len(create_cluster(spec(n_workers=120)).workers) == 120
    assert len(live(sandbox)) == 121


def test_what_aws_is_too_busy_to_write_is_written_a_little_later(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    # Far more often than Prefect repeats the steps.
    throttled = {"service": "ssm", "action": "PutParameter", "effect": "error", "times": 6}
    sandbox.faults([{**throttled, "code": "ThrottlingException", "skip": skip} for skip in (0, 7, 15)])
    assert len(create_cluster(spec(n_workers=1)).workers) == 1


DENIED = "User: arn:aws:iam::123456789012:user/x is not authorized to perform: {} on resource: {} {}"
BY_ORGANISATION = "with an explicit deny in a service control policy"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd"
NOT_BY_US = "because no identity-based policy allows the kms:GenerateDataKey action"


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("call", "code", "message", "words"),
    [
        (
            "ec2:RunInstances",
            "UnauthorizedOperation",
            DENIED.format("ec2:RunInstances", "*", BY_ORGANISATION),
            "a service control policy stands in the way",
        ),
        (
            "ssm:PutParameter",
            "AccessDeniedException",
            DENIED.format("kms:GenerateDataKey", KEY, NOT_BY_US),
            f"Permit kms:GenerateDataKey on {KEY}",
        ),
        ("ec2:RunInstances", "VolumeLimitExceeded", "Used up.", "L-7A658B76"),
        ("ec2:CreateSecurityGroup", "TagPolicyViolation", "The tag policy.", "`tags` of the account"),
        ("ec2:RunInstances", "InvalidAMIID.NotFound", "It does not exist.", "the newest is looked up"),
        ("ec2:RunInstances", "RequestExpired", "Request has expired.", "clock"),
        ("ec2:RunInstances", "Blocked", "This account is blocked.", "support"),
        (
            "ec2:RunInstances",
            "AuthFailure",
            "Not authorized for images: [ami-03a5b89a2fbe7dd3d]",
            "Make a cluster anew: the newest image is looked up",
        ),
        ("ec2:RunInstances", "OptInRequired", "You are not subscribed to this service.", "way of payment"),
        (
            "ec2:RunInstances",
            "InvalidParameterValue",
            "The architecture 'arm64' of the specified instance type does not match the architecture",
            "scheduler_vm_types of one architecture",
        ),
        (
            "ec2:RunInstances",
            "UnauthorizedOperation",
            "This action is denied due to an organizational policy in effect",
            "a declarative policy stands in the way",
        ),
        ("ec2:CreateSecurityGroup", "RouteAlreadyExists", "It has a route.", "somebody else's S3 endpoint"),
    ],
)
def test_what_stands_in_the_way_is_told_as_what_it_is_and_nothing_is_left(
    session: Session,
    spec: Spec,
    sandbox: Sandbox,
    lay: Lay,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: str,
    message: str,
    words: str,
) -> None:
    monkeypatch.setattr(launching, "CONSISTENCY", 1.0)
    wanted = spec(wait_for_workers=True)
    lay(refusing(call, code, message=message))
    with pytest.raises(AwsError) as caught:
        create_cluster(wanted)
    text = str(caught.value)
    assert words in text
    assert code in text
    assert ("Attach the" in text) is False
    assert live(sandbox) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("ec2:TerminateInstances", "InternalError"),
        ("ec2:DescribeInstances", "RequestLimitExceeded"),
        ("ec2:DescribeLaunchTemplates", "InternalError"),
        ("ec2:DeleteSecurityGroup", "InternalError"),
        ("ssm:DeleteParameters", "ThrottlingException"),
        ("ssm:GetParameter", "InternalServerError"),
    ],
)
def test_the_way_down_comes_through_where_aws_fails_for_a_moment(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, call: str, code: str
) -> None:
    record = create_cluster(spec())
    lay(refusing(call, code, times=2))
    removal = delete_cluster("team", "us-east-1", record.name, record.uid)
    assert removal.left == {}
    assert live(sandbox) == []


@pytest.mark.parametrize("code", ["InvalidIPAddress.InUse", "AuthFailure"])
def test_an_address_that_ec2_holds_for_a_moment_is_waited_for(
    session: Session, sandbox: Sandbox, lay: Lay, code: str
) -> None:
    # No cluster of another test uses the gateway.
    sandbox.reset()
    sandbox.set(boot="none")
    set_up_account("team", "us-east-1")
    lay(refusing("ec2:ReleaseAddress", code, times=2))
    removal = sweep("team", "us-east-1")
    assert removal.left == {}
    assert sandbox.client("ec2").describe_addresses()["Addresses"] == []


def test_one_part_that_may_not_be_removed_keeps_no_other(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, aws: Aws
) -> None:
    record = create_cluster(spec())
    lay(refusing("ec2:DeleteLaunchTemplate", "UnauthorizedOperation"))
    removal = delete_cluster("team", "us-east-1", record.name, record.uid)
    assert live(sandbox) == []
    assert "security group" in removal.removed
    assert not removal.is_done  # and the name stays taken until the rest is gone
    lay(lambda action, parameters: None)
    assert delete_cluster("team", "us-east-1", record.name, record.uid).is_done


def test_machines_of_a_launch_that_was_never_answered_are_found_by_its_token(
    session: Session, spec: Spec, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "RATE_LIMIT", 1.0)
    plan = spec()
    record = create_cluster(plan)
    sandbox.faults([{"service": "ec2", "action": "RunInstances", "effect": "drop_after"}])
    more = add_workers(plan, record, 2, "more")
    there = {machine["InstanceId"] for machine in live(sandbox)}
    assert there == {m.instance_id for m in (record.scheduler, *record.workers, *more)}
    assert len(there) == 5


def test_where_it_is_not_known_what_a_launch_made_no_number_is_claimed(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "RATE_LIMIT", 1.0)
    plan = spec()
    record = create_cluster(plan)
    sandbox.faults([{"service": "ec2", "action": "RunInstances", "effect": "drop_after"}])
    lay(
        lambda action, asked: (
            ("UnauthorizedOperation", "No.")
            if "client-token" in [one["Name"] for one in asked.get("Filters", ())]
            else None
        )
    )
    with pytest.raises(NoAnswerError, match=r"0 are known to have come up.*`prefect-coiled ls`") as caught:
        add_workers(plan, record, 2, "more")
    assert "0 came up" not in str(caught.value)
    assert len(live(sandbox)) == 5


def test_workers_that_aws_does_not_know_yet_end_all_the_same(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, lay: Lay
) -> None:
    record = create_cluster(spec())
    cluster = find_launched(aws, record.name)
    assert cluster is not None
    going = [worker.instance_id for worker in record.workers]
    # The call for both, and that for each.
    lay(refusing("ec2:TerminateInstances", "InvalidInstanceID.NotFound", times=3))
    cluster.terminate_workers(going)
    assert [machine["InstanceId"] for machine in live(sandbox)] == [record.scheduler.instance_id]


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError"])
def test_workers_go_though_aws_fails_for_a_moment(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, lay: Lay, code: str
) -> None:
    record = create_cluster(spec())
    cluster = find_launched(aws, record.name)
    assert cluster is not None
    lay(refusing("ec2:TerminateInstances", code, times=2))
    cluster.terminate_workers([record.workers[0].instance_id])
    assert len(live(sandbox)) == 2


def test_a_cluster_without_its_scheduler_is_told_with_the_command_that_removes_it(
    session: Session,
    spec: Spec,
    sandbox: Sandbox,
    account: Account,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_coiled.blocks.loading.load_account", lambda slug=None: account)
    record = create_cluster(spec(name="headless"))

    def said(name: str) -> str:
        done = CliRunner().invoke(app, ["dashboard", name, "--region", "us-east-1"])
        assert done.exit_code == 1
        return str(done.output)

    assert "account team has none of that name in us-east-1. Did you mean 'headless'?" in said("headles")
    sandbox.client("ec2").terminate_instances(InstanceIds=[record.scheduler.instance_id])
    text = said("headless")
    assert "account team has machines of it in us-east-1, without a scheduler or a plan." in text
    assert "`prefect-coiled stop headless --account team --region us-east-1`" in text


def test_workers_are_told_an_address_that_a_list_did_not_have_yet(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://github.com/aws/aws-parallelcluster/issues/7265"""
    found = launching.instances.find_by_token
    monkeypatch.setattr(launching, "RATE_LIMIT", 1.0)
    monkeypatch.setattr(
        launching.instances,
        "find_by_token",
        lambda *args: [m.model_copy(update={"private_ip": ""}) for m in found(*args)],
    )
    # The scheduler's launch is never answered.
    sandbox.faults([{"service": "ec2", "action": "RunInstances", "effect": "drop_after", "times": 2}])
    record = create_cluster(spec())
    sandbox.faults([])
    ec2 = sandbox.client("ec2")
    name = f"coiled-team-{record.name}-worker-{record.uid[:8]}"
    (template,) = ec2.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"]
    (version,) = ec2.describe_launch_template_versions(LaunchTemplateId=template["LaunchTemplateId"])[
        "LaunchTemplateVersions"
    ]
    assert record.scheduler.private_ip
    assert record.scheduler.private_ip in base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()
