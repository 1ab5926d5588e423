"""What is said and what is done are the same: what is left keeps its name, is said, and is repaired."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from pydantic import SecretStr

from prefect_coiled.aws import bucket, parameters
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cli import accounts as account_commands
from prefect_coiled.cli.common import tell_removal
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.doctor import examine
from prefect_coiled.errors import AccessDeniedError, NameTakenError, OptionsError, ProvisionError
from prefect_coiled.events import hearing
from prefect_coiled.notifications import read_notifications
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import (
    change_ingress,
    create_cluster,
    plan_sweep,
    remove_cluster,
    set_up_account,
    sweep,
)
from prefect_coiled.provision.clusters import find_cluster
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session

NUMBER = "123456789012"
Spec = Callable[..., ClusterSpec]


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> Iterator[None]:
    sandbox.reset()
    yield
    sandbox.faults([])
    sandbox.reset()


def failing(action: str, code: str, status: int = 403, **more: Any) -> dict[str, Any]:
    return {"service": "ec2", "action": action, "effect": "error", "code": code, "status": status, **more}


def test_a_cluster_keeps_its_name_until_nothing_is_left_of_it(
    session: Session, aws: Aws, spec: Spec, sandbox: Sandbox
) -> None:
    plan = spec(name="gone")
    create_cluster(plan)
    sandbox.faults([failing("DeleteSecurityGroup", "DependencyViolation", 400)])
    removal = remove_cluster(aws, "gone", None, patience=1.0)
    assert len(removal.left) == 2
    assert not removal.is_done
    # Its keys are gone all the same.
    assert parameters.find_parameters(aws, parameters.cluster_path("team", "gone")) == [
        parameters.intent_of("team", "gone")
    ]
    with pytest.raises(NameTakenError):
        create_cluster(spec(name="gone"))
    sandbox.faults([])
    again = remove_cluster(aws, "gone", plan.uid, patience=20.0)
    assert again.is_done
    assert parameters.read_parameter(aws, parameters.intent_of("team", "gone")) is None


def test_set_up_repairs_the_policy_of_the_role_and_the_names_of_the_vpc(
    session: Session, aws: Aws, sandbox: Sandbox, calls: Counter[str]
) -> None:
    sandbox.faults([failing("ModifyVpcAttribute", "UnauthorizedOperation", times=1)])
    with pytest.raises(AccessDeniedError):
        set_up_account("team", "us-east-1")
    sandbox.faults([])
    set_up_account("team", "us-east-1")
    ec2 = sandbox.client("ec2")
    (found,) = ec2.describe_vpcs(Filters=[{"Name": "tag:coiled-account", "Values": ["team"]}])["Vpcs"]
    names = ec2.describe_vpc_attribute(VpcId=found["VpcId"], Attribute="enableDnsHostnames")
    assert names["EnableDnsHostnames"]["Value"]
    iam = sandbox.client("iam")
    old = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="team", PolicyName="coiled-instance", PolicyDocument=json.dumps(old))
    set_up_account("team", "us-east-1")
    renewed = iam.get_role_policy(RoleName="team", PolicyName="coiled-instance")["PolicyDocument"]
    assert renewed != old
    # All is there: reads only.
    before = calls.copy()
    set_up_account("team", "us-east-1")
    assert {c for c in calls - before if not c.split(":")[1].startswith(("Describe", "Get", "List"))} == set()


def test_a_bucket_that_keeps_a_file_ends_in_words(aws: Aws, sandbox: Sandbox) -> None:
    name = bucket.ensure_bucket(aws, NUMBER)
    s3 = sandbox.client("s3")
    s3.put_object(Bucket=name, Key="wheels/x", Body=b"x")
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{name}/*",
    }
    s3.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    aws.stop = threading.Event()
    timer = threading.Timer(15, aws.stop.set)  # an endless loop ends as another error
    timer.start()
    with pytest.raises(AccessDeniedError, match=r"deleting 1 files of bucket.*wheels/x"):
        bucket.delete_bucket(aws, name)
    timer.cancel()


def test_the_command_set_up_makes_no_network_beside_a_users_own(
    session: Session, aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    account = Account("team", options={"network": own}, credentials=keys, endpoint_url=sandbox.endpoint)
    monkeypatch.setattr("prefect_coiled.blocks.loading.load_account", lambda slug: account)
    account_commands.set_up(account="team")
    ec2 = sandbox.client("ec2")
    assert ec2.describe_nat_gateways()["NatGateways"] == []
    assert ec2.describe_vpcs(Filters=[{"Name": "tag:coiled-account", "Values": ["team"]}])["Vpcs"] == []


def test_the_doctor_makes_no_network_beside_a_users_own_and_says_what_is_left(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    account = Account(
        "team",
        options={"network": own},
        credentials=keys,
        endpoint_url=sandbox.endpoint,
        sandbox=sandbox.info,
    )

    class Stuck:
        @property
        def scheduler_info(self) -> dict[str, Any]:
            raise ProvisionError("a worker", "it did not come")

        def close(self) -> None:
            raise ProvisionError("closing", "a machine stays")

    def sweep(*args: Any, **keywords: Any) -> None:
        error = ProvisionError("sweeping", "a group stays")
        error.left = {"sg-0123456789abcdef0": "it is in use"}
        raise error

    monkeypatch.setattr("prefect_coiled.doctor._cluster", lambda *args: Stuck())
    monkeypatch.setattr("prefect_coiled.doctor.sweep", sweep)
    told: list[str] = []
    with hearing(lambda event: told.append(event.step) if event.kind == "step" else None):
        found = examine(account)
    assert [step.name for step in found.steps if not step.ok] == ["cluster", "sweep"]
    assert found.left == ("sg",)
    ours = [{"Name": "tag:coiled-account", "Values": ["team"]}]
    assert sandbox.client("ec2").describe_vpcs(Filters=ours)["Vpcs"] == []
    assert "role" in told
    assert "network" not in told


def test_workers_that_are_added_cost_and_those_removed_do_not_and_both_are_told(
    session: Session, aws: Aws, spec: Spec, until: Callable[..., Any]
) -> None:
    plan = spec(n_workers=1)
    record = create_cluster(plan)
    launched = Launched(aws, plan, record, session.client_secrets, attached=False)  # type: ignore[arg-type]
    before = launched.cost()
    made = launched.add(9)
    assert "10 x" in str(launched.cost())
    assert str(launched.cost()) != str(before)
    year = record.created_at.replace(year=record.created_at.year + 1)
    if_all_stayed = launched.cost(until=year).total_usd
    launched.tell("cluster_ready", "ready")
    launched.terminate_workers([record.workers[0].instance_id])
    launched.terminate_workers([made[0].instance_id])
    in_a_year = launched.cost(until=year).total_usd
    assert in_a_year is not None
    assert if_all_stayed is not None
    assert 0 < in_a_year < if_all_stayed
    until(lambda: [r.event_type for r in read_notifications(aws)].count("delete_vm") == 2, 20)


def test_all_nat_gateways_of_a_zone_are_listed_and_go(session: Session, aws: Aws, sandbox: Sandbox) -> None:
    set_up_account("team", "us-east-1")
    ec2 = sandbox.client("ec2")
    nat = ec2.describe_nat_gateways()["NatGateways"][0]

    def tagged(kind: str) -> list[dict[str, Any]]:
        return [{"ResourceType": kind, "Tags": nat["Tags"]}]

    address = ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip"))["AllocationId"]
    ec2.create_nat_gateway(
        SubnetId=nat["SubnetId"], AllocationId=address, TagSpecifications=tagged("natgateway")
    )
    assert len(sweep("team", "us-east-1").removed["NAT gateway"]) == 2
    assert {n["State"] for n in ec2.describe_nat_gateways()["NatGateways"]} <= {"deleting", "deleted"}
    # An address that something else uses costs, and is said.
    interface = ec2.create_network_interface(SubnetId=nat["SubnetId"])["NetworkInterface"]
    kept = ec2.allocate_address(Domain="vpc", TagSpecifications=tagged("elastic-ip"))["AllocationId"]
    ec2.associate_address(AllocationId=kept, NetworkInterfaceId=interface["NetworkInterfaceId"])
    removal = sweep("team", "us-east-1")
    assert list(removal.left) == [kept]
    assert interface["NetworkInterfaceId"] in removal.left[kept]


def test_a_sweep_without_the_set_up_policy_says_what_it_leaves(
    session: Session, aws: Aws, sandbox: Sandbox
) -> None:
    ours = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team"}]
    specification = [{"ResourceType": "internet-gateway", "Tags": ours}]
    made = sandbox.client("ec2").create_internet_gateway(TagSpecifications=specification)
    sandbox.faults([failing("DeleteInternetGateway", "UnauthorizedOperation")])
    left = sweep("team", "us-east-1").left
    assert list(left) == [made["InternetGateway"]["InternetGatewayId"]]


def test_a_command_that_leaves_something_says_so_and_exits_with_1(
    session: Session,
    aws: Aws,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ec2 = sandbox.client("ec2")
    ours = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team"}]
    specification = [{"ResourceType": "elastic-ip", "Tags": ours}]
    kept = ec2.allocate_address(Domain="vpc", TagSpecifications=specification)["AllocationId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.associate_address(AllocationId=kept, NetworkInterfaceId=interface)
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    account = Account("team", credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
    monkeypatch.setattr("prefect_coiled.blocks.loading.load_account", lambda slug: account)
    with pytest.raises(typer.Exit) as ended:
        account_commands.account_destroy("team", yes=True)
    assert ended.value.exit_code == 1
    assert f"Left: {kept}, " in capsys.readouterr().out


def test_a_plan_too_large_for_a_parameter_is_refused_before_anything_is_made(
    session: Session, aws: Aws, spec: Spec, calls: Counter[str]
) -> None:
    plan = spec(tags={f"k{i}-{secrets.token_hex(10)}": secrets.token_hex(120) for i in range(39)})
    with pytest.raises(OptionsError, match=r"a parameter of SSM holds 4,096"):
        create_cluster(plan)
    assert set(calls) <= {"sts:GetCallerIdentity"}


def test_the_firewall_of_a_starting_cluster_answers_in_words(session: Session, aws: Aws, spec: Spec) -> None:
    plan = spec(name="starting")
    parameters.claim(aws, parameters.intent_of("team", "starting"), plan.encode(), {})
    with pytest.raises(ProvisionError, match="it is starting or being removed"):
        change_ingress("team", "us-east-1", "starting", list(plan.ingress))


def test_a_sweep_says_which_cluster_is_too_young_for_it_and_until_when(
    session: Session, aws: Aws, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = spec(name="young")
    name = parameters.intent_of("team", "young")
    parameters.claim(aws, name, plan.encode(), {})
    planned = {change.resource_id: change for change in plan_sweep(aws).left}
    removal = sweep("team", "us-east-1")
    tell_removal(removal)
    for said in (planned[name].why, removal.left[name], capsys.readouterr().out):
        assert re.search(r"of cluster young, asked for \d minutes ago.*dead in (29|30) minutes", said), said
    # It is nothing that should be gone.
    assert removal.is_done
    assert parameters.read_parameter(aws, name) is not None


def test_a_change_of_the_firewall_does_not_make_a_cluster_young(
    session: Session, aws: Aws, spec: Spec
) -> None:
    plan = spec()
    create_cluster(plan)
    written = aws.call("ssm:GetParameter", "", Name=parameters.intent_of("team", plan.name))["Parameter"]
    for rules in (list(plan.ingress), []):
        change_ingress("team", "us-east-1", plan.name, rules)
    again = aws.call("ssm:GetParameter", "", Name=parameters.intent_of("team", plan.name))["Parameter"]
    assert (again["Version"], again["LastModifiedDate"]) == (written["Version"], written["LastModifiedDate"])
    found = find_cluster(aws, plan.name)
    assert found is not None
    assert found[0].ingress == ()
