"""Every error code of AWS is decided: its class, who tries again, and what a person reads.

`aws_codes.txt` is the decision, a row a code: code, class, who tries again, text. Each row is answered by the
sandbox to a call of a service that has the code.
"""

from __future__ import annotations

import re
import types
from http.client import responses
from pathlib import Path
from typing import Any, NamedTuple

import botocore.endpoint
import botocore.session
import pytest

from prefect_coiled import errors
from prefect_coiled.aws import door
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import (
    AccessDeniedError,
    AwsError,
    NotFoundError,
    QuotaError,
    ThrottledError,
    is_retryable,
)
from prefect_coiled.plan.actions import ACTIONS
from prefect_coiled.plan.aws_codes import BY_CLASS, CODES
from prefect_coiled.plan.aws_errors import aws_error, code_of
from prefect_coiled.sandbox import Sandbox
from tests.provision.laid import Lay, refusing

GOLDEN = Path(__file__).with_name("aws_codes.txt")
# A read of each service; botocore repeats it where it may.
READS: dict[str, tuple[str, dict[str, Any]]] = {
    "ec2": ("ec2:DescribeVpcs", {}),
    "ecr": ("ecr:DescribeRepositories", {}),
    "iam": ("iam:GetRole", {"RoleName": "x"}),
    "logs": ("logs:DescribeLogGroups", {}),
    "s3": ("s3:ListObjectsV2", {"Bucket": "xxx"}),
    "ssm": ("ssm:GetParameter", {"Name": "x"}),
}
HEAD = ("s3:HeadBucket", {"Bucket": "xxx"})
DENIED = BY_CLASS[AccessDeniedError].next_step
SPOT = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
# botocore repeats a call for it, which is a quota with all the services that have it here.
TAKEN_FOR_THROTTLING = "LimitExceededException"
# botocore follows these by itself, to where S3 says that the bucket is.
REDIRECTS = {"301", "307"}
SERVER_SIDE = re.compile(r"Internal|Unavailable|ServerException|ServiceException|ServiceFailure|Capacity")


class Row(NamedTuple):
    """A row of the table."""

    code: str
    cls: str
    retried: str
    text: str


def rows() -> list[Row]:
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [Row(*(part.strip() for part in line.split("|", 3))) for line in lines]


def modelled() -> dict[str, set[str]]:
    """The codes that botocore's models name for the calls that this library makes, by service."""
    found: dict[str, set[str]] = {}
    session = botocore.session.get_session()
    for call in ACTIONS:
        service, operation = call.split(":")
        name = {"servicequotas": "service-quotas"}.get(service, service)
        model = session.get_service_model(name).operation_model(operation)
        for shape in model.error_shapes:
            code = shape.metadata.get("error", {}).get("code", shape.name)
            found.setdefault(service, set()).add(code)
    return found


MODELLED = modelled()


def read_of(code: str) -> tuple[str, dict[str, Any]]:
    """A call of a service that has the code."""
    if code.isdigit():
        return HEAD
    for service, codes in MODELLED.items():
        if code in codes and service in READS:
            return READS[service]
    s3 = re.search(r"Bucket|S3|XAmz|Redirect|Digest|XML|Key$|SlowDown|NoSuch|Signature", code)
    return READS["s3" if s3 else "logs" if code.endswith("Exception") else "ec2"]


def status_of(code: str) -> int:
    if code.isdigit():
        return int(code)
    return 500 if SERVER_SIDE.search(code) else 503 if code == "SlowDown" else 400


def failure(aws: Aws, sandbox: Sandbox, code: str, status: int) -> AwsError:
    action, parameters = read_of(code)
    rule = {"effect": "error", "service": action.split(":")[0], "code": code, "status": status}
    sandbox.faults([{**rule, "message": "AWS said so."}])
    with pytest.raises(AwsError) as caught:
        aws.call(action, "doing it", **parameters)
    return caught.value


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore repeats without waiting."""
    monkeypatch.setattr(botocore.endpoint, "time", types.SimpleNamespace(sleep=lambda seconds: None))


def test_each_code_has_its_row() -> None:
    assert [row.code for row in rows()] == sorted(CODES)


@pytest.mark.parametrize("service", sorted(MODELLED))
def test_every_error_that_a_model_names_for_a_call_of_ours_is_in_the_table(service: str) -> None:
    assert MODELLED[service] - set(CODES) == set()


def test_every_row_is_what_a_person_gets_and_is_tried_again_as_it_says(
    aws: Aws, sandbox: Sandbox, no_pauses: None
) -> None:
    for number, row in enumerate(rows()):
        if number % 50 == 0:
            door._CLIENTS.clear()  # a client of botocore repeats no more than some hundred times in all
        if row.code in REDIRECTS:
            continue
        error = failure(aws, sandbox, row.code, status_of(row.code))
        action = read_of(row.code)[0]
        said = str(error).replace(action, "CALL")
        if row.code.isdigit():  # a HEAD has no body, and so no words of AWS's
            said = re.sub(responses[int(row.code)], "AWS said so", said, count=1, flags=re.IGNORECASE)
        if isinstance(error, AccessDeniedError):  # the door names the statement that permits the call
            said = re.sub(r"Attach the \w+ policy \(.*}$", DENIED, said)
            said = said.removesuffix(f" {DENIED}") if row.code == SPOT else said
        assert Row(row.code, type(error).__name__, error.retried, said) == row
        assert is_retryable(error) is (row.retried in ("call", "step"))
        repeated = row.retried == "call" or row.code == TAKEN_FOR_THROTTLING or status_of(row.code) >= 500
        # botocore asks with another call where a bucket is.
        sent = [call["action"] for call in sandbox.struck()]
        assert (sent.count(sent[0]) > 1) is repeated, row


@pytest.mark.parametrize("code", sorted(REDIRECTS))
def test_a_redirect_that_leads_nowhere_is_told_too(code: str) -> None:
    (row,) = (row for row in rows() if row.code == code)
    error = aws_error("doing it", "CALL", {"Error": {"Code": code, "Message": "AWS said so."}})
    assert Row(code, type(error).__name__, error.retried, str(error)) == row


@pytest.mark.parametrize(
    ("code", "status", "cls"),
    [
        ("InvalidCarrierGatewayID.NotFound", 400, NotFoundError),
        ("Client.InvalidVpcID.NotFound", 400, NotFoundError),
        ("InvalidKMSKey.InvalidState", 400, errors.InvalidRequestError),
        ("Server.InternalError", 500, ThrottledError),
        ("EgressOnlyInternetGatewayLimitExceeded", 400, QuotaError),
        ("AnotherThrottlingException", 400, ThrottledError),
        ("ANewOne", 502, ThrottledError),
        ("ANewOne", 429, ThrottledError),
        ("ANewOne", 400, AwsError),
        ("", 400, AwsError),
    ],
)
def test_a_code_that_is_in_no_row_is_told_by_its_kind(code: str, status: int, cls: type[AwsError]) -> None:
    assert code_of(code, status).cls is cls


def test_a_kms_key_that_a_disk_cannot_have_is_told_with_the_command_for_one_of_ones_own() -> None:
    assert "--kms-key" in code_of("InvalidKmsKey.InvalidState").next_step


def test_a_code_may_look_like_a_kind_and_be_another() -> None:
    assert code_of("FilterLimitExceeded").cls is errors.InvalidRequestError
    assert code_of("RequestLimitExceeded").cls is ThrottledError
    assert code_of("InvalidAMIID.Unavailable").cls is NotFoundError


@pytest.mark.parametrize("call", ["CreateRole", "PutRolePolicy", "CreatePolicy", "CreateUser"])
def test_a_quota_of_iam_is_told_with_what_makes_room(call: str, aws: Aws, lay: Lay) -> None:
    lay(refusing(f"iam:{call}", "LimitExceeded", message="Cannot exceed quota for RolesPerAccount: 1000"))
    with pytest.raises(
        QuotaError, match=r"RolesPerAccount.*Delete what nobody uses.*Service Quotas console of"
    ):
        aws.call(f"iam:{call}", "making it", **{"RoleName": "x"})
