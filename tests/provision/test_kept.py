"""By what a scheduler replaces workers: launch templates that nobody else may use, and to nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from prefect_coiled.aws import instances
from prefect_coiled.aws.door import Aws
from prefect_coiled.events import Event, hearing
from prefect_coiled.node.aws import own_client
from prefect_coiled.plan.cluster import ClusterSpec, template_name
from prefect_coiled.plan.kept import MOST_WAYS, kept_names
from prefect_coiled.provision import create_cluster, delete_cluster, remove_cluster
from prefect_coiled.records import ClusterRecord
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session
from tests.provision.laid import live

Spec = Callable[..., ClusterSpec]
Machine = Callable[..., Any]
DENIED, MAY = "UnauthorizedOperation", "DryRunOperation"


@pytest.fixture
def machine(sandbox: Sandbox) -> Machine:
    """A client of AWS with the credentials of a machine, from its metadata."""

    def client(instance_id: str, service: str = "ec2") -> Any:
        path = sandbox.instances()[instance_id]["metadata"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"{sandbox.endpoint}{path}")
            return own_client(service, "us-east-1", sandbox.endpoint)

    return client


@pytest.fixture
def made(session: Session, spec: Spec, aws: Aws) -> Iterator[tuple[ClusterSpec, ClusterRecord]]:
    """A cluster of one worker."""
    plan = spec(n_workers=1)
    yield plan, create_cluster(plan)
    remove_cluster(aws, plan.name, plan.uid)


def answer(call: Callable[..., Any], **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return str(caught.value.response["Error"]["Code"])


def by(name: str, **more: Any) -> dict[str, Any]:
    """A launch by a template, as it would be judged."""
    return {
        "LaunchTemplate": {"LaunchTemplateName": name},
        "MinCount": 1,
        "MaxCount": 1,
        "DryRun": True,
        **more,
    }


@pytest.mark.long
def test_templates_say_all_there_is_to_say_and_name_the_scheduler(
    made: tuple[ClusterSpec, ClusterRecord], sandbox: Sandbox
) -> None:
    plan, record = made
    ec2 = sandbox.client("ec2")
    found = ec2.describe_launch_templates(LaunchTemplateNames=list(kept_names(plan)))["LaunchTemplates"]
    assert len(found) == MOST_WAYS
    arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{record.scheduler.instance_id}"
    assert {t["Value"] for one in found for t in one["Tags"] if t["Key"] == "coiled-launcher"} == {arn}
    (worker,) = record.workers
    described = ec2.describe_launch_template_versions(LaunchTemplateName=kept_names(plan)[0], Versions=["1"])
    data = described["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert data["InstanceType"] == worker.instance_type
    assert data["NetworkInterfaces"][0]["SubnetId"] == worker.subnet_id
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert {entry["ResourceType"] for entry in data["TagSpecifications"]} == {
        "instance",
        "volume",
        "network-interface",
    }


def test_what_the_scheduler_launches_is_a_worker_of_its_cluster(
    made: tuple[ClusterSpec, ClusterRecord], judged: Sandbox, machine: Machine, aws: Aws
) -> None:
    plan, record = made
    scheduler = machine(record.scheduler.instance_id)
    launch = by(kept_names(plan)[0], DryRun=False, ClientToken="t")
    (one,) = scheduler.run_instances(**launch)["Instances"]
    (again,) = scheduler.run_instances(**launch)["Instances"]
    assert one["InstanceId"] == again["InstanceId"]
    workers = {m.instance_id: m for m in instances.find_instances(aws, plan.name, uid=plan.uid)}
    (old,) = record.workers
    new = workers[one["InstanceId"]]
    assert (new.role, new.instance_type, new.subnet_id) == ("worker", old.instance_type, old.subnet_id)
    (there,) = [i for i in live(judged) if i["InstanceId"] == one["InstanceId"]]
    volumes = [m["Ebs"]["VolumeId"] for m in there["BlockDeviceMappings"]]
    ec2 = judged.client("ec2")
    for volume in ec2.describe_volumes(VolumeIds=volumes)["Volumes"]:
        assert {"Key": "coiled-cluster-uid", "Value": plan.uid} in volume["Tags"]
        assert volume["Encrypted"]
    assert "PublicIpAddress" not in there


@pytest.mark.long
def test_nobody_but_the_scheduler_of_the_cluster_launches_by_its_templates(
    made: tuple[ClusterSpec, ClusterRecord],
    spec: Spec,
    aws: Aws,
    judged: Sandbox,
    machine: Machine,
) -> None:
    plan, record = made
    theirs = spec(n_workers=1)
    other = create_cluster(theirs)
    try:
        for name in kept_names(plan):
            assert answer(machine(record.scheduler.instance_id).run_instances, **by(name)) == MAY
            for stranger in (record.workers[0], other.scheduler, other.workers[0]):
                assert answer(machine(stranger.instance_id).run_instances, **by(name)) == DENIED
        # Nor by that for more workers, which leaves things open.
        launch = by(template_name(plan, "worker"), InstanceType="m6i.large")
        assert answer(machine(record.scheduler.instance_id).run_instances, **launch) == DENIED
    finally:
        remove_cluster(aws, theirs.name, theirs.uid)


def others(sandbox: Sandbox, record: ClusterRecord) -> dict[str, dict[str, Any]]:
    """What a launch by the template might say besides."""
    ec2 = sandbox.client("ec2")
    subnets = ec2.describe_subnets()["Subnets"]
    (worker,) = record.workers
    another = next(s["SubnetId"] for s in subnets if s["SubnetId"] != worker.subnet_id)
    groups = ec2.describe_security_groups()["SecurityGroups"]
    theirs = [{"Key": "coiled-account", "Value": "team-2"}]
    market = {"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}}
    interface = {"DeviceIndex": 0, "SubnetId": another, "AssociatePublicIpAddress": True}
    return {
        "another type": {"InstanceType": "m6i.32xlarge"},
        "other user data": {"UserData": base64.b64encode(b"#!/bin/sh").decode()},
        "another subnet": {"NetworkInterfaces": [interface]},
        "another group": {"SecurityGroupIds": [groups[0]["GroupId"]]},
        "another image": {"ImageId": ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]},
        "another disk": {"BlockDeviceMappings": [{"DeviceName": "/dev/xvdz", "Ebs": {"VolumeSize": 9000}}]},
        "another role": {"IamInstanceProfile": {"Name": "admin"}},
        "another market": {"InstanceMarketOptions": market},
        "open metadata": {"MetadataOptions": {"HttpTokens": "optional"}},
        "a key for SSH": {"KeyName": "mine"},
        "tags of another account": {"TagSpecifications": [{"ResourceType": "instance", "Tags": theirs}]},
        "other tags": {
            "TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "x"}]}]
        },
        "what outlives a shutdown": {"InstanceInitiatedShutdownBehavior": "stop"},
    }


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "what",
    [
        "another type",
        "other user data",
        "another subnet",
        "another group",
        "another image",
        "another disk",
        "another role",
        "another market",
        "open metadata",
        "a key for SSH",
        "tags of another account",
        "other tags",
        "what outlives a shutdown",
    ],
)
def test_the_scheduler_launches_nothing_but_what_its_template_says(
    made: tuple[ClusterSpec, ClusterRecord], judged: Sandbox, machine: Machine, what: str
) -> None:
    plan, record = made
    scheduler = machine(record.scheduler.instance_id)
    said = others(judged, record)
    assert answer(scheduler.run_instances, **by(kept_names(plan)[0], **said[what])) == DENIED


def test_the_scheduler_may_do_nothing_else_of_the_kind(
    made: tuple[ClusterSpec, ClusterRecord], judged: Sandbox, machine: Machine
) -> None:
    plan, record = made
    root, scheduler = judged.client("ec2"), machine(record.scheduler.instance_id)
    (worker,) = record.workers
    (found,) = root.describe_instances(InstanceIds=[worker.instance_id])["Reservations"][0]["Instances"]
    plain = {"ImageId": found["ImageId"], "SubnetId": worker.subnet_id, "InstanceType": "m6i.large"}
    assert answer(scheduler.run_instances, MinCount=1, MaxCount=1, DryRun=True, **plain) == DENIED, (
        "no template"
    )
    mine = [{"Key": "coiled-launcher", "Value": f"{record.scheduler.instance_id}"}]
    named = {"LaunchTemplateName": "mine", "LaunchTemplateData": {"InstanceType": "m6i.large"}}
    assert answer(scheduler.create_launch_template, **named) == DENIED
    version = {"LaunchTemplateName": kept_names(plan)[0], "SourceVersion": "1"}
    data = {"LaunchTemplateData": {"InstanceType": "m6i.32xlarge"}}
    assert answer(scheduler.create_launch_template_version, **version, **data) == DENIED
    assert answer(scheduler.create_tags, Resources=[worker.instance_id], Tags=mine) == DENIED
    assert answer(scheduler.terminate_instances, InstanceIds=[worker.instance_id]) == DENIED


def test_the_scheduler_passes_no_role_but_its_own(
    made: tuple[ClusterSpec, ClusterRecord], judged: Sandbox, machine: Machine
) -> None:
    plan, record = made
    root, iam = judged.client("ec2"), judged.client("iam")
    trust = '{"Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, '
    iam.create_role(RoleName="admin", AssumeRolePolicyDocument=trust + '"Action": "sts:AssumeRole"}]}')
    iam.create_instance_profile(InstanceProfileName="admin")
    iam.add_role_to_instance_profile(InstanceProfileName="admin", RoleName="admin")
    described = root.describe_launch_template_versions(LaunchTemplateName=kept_names(plan)[0], Versions=["1"])
    # Somebody who may make templates names the scheduler in one, with another role.
    data = described["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{record.scheduler.instance_id}"
    labels = [{"Key": "coiled-launcher", "Value": arn}]
    tags = [{"ResourceType": "launch-template", "Tags": labels}]
    data["IamInstanceProfile"] = {"Name": "admin"}
    root.create_launch_template(LaunchTemplateName="other", LaunchTemplateData=data, TagSpecifications=tags)
    try:
        with pytest.raises(ClientError, match=r"iam:PassRole on resource: arn:aws:iam::\d+:role/admin"):
            machine(record.scheduler.instance_id).run_instances(**by("other"))
    finally:
        root.delete_launch_template(LaunchTemplateName="other")
        iam.remove_role_from_instance_profile(InstanceProfileName="admin", RoleName="admin")
        iam.delete_instance_profile(InstanceProfileName="admin")
        iam.delete_role(RoleName="admin")


@pytest.mark.parametrize("plainly", [True, False], ids=["plainly", "as a flow"])
def test_a_worker_that_the_scheduler_launches_while_its_cluster_is_removed_goes_too(
    session: Session, spec: Spec, aws: Aws, sandbox: Sandbox, plainly: bool
) -> None:
    plan = spec(n_workers=1)
    create_cluster(plan)
    late: list[str] = []

    def launches(event: Event) -> None:
        if (event.kind, event.action) == ("call", "ec2:DescribeLaunchTemplates") and not late:
            launch = by(kept_names(plan)[-1], DryRun=False)
            late.extend(i["InstanceId"] for i in sandbox.client("ec2").run_instances(**launch)["Instances"])

    with hearing(launches):
        removal = (
            remove_cluster(aws, plan.name, plan.uid)
            if plainly
            else delete_cluster("team", "us-east-1", plan.name)
        )
    assert late
    assert set(late) <= set(removal.removed["instance"])
    assert removal.left == {}
    assert live(sandbox) == []


def test_a_cluster_comes_up_without_the_templates_and_says_so(
    session: Session, spec: Spec, aws: Aws, sandbox: Sandbox
) -> None:
    plan, steps = spec(n_workers=1), []
    fault = {"service": "ec2", "action": "CreateLaunchTemplate", "effect": "error", "status": 400}
    sandbox.faults([{**fault, "code": "LaunchTemplateLimitExceeded", "skip": 1}])

    def hear(event: Event) -> None:
        if event.kind == "step" and event.step == "keeper":
            steps.append(event.text)

    with hearing(hear):
        record = create_cluster(plan)
    sandbox.faults([])
    assert len(record.workers) == 1
    assert steps[0].startswith("workers that are lost are not replaced")
    remove_cluster(aws, plan.name, plan.uid)
