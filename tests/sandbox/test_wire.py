"""Faults, the record of calls, the guard, and the metadata service: what happens in front of moto."""

import http.client
import json
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from prefect_coiled.errors import SandboxError

ONCE = Config(retries={"total_max_attempts": 1})


FOREIGN = (
    {"Origin": "https://example.com"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-origin"},
    # A name that leads to 127.0.0.1 by now (DNS rebinding).
    {"Host": "evil.example.com"},
    {"Host": "evil.example.com:{port}"},
    {"Host": "127.0.0.1.evil.example.com:{port}"},
    {"Host": "127.0.0.1:{port}@evil.example.com:{port}"},
    {"Host": ""},
)


@pytest.mark.parametrize("foreign", FOREIGN, ids=str)
@pytest.mark.parametrize("path", ["/_sandbox/health", "/_sandbox/proof/1", "/_sandbox/checkip"])
def test_a_web_page_is_refused_even_where_it_knows_the_secret(sandbox, path, foreign):
    netloc = urlsplit(sandbox.endpoint).netloc
    ours = {"Authorization": f"Bearer {sandbox.info.secret_access_key}"}
    for more, status in ((foreign, 403), ({}, 200)):
        connection = http.client.HTTPConnection(netloc, timeout=5)
        told = {name: text.format(port=netloc.rpartition(":")[2]) for name, text in more.items()}
        connection.request("GET", path, headers={**ours, **told})
        assert connection.getresponse().status == status
        connection.close()


def test_a_signed_call_of_a_web_page_is_refused(sandbox):
    ec2 = sandbox.client("ec2", config=ONCE)
    ec2.meta.events.register(
        "before-send.ec2", lambda request, **_: request.headers.update(Origin="https://example.com")
    )
    with pytest.raises(ResponseParserError, match="local AWS clients only"):
        ec2.describe_vpcs()


def test_the_calls_are_recorded_by_service_and_action(sandbox, ec2):
    sandbox.clear_calls()
    ec2.describe_vpcs()
    sandbox.client("logs").describe_log_groups()
    sandbox.client("iam").list_roles()
    sandbox.client("s3").list_buckets()
    assert sandbox.calls() == [
        ("ec2", "DescribeVpcs"),
        ("logs", "DescribeLogGroups"),
        ("iam", "ListRoles"),
        ("s3", "GET"),
    ]


def test_connections_are_kept_alive(sandbox, ec2):
    connection = http.client.HTTPConnection(urlsplit(sandbox.endpoint).netloc, timeout=5)
    ours = {"Authorization": f"Bearer {sandbox.info.secret_access_key}"}
    connection.request("GET", "/_sandbox/health", headers=ours)
    assert connection.getresponse().read()
    used = connection.sock
    connection.request("GET", "/_sandbox/calls", headers=ours)
    assert connection.getresponse().read()
    assert connection.sock is used
    connection.close()


@pytest.mark.parametrize("service", ["ec2", "ssm", "iam", "s3", "logs"])
def test_an_error_comes_in_the_protocol_of_the_service(sandbox, service):
    call = {
        "ec2": lambda client: client.describe_vpcs(),
        "ssm": lambda client: client.get_parameter(Name="x"),
        "iam": lambda client: client.list_roles(),
        "s3": lambda client: client.list_objects_v2(Bucket="b"),
        "logs": lambda client: client.describe_log_groups(),
    }[service]
    sandbox.faults(
        [{"effect": "error", "service": service, "code": "AccessDenied", "status": 403, "message": "a < b"}]
    )
    with pytest.raises(ClientError) as caught:
        call(sandbox.client(service, config=ONCE))
    assert caught.value.response["Error"]["Code"] == "AccessDenied"
    assert caught.value.response["Error"]["Message"] == "a < b"
    assert sandbox.struck()[0]["effect"] == "error"


def outcome(ec2):
    try:
        ec2.describe_vpcs()
    except ClientError as error:
        return error.response["Error"]["Code"]
    return "ok"


def test_a_throttle_strikes_as_often_as_it_says(sandbox, ec2):
    rule = {"effect": "error", "action": "DescribeVpcs", "code": "RequestLimitExceeded", "status": 503}
    sandbox.faults([{**rule, "skip": 1, "times": 2}])
    sandbox.clear_calls()
    once = sandbox.client("ec2", config=ONCE)
    told = [outcome(once) for _ in range(4)]
    assert told == ["ok", "RequestLimitExceeded", "RequestLimitExceeded", "ok"]


def test_a_rule_looks_at_parameters(world):
    match = {"InstanceType": "t3.small"}
    rule = {"effect": "error", "action": "RunInstances", "code": "Unsupported", "status": 400, "match": match}
    world.sandbox.set(boot="none")
    world.sandbox.faults([rule])
    with pytest.raises(ClientError, match="Unsupported"):
        world.run(InstanceType="t3.small")
    assert world.run(InstanceType="t3.micro")


@pytest.mark.parametrize(
    ("effect", "made"), [("error", 0), ("drop", 0), ("error_after", 1), ("drop_after", 1)]
)
def test_a_fault_before_has_no_effect_and_a_fault_after_has(sandbox, ec2, effect, made):
    before = len(ec2.describe_vpcs()["Vpcs"])
    sandbox.faults([{"effect": effect, "action": "CreateVpc"}])
    once = sandbox.client("ec2", config=ONCE)
    with pytest.raises((ClientError, HTTPClientError, ConnectionError)):
        once.create_vpc(CidrBlock="10.0.0.0/16")
    assert len(ec2.describe_vpcs()["Vpcs"]) - before == made


def test_a_delay_delays(sandbox, ec2):
    sandbox.faults([{"effect": "latency", "action": "DescribeVpcs", "seconds": 0.3}])
    before = time.monotonic()
    ec2.describe_vpcs()
    assert time.monotonic() - before >= 0.3


def test_a_new_resource_is_invisible_for_a_while(sandbox, ec2, refused, until):
    sandbox.faults([{"effect": "invisible", "seconds": 0.5}])
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    assert refused(ec2.describe_vpcs, VpcIds=[vpc]) == "InvalidVpcID.NotFound"

    def visible():
        try:
            return ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
        except ClientError:
            return None

    assert until(visible)


def test_chance_is_repeatable(sandbox, ec2):
    once = sandbox.client("ec2", config=ONCE)

    def series():
        sandbox.faults([{"effect": "error", "action": "DescribeVpcs", "probability": 0.5}], seed=7)
        return [outcome(once) for _ in range(12)]

    first = series()
    assert first == series()
    assert set(first) == {"ok", "InternalError"}


def test_a_rule_with_a_typo_is_refused(sandbox):
    with pytest.raises(SandboxError, match="acton"):
        sandbox.faults([{"effect": "error", "acton": "RunInstances"}])
    with pytest.raises(SandboxError, match="explode"):
        sandbox.faults([{"effect": "explode"}])


class Metadata:
    def __init__(self, sandbox, name):
        self.base = f"{sandbox.endpoint}{sandbox.instances()[name]['metadata']}/latest/"
        self.token = self.call("api/token", "PUT", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"})

    def call(self, path, method="GET", **headers):
        request = urllib.request.Request(self.base + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()

    def get(self, path):
        return self.call(path, **{"X-aws-ec2-metadata-token": self.token})

    def status(self, path, method="GET", **headers):
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.call(path, method, **headers)
        caught.value.close()
        return caught.value.code


def test_the_metadata_service_wants_a_token_when_required(world):
    world.sandbox.set(boot="none")
    (strict,) = world.run(MetadataOptions={"HttpTokens": "required"})
    (lax,) = world.run()
    at = Metadata(world.sandbox, strict["InstanceId"])
    assert at.get("meta-data/instance-id") == strict["InstanceId"]
    assert at.get("meta-data/local-ipv4") == strict["PrivateIpAddress"]
    assert at.get("meta-data/placement/region") == "us-east-1"
    assert "placement/" in at.get("meta-data/").split()
    assert json.loads(at.get("dynamic/instance-identity/document"))["region"] == "us-east-1"
    assert at.status("meta-data/instance-id") == 401
    assert at.status("meta-data/instance-id", **{"X-aws-ec2-metadata-token": "wrong"}) == 401
    assert at.status("api/token", "PUT") == 400
    assert at.status("meta-data/spot/instance-action", **{"X-aws-ec2-metadata-token": at.token}) == 404
    old = Metadata(world.sandbox, lax["InstanceId"])
    assert old.call("meta-data/instance-id") == lax["InstanceId"]


def test_boto3_inside_an_instance_has_the_role_of_its_profile(world, trust):
    iam = world.sandbox.client("iam")
    name = f"node-{world.vpc}"
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    ask = (
        '#!/bin/sh\nexec python -c \'\nimport boto3\ns = boto3.Session(region_name="us-east-1")\n'
        'print(s.get_credentials().method, s.client("sts").get_caller_identity()["Arn"], "end")\n\'\n'
    )
    options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
    instance = world.boot(ask, IamInstanceProfile={"Name": name}, MetadataOptions=options)
    method, arn, _ = world.prints(instance, "end").split()
    assert method == "iam-role"
    assert f":assumed-role/{name}/{instance}" in arn
    calls = world.sandbox.calls(access_key=None)
    assert ("sts", "GetCallerIdentity") in calls
    assert ("sts", "GetCallerIdentity") not in world.sandbox.calls()
