"""A whole life with exactly the shipped policies: what they permit is enough, and none of it is idle."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr

from prefect_coiled.aws import baked_images, caller, ecr, iam_role, instances, log_events, quotas
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.foresight import foresee
from prefect_coiled.aws.kinds import KINDS, drop, find
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.price_list import find_prices
from prefect_coiled.cluster.request import Request
from prefect_coiled.environment import Locked
from prefect_coiled.errors import AccessDeniedError, ProvisionError
from prefect_coiled.options import RegistryOptions
from prefect_coiled.plan.actions import ACTIONS
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.containers import ContainerImage, container_image
from prefect_coiled.plan.machine_policies import bucket_name
from prefect_coiled.plan.policies import iam_policies, permitting_statements
from prefect_coiled.plan.quotas import machine_quota
from prefect_coiled.provision import (
    add_workers,
    change_ingress,
    create_cluster,
    delete_cluster,
    destroy_account,
    set_up_account,
    sweep,
    take_inventory,
)
from prefect_coiled.provision.obstacles import find_obstacles
from prefect_coiled.records import ClusterRecord
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.sandbox.iam.decide import Request as Asked
from prefect_coiled.sandbox.iam.decide import decide
from prefect_coiled.tasks.images import create_image
from prefect_coiled.tasks.steps import Session, use_session

# A whole life, of two set-ups and several clusters, is what all of these tests look at.
pytestmark = pytest.mark.timeout(600)

NUMBER = "123456789012"
READS = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
SHIPPED = iam_policies("team", aws_account_id=NUMBER)
Decision = dict[str, Any]


@pytest.fixture(scope="module")
def own_sandbox() -> Iterator[Sandbox]:
    """A sandbox in which IAM judges."""
    with Sandbox({"boot": "none", "iam": "on"}) as running:
        yield running


@pytest.fixture(scope="module")
def door(own_sandbox: Sandbox) -> Callable[..., Aws]:
    """The door of a new user with some of the policies."""

    def open_as(name: str, *policies: Any) -> Aws:
        key, secret = own_sandbox.add_user(name, *policies)
        keys = CredentialSource(key, SecretStr(secret))
        endpoint, info = own_sandbox.endpoint, own_sandbox.info
        return Account("team", credentials=keys, endpoint_url=endpoint, sandbox=info).door("us-east-1")

    return open_as


def plan(aws: Aws, **keywords: Any) -> ClusterSpec:
    # A tag that many companies want, and that IAM does not tell from ours.
    request = Request({}, n_workers=2, tags={"Owner": "alice"}, **keywords)
    account = Account("team", endpoint_url=aws.endpoint_url)
    now = datetime.now(timezone.utc)
    return request.spec(account, "tester", own_cidr=lambda: "192.0.2.7/32", now=now)


def push_index(sandbox: Sandbox, repository: str) -> None:
    """Push an image for one platform, told in its manifest."""
    media = "application/vnd.oci.image.index.v1+json"
    manifest = {"mediaType": media, "manifests": [{"platform": {"architecture": "amd64"}}]}
    sandbox.client("ecr").put_image(
        repositoryName=repository, imageManifest=json.dumps(manifest), imageTag="one"
    )


def own_image(spec: ClusterSpec) -> ContainerImage:
    return container_image("one", RegistryOptions(), account="team", number=NUMBER, region=spec.region)


def lose_a_zone(sandbox: Sandbox, zone: str) -> None:
    """Take a zone's private subnet away, with its route table, as if the zone were new."""
    ec2 = sandbox.client("ec2")
    wanted = [{"Name": "tag:coiled-zone", "Values": [zone]}]
    (table,) = ec2.describe_route_tables(Filters=wanted)["RouteTables"]
    endpoints = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    table_id = table["RouteTableId"]
    for endpoint in endpoints:
        ec2.modify_vpc_endpoint(VpcEndpointId=endpoint["VpcEndpointId"], RemoveRouteTableIds=[table_id])
    for association in table["Associations"]:
        ec2.disassociate_route_table(AssociationId=association["RouteTableAssociationId"])
        ec2.delete_subnet(SubnetId=association["SubnetId"])
    ec2.delete_route_table(RouteTableId=table_id)


def name_servers(sandbox: Sandbox) -> None:
    """DHCP options as each VPC of AWS has them; the sandbox's have none."""
    ec2 = sandbox.client("ec2")
    servers = [{"Key": "domain-name-servers", "Values": ["AmazonProvidedDNS"]}]
    made = ec2.create_dhcp_options(DhcpConfigurations=servers)["DhcpOptions"]["DhcpOptionsId"]
    for vpc in ec2.describe_vpcs(Filters=[{"Name": "tag:coiled-account", "Values": ["team"]}])["Vpcs"]:
        ec2.associate_dhcp_options(DhcpOptionsId=made, VpcId=vpc["VpcId"])


def bake(user: Aws, record: ClusterRecord, locked: Locked) -> str:
    """An image of a machine that is there; what installs on a builder needs no permission."""
    name = bucket_name("team", NUMBER, "us-east-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baked_images, "AVAILABLE", 30.0)
        # Of other packages than the cluster's, so that its list has to be read.
        other = locked.lock.model_copy(update={"wheels": (*locked.lock.wheels, locked.lock.uv)})
        return create_image(user, record.workers[0], "coiled-team-life", other, name).image_id


@pytest.fixture(scope="module")
def life(
    own_sandbox: Sandbox, door: Callable[..., Aws], prefect_server: None, locked: Locked
) -> dict[str, list[Decision]]:
    """What IAM was asked in the life of an account, by user; nothing of it was denied."""
    installer = door("installer", SHIPPED["setup"], SHIPPED["ongoing"])
    user = door("user", SHIPPED["ongoing"])
    own_sandbox.client("ec2").create_key_pair(KeyName="mine")
    with use_session(Session(installer)):
        set_up_account("team", "us-east-1")
        lose_a_zone(own_sandbox, "us-east-1f")
        set_up_account("team", "us-east-1")
        iam_role.attach_policy(installer, READS)
        iam_role.detach_policy(installer, READS)
    with use_session(Session(user)):
        foresee(user, caller.find_caller(user))
        spec = plan(user, name="life", key_name="mine")
        record = create_cluster(spec)
        name_servers(own_sandbox)
        assert find_obstacles(user, spec) == []
        add_workers(spec, record, 1, "more")
        change_ingress("team", "us-east-1", "life", [])
        take_inventory(user)
        instances.console_output(user, record.scheduler.instance_id)
        instances.check_instance_types(user, ["m6i.xlarge"])
        quota = machine_quota("m6i.xlarge", spot=False)
        assert quota is not None
        quotas.find_use(user, quota)
        quotas.on_free_plan(user)
        find_prices(user, ["x9.huge"], spot=["m6i.xlarge"])
        everybody = [m.instance_id for m in (record.scheduler, *record.workers)]
        list(log_events.read_logs(user, [*everybody, *(f"i-{n:08x}" for n in range(20))]))
        push_index(own_sandbox, "coiled-team")
        ecr.check_image(user, own_image(spec), "x86_64")
        ecr.find_images(user)
        image = bake(installer, record, locked)
        delete_cluster("team", "us-east-1", "life")
        sweep("team", "us-east-1")
        # Machines from an image of the account's own, with wheels in its bucket.
        with use_session(Session(user)) as own:
            own.locked = locked
            spec = plan(user, name="baked").model_copy(update={"image_ready": False})
            assert create_cluster(spec)
            templates = own_sandbox.client("ec2").describe_launch_template_versions(
                Versions=["$Latest"], Filters=[{"Name": "image-id", "Values": [image]}]
            )
            assert templates
        delete_cluster("team", "us-east-1", "baked")
        assert sweep("team", "us-east-1").left == {}
        for row in (KINDS["image"], KINDS["snapshot"]):
            for item in find(installer, row):
                drop(installer, row, [item], 60.0)
        # The NAT gateway is gone with the sweep: the next cluster makes another, without the set-up policy.
        create_cluster(plan(user, name="again"))
        delete_cluster("team", "us-east-1", "again")
    # A role from before its boundary gets it, so that it can be taken down.
    own_sandbox.client("iam").delete_role_permissions_boundary(RoleName="team")
    with use_session(Session(installer)):
        destroy_account("team", "us-east-1")
    decisions = own_sandbox.decisions()
    # What is an administrator's to remove is tried, and left.
    assert {d["action"] for d in decisions if not d["allowed"]} == {"iam:ListPolicyVersions"}
    allowed = [d for d in decisions if d["allowed"]]
    return {name: [d for d in allowed if d["principal"].endswith(name)] for name in ("installer", "user")}


def without(policy: dict[str, Any], action: str) -> dict[str, Any]:
    changed = copy.deepcopy(policy)
    for statement in changed["Statement"]:
        statement["Action"] = [a for a in statement["Action"] if a != action]
    changed["Statement"] = [s for s in changed["Statement"] if s["Action"]]
    return changed


def denied(policies: list[dict[str, Any]], decisions: list[Decision]) -> bool:
    return any(
        not decide(policies, Asked(d["action"], d["resource"], d["context"])).allowed for d in decisions
    )


def test_a_whole_life_passes_with_the_shipped_policies(life: dict[str, list[Decision]]) -> None:
    assert len(life["installer"]) > 100
    assert not denied([SHIPPED["setup"], SHIPPED["ongoing"]], life["installer"])
    assert not denied([SHIPPED["ongoing"]], life["user"])


def test_what_is_made_is_made_by_the_keys_of_users_of_the_account(life: dict[str, list[Decision]]) -> None:
    for name, made in (("installer", "ec2:CreateVpc"), ("user", "ec2:RunInstances")):
        assert {d["principal"] for d in life[name]} == {f"arn:aws:iam::{NUMBER}:user/{name}"}
        assert made in {d["action"] for d in life[name]}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        (name, action)
        for name in ("setup", "ongoing")
        for action in sorted(
            {a for s in SHIPPED[name]["Statement"] if s["Effect"] == "Allow" for a in s["Action"]}
        )
    ],
)
def test_taking_one_action_away_is_noticed(life: dict[str, list[Decision]], name: str, action: str) -> None:
    changed = {**SHIPPED, name: without(SHIPPED[name], action)}
    installer = [changed["setup"], changed["ongoing"]]
    assert denied(installer, life["installer"]) or denied([changed["ongoing"]], life["user"])


@pytest.mark.parametrize(
    ("name", "sid"),
    [
        (n, s["Sid"])
        for n in ("setup", "ongoing")
        for s in SHIPPED[n]["Statement"]
        if s["Effect"] == "Allow"  # what is denied is tried further down
    ],
)
def test_no_statement_is_idle(life: dict[str, list[Decision]], name: str, sid: str) -> None:
    kept = {**SHIPPED[name], "Statement": [s for s in SHIPPED[name]["Statement"] if s["Sid"] != sid]}
    changed = {**SHIPPED, name: kept}
    installer = [changed["setup"], changed["ongoing"]]
    assert denied(installer, life["installer"]) or denied([changed["ongoing"]], life["user"])


def test_without_the_setup_policy_nothing_is_set_up_and_the_error_says_what_to_add(
    door: Callable[..., Aws], life: dict[str, list[Decision]]
) -> None:
    # Neither is enough alone.
    assert denied([SHIPPED["setup"]], life["installer"])
    poor = door("poor", SHIPPED["ongoing"])
    with use_session(Session(poor)), pytest.raises(AccessDeniedError) as caught:
        set_up_account("team", "us-east-1")
    error = caught.value
    assert error.resource.startswith("arn:aws:")
    assert error.action in [action for statement in error.statements for action in statement["Action"]]
    text = str(error)
    assert "Attach the setup policy (`prefect-coiled policies setup --account team`)" in text
    _, _, shown = text.partition("or add this statement: ")
    # What it says is what helps, added to a user that may do nothing else.
    policies = [{"Version": "2012-10-17", "Statement": json.loads(shown)}]
    called = [d for d in life["installer"] if d["call"] == error.operation]
    assert called
    assert not denied(policies, called)


def calls_of(decision: Decision) -> list[str]:
    """The rows of the table that ask for this; a call to S3 shows its method and permission alone."""
    if not decision["call"].startswith("s3:"):
        return [decision["call"]]
    action = decision["action"]
    rows = {c: [g.action for g in row.grants] for c, row in ACTIONS.items() if c.startswith("s3:")}
    return [call for call, actions in rows.items() if action in actions]


def test_what_is_offered_for_a_call_lets_it_pass_by_itself(life: dict[str, list[Decision]]) -> None:
    asked: dict[str, list[Decision]] = {}
    for decision in (*life["installer"], *life["user"]):
        for call in calls_of(decision):
            asked.setdefault(call, []).append(decision)
    refused = []
    for call, decisions in asked.items():
        found = permitting_statements(call, "team")
        assert found is not None, call
        if denied([{"Version": "2012-10-17", "Statement": list(found[1])}], decisions):
            refused.append(call)
    assert refused == []
    assert set(asked) == {c for c, row in ACTIONS.items() if row.grants}


def test_what_would_be_denied_is_foreseen(door: Callable[..., Aws], life: dict[str, list[Decision]]) -> None:
    cautious = door("cautious", without(SHIPPED["ongoing"], "ec2:RunInstances"))
    found = foresee(cautious, caller.find_caller(cautious))
    assert {d.action for d in found if d.phase == "ongoing"} == {"ec2:RunInstances"}
    allowed = [s for s in SHIPPED["setup"]["Statement"] if s["Effect"] == "Allow"]
    setup = {a for s in allowed for a in s["Action"]} - {"iam:PassRole"}
    assert {d.action for d in found if d.phase == "setup"} >= setup - {"ec2:CreateTags"}
    everything = door("everything", SHIPPED["setup"], SHIPPED["ongoing"])
    assert foresee(everything, caller.find_caller(everything)) == ()


KEY = f"arn:aws:kms:us-east-1:{NUMBER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture
def own_key(own_sandbox: Sandbox, life: dict[str, list[Decision]]) -> Iterator[None]:
    """The AWS account encrypts disks with a key of its own; account "team" is set up."""
    with use_session(Session(sandbox_door(own_sandbox))):
        set_up_account("team", "us-east-1")
    own_sandbox.set(disk_key=KEY)
    yield
    own_sandbox.set(disk_key="")


def sandbox_door(sandbox: Sandbox) -> Aws:
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    account = Account("team", credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
    return account.door("us-east-1")


def test_a_key_that_may_not_be_used_is_said_before_anything_is_made(
    door: Callable[..., Aws], own_sandbox: Sandbox, own_key: None, calls: Counter[str]
) -> None:
    aws = door("keyless", SHIPPED["ongoing"])
    with use_session(Session(aws)), pytest.raises(AccessDeniedError) as caught:
        create_cluster(plan(aws, name="keyless"))
    text = str(caught.value)
    assert KEY in text
    assert f"prefect-coiled policies ongoing --account team --kms-key {KEY}" in text
    assert calls["ec2:RunInstances"] == calls["ssm:PutParameter"] == 0


def test_with_the_policies_that_are_told_the_key_machines_stay(
    door: Callable[..., Aws], own_sandbox: Sandbox, own_key: None
) -> None:
    told = iam_policies("team", aws_account_id=NUMBER, kms_key=KEY, region="us-east-1")["ongoing"]
    aws = door("keyed", told)
    with use_session(Session(aws)):
        record = create_cluster(plan(aws, name="keyed"))
        assert len(instances.find_instances(aws, "keyed", states=["running"])) == 1 + len(record.workers)
        delete_cluster("team", "us-east-1", "keyed")


def test_where_it_cannot_be_foreseen_the_end_of_the_machine_says_it(
    door: Callable[..., Aws], own_sandbox: Sandbox, own_key: None
) -> None:
    aws = door("unforeseen", without(SHIPPED["ongoing"], "iam:SimulatePrincipalPolicy"))
    with use_session(Session(aws)), pytest.raises(ProvisionError, match=r"Client\.InternalError.*--kms-key"):
        create_cluster(plan(aws, name="unforeseen"))
    assert instances.find_instances(aws, "unforeseen") == []


EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
OPEN = {"HttpTokens": "optional", "HttpEndpoint": "enabled"}
PLAIN = [{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": False, "VolumeSize": 50}}]
CIPHERED = [{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True, "VolumeSize": 50}}]
CLOSED = {"HttpTokens": "required"}


@pytest.mark.parametrize("by_template", [False, True], ids=["in the call", "by a template"])
@pytest.mark.parametrize(
    ("metadata", "disks"),
    [(OPEN, CIPHERED), (None, CIPHERED), (CLOSED, PLAIN), (CLOSED, None), (CLOSED, [*CIPHERED, *PLAIN])],
)
def test_no_machine_with_open_metadata_or_a_plain_disk_is_launched_even_by_who_may_do_everything(
    own_sandbox: Sandbox,
    door: Callable[..., Aws],
    life: dict[str, list[Decision]],
    request: pytest.FixtureRequest,
    metadata: Any,
    disks: Any,
    by_template: bool,
) -> None:
    aws = door(f"careless-{abs(hash(request.node.name))}", SHIPPED["ongoing"], EVERYTHING)
    ec2 = aws.session.client("ec2", "us-east-1", endpoint_url=own_sandbox.endpoint)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def launch(options: Any, blocks: Any) -> str:
        said = {"MetadataOptions": options, "BlockDeviceMappings": blocks}
        said = {name: value for name, value in said.items() if value}
        if by_template:
            name = f"careless-{abs(hash((request.node.name, str(said))))}"
            ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=said)
            said = {"LaunchTemplate": {"LaunchTemplateName": name}}
        made = ec2.run_instances(ImageId=image, InstanceType="t3.small", MinCount=1, MaxCount=1, **said)
        return str(made["Instances"][0]["InstanceId"])

    with pytest.raises(ClientError, match="explicit deny"):
        launch(metadata, disks)
    ec2.terminate_instances(InstanceIds=[launch(CLOSED, CIPHERED)])


def test_a_policy_of_another_account_opens_nothing(
    door: Callable[..., Aws], life: dict[str, list[Decision]]
) -> None:
    others = iam_policies("team-2", aws_account_id=NUMBER)
    stranger = door("stranger", others["setup"], others["ongoing"])
    with use_session(Session(stranger)), pytest.raises(AccessDeniedError):
        set_up_account("team", "us-east-1")
