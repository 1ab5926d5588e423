"""IAM in the sandbox: what is not permitted is refused, with AWS's own codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from prefect_coiled.plan.policies import iam_policies
from prefect_coiled.sandbox import Sandbox

NUMBER = "123456789012"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}
OURS = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team"}]
NEIGHBOUR = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team-2"}]


@pytest.fixture
def client(judged: Sandbox, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A client of a new user with the given policies."""

    def make(service: str, *policies: Any, name: str = "") -> Any:
        key, secret = judged.add_user(name or request.node.name.replace("[", "-").strip("]")[:50], *policies)
        session = boto3.Session(key, secret)
        return session.client(service, region_name="us-east-1", endpoint_url=judged.endpoint)

    return make


def allow(*actions: str, resource: str = "*", **condition: Any) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": list(actions), "Resource": resource}
    return {
        "Version": "2012-10-17",
        "Statement": [{**statement, **({"Condition": condition} if condition else {})}],
    }


def refusal(call: Callable[..., Any], **parameters: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    response = caught.value.response
    return (
        response["Error"]["Code"],
        response["ResponseMetadata"]["HTTPStatusCode"],
        response["Error"]["Message"],
    )


def tagged(kind: str, tags: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": tags}]


@pytest.mark.parametrize(
    ("service", "method", "parameters", "code", "status"),
    [
        ("ec2", "describe_vpcs", {}, "UnauthorizedOperation", 403),
        ("iam", "get_role", {"RoleName": "x"}, "AccessDenied", 403),
        ("logs", "describe_log_groups", {}, "AccessDeniedException", 400),
        ("ssm", "get_parameter", {"Name": "/x"}, "AccessDeniedException", 400),
        ("s3", "create_bucket", {"Bucket": "not-ours"}, "AccessDenied", 403),
    ],
)
def test_each_service_denies_in_its_own_words(
    client: Callable[..., Any], service: str, method: str, parameters: Any, code: str, status: int
) -> None:
    found = refusal(getattr(client(service), method), **parameters)
    assert found[:2] == (code, status)
    assert "is not authorized to perform" in found[2]


@pytest.mark.parametrize(
    ("service", "method", "code"),
    [
        ("ec2", "describe_vpcs", "AuthFailure"),
        ("iam", "list_roles", "InvalidClientTokenId"),
        ("sts", "get_caller_identity", "InvalidClientTokenId"),
        ("logs", "describe_log_groups", "UnrecognizedClientException"),
        ("s3", "list_buckets", "InvalidAccessKeyId"),
    ],
)
def test_unknown_keys_are_refused(judged: Sandbox, service: str, method: str, code: str) -> None:
    session = boto3.Session("AKIAUNKNOWN", "wrong")
    stranger = session.client(service, region_name="us-east-1", endpoint_url=judged.endpoint)
    assert refusal(getattr(stranger, method))[0] == code


def test_everybody_may_ask_who_they_are(client: Callable[..., Any]) -> None:
    assert client("sts", name="nobody").get_caller_identity()["Arn"].endswith("user/nobody")


def test_what_is_made_without_our_tags_is_refused(client: Callable[..., Any]) -> None:
    shipped = iam_policies("team", aws_account_id=NUMBER)
    ec2 = client("ec2", shipped["setup"], shipped["ongoing"])
    bare = refusal(ec2.create_vpc, CidrBlock="10.1.0.0/16")
    assert bare[0] == "UnauthorizedOperation"
    assert f"ec2:CreateVpc on resource: arn:aws:ec2:us-east-1:{NUMBER}:vpc/*" in bare[2]
    theirs = refusal(ec2.create_vpc, CidrBlock="10.1.0.0/16", TagSpecifications=tagged("vpc", NEIGHBOUR))
    assert theirs[0] == "UnauthorizedOperation"
    made = ec2.create_vpc(CidrBlock="10.1.0.0/16", TagSpecifications=tagged("vpc", OURS))
    ec2.delete_vpc(VpcId=made["Vpc"]["VpcId"])


def test_of_two_tags_that_differ_by_case_alone_a_condition_matches_neither(
    client: Callable[..., Any],
) -> None:
    both = tagged("vpc", [*OURS, {"Key": "Owner", "Value": "coiled"}])
    shipped = iam_policies("team", aws_account_id=NUMBER)
    ec2 = client("ec2", shipped["setup"], shipped["ongoing"])
    made = ec2.create_vpc(CidrBlock="10.1.0.0/16", TagSpecifications=both)  # they do not ask for `owner`
    ec2.delete_vpc(VpcId=made["Vpc"]["VpcId"])
    by_owner = {"StringEquals": {"aws:RequestTag/owner": "coiled"}}
    ec2 = client("ec2", allow("ec2:CreateVpc", "ec2:CreateTags", **by_owner), name="by-owner")
    assert refusal(ec2.create_vpc, CidrBlock="10.1.0.0/16", TagSpecifications=both)[1] == 403
    assert ec2.create_vpc(CidrBlock="10.1.0.0/16", TagSpecifications=tagged("vpc", OURS))["Vpc"]


@pytest.mark.parametrize("tags", [[], NEIGHBOUR], ids=["untagged", "neighbour"])
def test_what_is_not_ours_is_out_of_reach(
    client: Callable[..., Any], judged: Sandbox, tags: list[dict[str, str]]
) -> None:
    shipped = iam_policies("team", aws_account_id=NUMBER)
    root = judged.client("ec2")
    vpc = root.create_vpc(
        CidrBlock="10.2.0.0/16", **({"TagSpecifications": tagged("vpc", tags)} if tags else {})
    )
    vpc_id = vpc["Vpc"]["VpcId"]
    ec2 = client("ec2", shipped["setup"], shipped["ongoing"])
    refused = "UnauthorizedOperation"
    assert refusal(ec2.delete_vpc, VpcId=vpc_id)[0] == refused
    specs = tagged("subnet", OURS)
    assert (
        refusal(ec2.create_subnet, VpcId=vpc_id, CidrBlock="10.2.0.0/24", TagSpecifications=specs)[0]
        == refused
    )
    # Nor can it be made ours: tags are given in creating calls alone.
    assert refusal(ec2.create_tags, Resources=[vpc_id], Tags=OURS)[0] == refused
    root.delete_vpc(VpcId=vpc_id)


def test_tags_in_a_creating_call_take_a_permission_of_their_own(client: Callable[..., Any]) -> None:
    ec2 = client("ec2", allow("ec2:CreateVpc"))
    code, _, message = refusal(ec2.create_vpc, CidrBlock="10.3.0.0/16", TagSpecifications=tagged("vpc", OURS))
    assert code == "UnauthorizedOperation"
    assert "ec2:CreateTags" in message


def test_a_machine_gets_no_role_that_its_maker_may_not_pass(
    client: Callable[..., Any], judged: Sandbox
) -> None:
    iam = judged.client("iam")
    iam.create_role(RoleName="admin", AssumeRolePolicyDocument=json.dumps(TRUST))
    iam.create_instance_profile(InstanceProfileName="admin")
    iam.add_role_to_instance_profile(InstanceProfileName="admin", RoleName="admin")
    everything_in_ec2 = allow("ec2:*")
    ec2 = client("ec2", everything_in_ec2)
    images = judged.client("ssm").get_parameter(
        Name="/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    )
    code, _, message = refusal(
        ec2.run_instances,
        ImageId=images["Parameter"]["Value"],
        InstanceType="m6i.large",
        MinCount=1,
        MaxCount=1,
        IamInstanceProfile={"Name": "admin"},
    )
    assert code == "UnauthorizedOperation"
    assert f"iam:PassRole on resource: arn:aws:iam::{NUMBER}:role/admin" in message
    iam.remove_role_from_instance_profile(InstanceProfileName="admin", RoleName="admin")
    iam.delete_instance_profile(InstanceProfileName="admin")
    iam.delete_role(RoleName="admin")


def test_an_explicit_deny_wins(client: Callable[..., Any]) -> None:
    deny = {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "ec2:*Vpcs", "Resource": "*"}}
    code, _, message = refusal(client("ec2", allow("ec2:*"), deny).describe_vpcs)
    assert code == "UnauthorizedOperation"
    assert "explicit deny" in message


def test_a_dry_run_is_judged_too(client: Callable[..., Any]) -> None:
    ec2 = client("ec2", allow("ec2:CreateVpc"), name="may")
    assert refusal(ec2.create_vpc, CidrBlock="10.4.0.0/16", DryRun=True)[0] == "DryRunOperation"
    ec2 = client("ec2", name="may-not")
    assert refusal(ec2.create_vpc, CidrBlock="10.4.0.0/16", DryRun=True)[0] == "UnauthorizedOperation"


def test_the_simulator_answers_as_the_calls_would(client: Callable[..., Any], judged: Sandbox) -> None:
    arn = f"arn:aws:iam::{NUMBER}:user/asker"
    iam = client(
        "iam",
        allow("iam:SimulatePrincipalPolicy", resource="arn:aws:iam::*:user/${aws:username}"),
        name="asker",
    )
    found = iam.simulate_principal_policy(
        PolicySourceArn=arn, ActionNames=["iam:SimulatePrincipalPolicy", "iam:GetRole"], ResourceArns=[arn]
    )["EvaluationResults"]
    assert {r["EvalActionName"]: r["EvalDecision"] for r in found} == {
        "iam:SimulatePrincipalPolicy": "allowed",
        "iam:GetRole": "implicitDeny",
    }
    other = f"arn:aws:iam::{NUMBER}:user/other"
    assert (
        refusal(iam.simulate_principal_policy, PolicySourceArn=other, ActionNames=["ec2:X"])[0]
        == "AccessDenied"
    )


def s3_calls(s3: Any, theirs: str, own: str) -> dict[str, tuple[str, Callable[..., Any], dict[str, Any]]]:
    """Calls about a bucket by the action that AWS wants for them."""
    there = {"Bucket": theirs, "Key": "k"}
    to = {"Bucket": own, "Key": "copy"}
    part = {**to, "UploadId": "x", "PartNumber": 1, "CopySource": there}
    acl = {"Bucket": theirs, "ACL": "private"}
    tag = {"Tagging": {"TagSet": []}}
    return {
        "a copy": ("s3:GetObject", s3.copy_object, {**to, "CopySource": there}),
        "a copy of a version": (
            "s3:GetObjectVersion",
            s3.copy_object,
            {**to, "CopySource": {**there, "VersionId": "v"}},
        ),
        "a part of a copy": ("s3:GetObject", s3.upload_part_copy, part),
        "who may": ("s3:PutBucketAcl", s3.put_bucket_acl, acl),
        "who may read one": ("s3:PutObjectAcl", s3.put_object_acl, {**there, "ACL": "public-read"}),
        "one for all": ("s3:PutObjectAcl", s3.put_object, {**to, "ACL": "public-read"}),
        "tags of one": ("s3:PutObjectTagging", s3.put_object_tagging, {**there, **tag}),
        "one with tags": ("s3:PutObjectTagging", s3.put_object, {**to, "Tagging": "a=b"}),
        "an older one": ("s3:GetObjectVersion", s3.get_object, {**there, "VersionId": "v"}),
        "older ones": ("s3:ListBucketVersions", s3.list_object_versions, {"Bucket": theirs}),
        "the end of an upload": (
            "s3:AbortMultipartUpload",
            s3.abort_multipart_upload,
            {**there, "UploadId": "x"},
        ),
        "the end of a policy": ("s3:DeleteBucketPolicy", s3.delete_bucket_policy, {"Bucket": theirs}),
        "a copy elsewhere": (
            "s3:PutReplicationConfiguration",
            s3.put_bucket_replication,
            {"Bucket": theirs, "ReplicationConfiguration": {"Role": "r", "Rules": []}},
        ),
    }


@pytest.mark.parametrize("what", s3_calls(boto3.client("s3", "us-east-1"), "x", "y"))
def test_a_call_to_s3_asks_for_what_aws_asks_for(
    client: Callable[..., Any], judged: Sandbox, what: str
) -> None:
    for name in ("theirs", "owned"):
        judged.client("s3").create_bucket(Bucket=name)
    judged.client("s3").put_object(Bucket="theirs", Key="k", Body=b"secret")
    # Whoever may do the most usual calls may not do this one.
    usual = allow("s3:ListBucket", "s3:PutObject", "s3:CreateBucket", "s3:DeleteObject", "s3:PutBucketPolicy")
    s3 = client("s3", usual, name=what.replace(" ", "-"))
    action, call, parameters = s3_calls(s3, "theirs", "owned")[what]
    code, _, message = refusal(call, **parameters)
    assert code == "AccessDenied"
    assert f"not authorized to perform: {action} on" in message


def test_session_keys_may_what_the_user_may_but_nothing_of_iam(judged: Sandbox) -> None:
    key, secret = judged.add_user("short-lived", allow("s3:CreateBucket", "iam:*"))

    def client(service: str, *keys: str) -> Any:
        session = boto3.Session(*keys)
        return session.client(service, region_name="us-east-1", endpoint_url=judged.endpoint)

    given = client("sts", key, secret).get_session_token(DurationSeconds=900)["Credentials"]
    keys = given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
    assert client("sts", *keys).get_caller_identity()["Arn"].endswith(":user/short-lived")
    client("s3", *keys).create_bucket(Bucket="of-a-session")
    judged.client("s3").delete_bucket(Bucket="of-a-session")
    assert refusal(client("s3", *keys).list_buckets)[0] == "AccessDenied"
    assert refusal(client("iam", *keys).list_users)[0] == "InvalidClientTokenId"
    again = refusal(client("sts", *keys).get_session_token)
    assert (again[0], again[2]) == ("AccessDenied", "Cannot call GetSessionToken with session credentials")
    long = refusal(client("sts", key, secret).get_session_token, DurationSeconds=129_601)
    assert long[0] == "ValidationError"
