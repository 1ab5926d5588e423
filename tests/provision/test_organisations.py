"""What stands between an account and AWS: an organisation's policies, one machine that is kept, a proxy."""

from __future__ import annotations

import io
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import botocore.client
import botocore.httpsession
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import SSLError

from prefect_coiled.aws import instances, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AccessDeniedError, AwsError, NoAnswerError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import create_cluster, delete_cluster, remove_cluster, set_up_account
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session
from tests.provision.laid import Lay, Rule, live, refusing

Spec = Callable[..., ClusterSpec]
BY_ORGANISATION = (
    "User: arn:aws:iam::123456789012:user/x is not authorized to perform: {} on resource: {} "
    "with an explicit deny in a service control policy"
)
MACHINES = "arn:aws:ec2:us-east-1:123456789012:instance/*"


@pytest.fixture(autouse=True)
def no_machine_is_left(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()
    if ids := [machine["InstanceId"] for machine in live(sandbox)]:
        sandbox.client("ec2").terminate_instances(InstanceIds=ids)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(shared_sandbox: Sandbox) -> Iterator[None]:
    yield
    shared_sandbox.reset()


def keeping(machine: str, code: str, times: int = 10**6) -> Rule:
    """EC2 refuses each call that would end one machine, so many times."""
    left = [times]

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        if action != "ec2:TerminateInstances" or machine not in asked["InstanceIds"] or not left[0]:
            return None
        left[0] -= 1
        return code, f"The instance '{machine}' may not be terminated."

    return rule


@pytest.mark.parametrize("code", ["OperationNotPermitted", "UnauthorizedOperation"])
def test_one_machine_that_aws_keeps_keeps_no_other_running(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, code: str
) -> None:
    record = create_cluster(spec(n_workers=3))
    kept = record.workers[1].instance_id
    lay(keeping(kept, code))
    with pytest.raises(AwsError, match=rf"terminating instance \({kept}\).*{code}"):
        delete_cluster("team", "us-east-1", record.name, record.uid)
    assert [machine["InstanceId"] for machine in live(sandbox)] == [kept]
    lay(lambda action, asked: None)
    assert delete_cluster("team", "us-east-1", record.name, record.uid).is_done


def counting(asked: Counter[str], rule: Rule) -> Rule:
    """The same rule, which counts the calls that it is asked about."""

    def counted(action: str, parameters: dict[str, Any]) -> tuple[str, str] | None:
        asked[action] += 1
        return rule(action, parameters)

    return counted


def test_where_all_machines_are_refused_they_are_not_all_asked_for_one_by_one(aws: Aws, lay: Lay) -> None:
    asked: Counter[str] = Counter()
    lay(counting(asked, refusing("ec2:TerminateInstances", "UnauthorizedOperation")))
    with pytest.raises(AccessDeniedError):
        instances.terminate_instances(aws, [f"i-{number:017x}" for number in range(500)])
    assert 0 < asked["ec2:TerminateInstances"] < 40


def test_a_machine_that_ec2_did_not_know_yet_is_asked_to_end_again(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay
) -> None:
    record = create_cluster(spec())
    lay(keeping(record.workers[0].instance_id, "InvalidInstanceID.NotFound", times=4))
    assert delete_cluster("team", "us-east-1", record.name, record.uid).is_done
    assert live(sandbox) == []


def test_a_machine_that_lists_lack_for_a_moment_is_not_taken_for_gone(
    session: Session, spec: Spec, aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create_cluster(spec(n_workers=0))
    without, real = [3], botocore.client.BaseClient._make_api_call

    def call(self: Any, operation: str, parameters: dict[str, Any]) -> Any:
        if operation == "DescribeInstances" and without[0]:
            without[0] -= 1
            return {"Reservations": [], "ResponseMetadata": {}}
        return real(self, operation, parameters)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", call)
    # It runs still: by its lists, whoever asked it to end came too early.
    instances.wait_terminated(aws, [record.scheduler.instance_id])
    assert without == [0]
    assert live(sandbox) == []


@pytest.mark.parametrize("hidden", ["ec2:DescribeVolumes", "ec2:DescribeSecurityGroups"])
def test_what_aws_does_not_show_of_lesser_things_keeps_no_machine_running(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, hidden: str
) -> None:
    record = create_cluster(spec())
    lay(refusing(hidden, "UnauthorizedOperation"))
    removal = delete_cluster("team", "us-east-1", record.name)
    assert len(removal.removed["instance"]) == 3
    assert live(sandbox) == []


def test_machines_that_are_known_end_where_aws_lists_none(
    session: Session, spec: Spec, aws: Aws, sandbox: Sandbox, lay: Lay
) -> None:
    record = create_cluster(spec())
    ids = tuple(machine["InstanceId"] for machine in live(sandbox))
    # EC2 fails to list where a zone is down and the call names no machine:
    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
    lay(refusing("ec2:DescribeInstances", "UnauthorizedOperation"))
    with pytest.raises(AccessDeniedError):
        remove_cluster(aws, record.name, record.uid, ids=ids)
    lay(lambda action, asked: None)
    assert live(sandbox) == []


def test_machines_of_a_launch_that_fails_end_where_aws_lists_none(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay
) -> None:
    launched: list[str] = []

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        if action == "ec2:RunInstances":
            launched.append(action)
        after = len(launched) > 1 and action in ("ec2:RunInstances", "ec2:DescribeInstances")
        return ("UnauthorizedOperation", "You are not authorized.") if after else None

    lay(rule)
    with pytest.raises(AccessDeniedError):
        create_cluster(spec())
    assert len(launched) > 1, "the scheduler was launched, and a worker was not"
    lay(lambda action, asked: None)
    assert live(sandbox) == []


def only(prefix: str, code: str, message: str) -> Rule:
    """EC2 launches the types that begin so, and refuses the others."""

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        if action != "ec2:RunInstances" or asked["InstanceType"].startswith(prefix):
            return None
        return code, message.format("ec2:RunInstances", MACHINES, type=asked["InstanceType"])

    return rule


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("UnauthorizedOperation", BY_ORGANISATION),
        ("InvalidParameterValue", "Invalid value '{type}' for InstanceType."),
    ],
)
def test_the_next_type_is_taken_where_one_is_forbidden_or_unknown(
    session: Session, spec: Spec, aws: Aws, lay: Lay, code: str, message: str
) -> None:
    asked: Counter[str] = Counter()
    lay(counting(asked, only("t3", code, message)))
    record = create_cluster(
        spec(worker_vm_types=["m6i.xlarge", "t3.xlarge"], scheduler_vm_types=["m6i.large", "t3.large"])
    )
    assert Counter(worker.instance_type for worker in record.workers) == {"t3.xlarge": 2}
    assert asked["ec2:RunInstances"] == 4  # each type once, not in each zone


def test_where_every_type_is_forbidden_the_error_says_by_whom(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay
) -> None:
    lay(only("none", "UnauthorizedOperation", BY_ORGANISATION))
    with pytest.raises(AccessDeniedError, match="a service control policy stands in the way"):
        create_cluster(spec())
    assert live(sandbox) == []


SETTINGS = [
    "s3:PutPublicAccessBlock",
    "s3:PutBucketEncryption",
    "s3:PutBucketPolicy",
    "s3:PutBucketLifecycleConfiguration",
    "logs:PutRetentionPolicy",
    "ecr:PutLifecyclePolicy",
]


def test_settings_that_an_organisation_keeps_to_itself_are_left_out_and_said(
    session: Session, spec: Spec, sandbox: Sandbox, lay: Lay, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        return ("AccessDenied", BY_ORGANISATION.format(action, "*")) if action in SETTINGS else None

    lay(rule)
    with caplog.at_level(logging.WARNING, "prefect_coiled"):
        set_up_account("team", "us-east-1")
    said = [record.getMessage() for record in caplog.records if "forbids" in record.getMessage()]
    assert {text.split()[1].rstrip(",") for text in said} == set(SETTINGS)
    assert create_cluster(spec()).workers


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("ec2:CreateNatGateway", 'egress="public-ip"'),
        ("ec2:CreateInternetGateway", "a network of your own"),
        ("logs:PutRetentionPolicy", "logs:PutRetentionPolicy"),  # the statement that permits it
    ],
)
def test_what_may_not_be_made_is_an_error_that_says_what_to_do(
    session: Session, sandbox: Sandbox, lay: Lay, call: str, words: str
) -> None:
    sandbox.reset()
    sandbox.set(boot="none")
    by = "with an explicit deny in a service control policy" if call.startswith("ec2:") else ""
    message = f"User: arn:aws:iam::1:user/x is not authorized to perform: {call} on resource: * {by}"
    lay(refusing(call, "AccessDeniedException", message=message))
    with pytest.raises(AccessDeniedError) as caught:
        set_up_account("team", "us-east-1")
    assert words in caught.value.diagnosis.next_step


def test_a_list_whose_page_is_taken_no_more_begins_again(
    session: Session, aws: Aws, sandbox: Sandbox, lay: Lay
) -> None:
    path = f"/prefect-coiled/team/{secrets.token_hex(4)}/"
    names = [f"{path}{number:02}" for number in range(25)]
    for name in names:
        sandbox.client("ssm").put_parameter(Name=name, Value="x", Type="String")
    left = [1]

    def rule(action: str, asked: dict[str, Any]) -> tuple[str, str] | None:
        if not asked.get("NextToken") or not left[0]:
            return None
        left[0] -= 1
        return "InvalidNextToken", "The specified token is not valid."

    lay(rule)
    assert parameters.find_parameters(aws, path) == names
    assert left == [0]


class _Body(io.BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


@pytest.mark.parametrize("status", [200, 302, 403, 407])
@pytest.mark.parametrize(
    ("action", "asked"),
    [
        ("ec2:DescribeAvailabilityZones", {}),
        ("ssm:GetParameter", {"Name": "x"}),
        ("iam:GetRole", {"RoleName": "x"}),
        ("s3:GetBucketTagging", {"Bucket": "xxx"}),
    ],
)
def test_a_page_in_the_place_of_an_answer_is_told_as_that(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, action: str, asked: dict[str, Any], status: int
) -> None:
    assert aws.number  # S3's calls say whose the bucket is

    def send(self: Any, request: Any) -> AWSResponse:
        page = b"<!DOCTYPE html><html><body>Log in to the guest network</body></html>"
        return AWSResponse(request.url, status, {"content-type": "text/html"}, _Body(page))

    monkeypatch.setattr(botocore.httpsession.URLLib3Session, "send", send)
    with pytest.raises(NoAnswerError, match=r"an answer that AWS did not write.*guest network") as caught:
        aws.call(action, "asking", **asked)
    assert "<html>" not in str(caught.value)


def test_an_answer_that_breaks_off_is_told_as_that(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: Any, request: Any) -> AWSResponse:
        return AWSResponse(request.url, 200, {"content-type": "text/xml"}, _Body(b"<a><b>"))

    monkeypatch.setattr(botocore.httpsession.URLLib3Session, "send", send)
    with pytest.raises(NoAnswerError, match="an answer that AWS did not write"):
        aws.call("ec2:DescribeAvailabilityZones", "asking")


def test_a_certificate_that_is_not_trusted_is_not_tried_for_long(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(self: Any, request: Any) -> AWSResponse:
        raise SSLError(endpoint_url=request.url, error=Exception("self-signed certificate in chain"))

    monkeypatch.setattr(botocore.httpsession.URLLib3Session, "send", send)
    with pytest.raises(NoAnswerError, match="AWS_CA_BUNDLE") as caught:
        aws.call("freetier:GetAccountPlanState", "asking")
    assert caught.value.retried == "never"
