"""Launching, failing, deleting and sweeping clusters, without booting them."""

from __future__ import annotations

import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography import x509

from prefect_coiled.aws import instances
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.parameters import cluster_path, delete_parameters, put_secret, read_parameter
from prefect_coiled.aws.security_groups import change_rules
from prefect_coiled.cluster.launch import find_launched, launch
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import (
    AccessDeniedError,
    NoCapacityError,
    NotFoundError,
    OptionsError,
    PrefectCoiledError,
    ProvisionError,
    StoppedError,
)
from prefect_coiled.events import Event, hearing
from prefect_coiled.options import IngressRule
from prefect_coiled.plan.cluster import ClusterSpec, cluster_tags
from prefect_coiled.plan.kept import kept_names
from prefect_coiled.plan.prices import shipped
from prefect_coiled.provision import (
    add_workers,
    change_ingress,
    create_cluster,
    delete_cluster,
    remove_cluster,
    set_up_account,
    sweep,
)
from prefect_coiled.provision.clusters import find_cluster
from prefect_coiled.records import ClusterRecord, Removal
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.cluster import client_parameter
from prefect_coiled.tasks.steps import Session, use_session
from tests.matrix.races import Race
from tests.provision.laid import Lay, hurry, live, refusing

Spec = Callable[..., ClusterSpec]


def parameters(sandbox: Sandbox) -> list[dict[str, Any]]:
    pages = sandbox.client("ssm").get_paginator("describe_parameters").paginate()
    names = ("/prefect-coiled/team/known",)  # what is known of the account stays with it
    found = (p for page in pages for p in page["Parameters"] if p["Name"].startswith("/prefect-coiled/"))
    return [p for p in found if p["Name"] not in names]


def leftovers(sandbox: Sandbox) -> dict[str, int]:
    """How much of clusters (not of the account) is still there."""
    ec2, mine = sandbox.client("ec2"), [{"Name": "tag-key", "Values": ["coiled-cluster"]}]
    return {
        "instances": len(live(sandbox)),
        "groups": len(ec2.describe_security_groups(Filters=mine)["SecurityGroups"]),
        "templates": len(ec2.describe_launch_templates(Filters=mine)["LaunchTemplates"]),
        "parameters": len(parameters(sandbox)),
    }


@pytest.fixture(autouse=True)
def clean(account: Account, sandbox: Sandbox) -> Iterator[None]:
    """Tests share the account's network, which takes seconds to make, and each removes its clusters."""
    yield
    sandbox.faults([])
    aws = account.door("us-east-1")
    for name in {i.cluster for i in instances.find_instances(aws)} | set(_names(sandbox)):
        remove_cluster(aws, name)
    assert leftovers(sandbox) == NOTHING


def _names(sandbox: Sandbox) -> list[str]:
    groups = sandbox.client("ec2").describe_security_groups(
        Filters=[{"Name": "tag-key", "Values": ["coiled-cluster"]}]
    )["SecurityGroups"]
    tagged = [t["Value"] for g in groups for t in g["Tags"] if t["Key"] == "coiled-cluster"]
    return [*tagged, *(p["Name"].split("/")[3] for p in parameters(sandbox))]


NOTHING = {"instances": 0, "groups": 0, "templates": 0, "parameters": 0}


def test_scheduler_and_workers_are_launched_with_two_calls(
    session: Session, spec: Spec, aws: Aws, calls: Counter[str]
) -> None:
    record = create_cluster(spec(n_workers=7))
    assert len(record.workers) == 7
    assert calls["ec2:RunInstances"] == 2


def test_the_record_goes_through_json(session: Session, spec: Spec) -> None:
    record = create_cluster(spec())
    assert ClusterRecord.model_validate_json(record.model_dump_json()) == record


def test_the_number_of_calls_does_not_grow_with_the_workers(
    session: Session, spec: Spec, aws: Aws, calls: Counter[str]
) -> None:
    create_cluster(spec())  # looks at the account, and keeps what it saw
    counted = []
    for n in (1, 5, 20, 100):
        calls.clear()
        create_cluster(spec(n_workers=n))
        calls.pop("ec2:DescribeInstances")  # polls until the scheduler has its address
        counted.append(dict(calls))
    assert all(calls == counted[0] for calls in counted)
    assert sum(counted[0].values()) <= 16


def test_a_second_cluster_shares_the_network_of_the_first(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    first, second = create_cluster(spec()), create_cluster(spec())
    assert first.scheduler.instance_id != second.scheduler.instance_id
    assert not {w.instance_id for w in first.workers} & {w.instance_id for w in second.workers}
    assert first.scheduler.subnet_id == second.scheduler.subnet_id
    assert {w.subnet_id for w in first.workers} == {w.subnet_id for w in second.workers}
    vpcs = sandbox.client("ec2").describe_vpcs(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Vpcs"]
    assert len(vpcs) == 1


def test_machines_are_closed_and_private_by_default(session: Session, spec: Spec, sandbox: Sandbox) -> None:
    record = create_cluster(spec())
    ec2 = sandbox.client("ec2")
    for instance in live(sandbox):
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert instance["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        volumes = [m["Ebs"]["VolumeId"] for m in instance["BlockDeviceMappings"]]
        assert all(v["Encrypted"] for v in ec2.describe_volumes(VolumeIds=volumes)["Volumes"])
        behaviour = ec2.describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
        )
        assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    workers = [i for i in live(sandbox) if i["InstanceId"] != record.scheduler.instance_id]
    assert not any(i.get("PublicIpAddress") for i in workers)
    assert record.scheduler.public_ip
    subnets = ec2.describe_subnets(Filters=[{"Name": "tag:owner", "Values": ["coiled"]}])["Subnets"]
    tiers = {s["SubnetId"]: {t["Key"]: t["Value"] for t in s["Tags"]} for s in subnets}
    assert tiers[record.scheduler.subnet_id]["coiled-tier"] == "public"
    assert {tiers[i["SubnetId"]]["coiled-tier"] for i in workers} == {"private"}
    profiles = {i["IamInstanceProfile"]["Arn"] for i in live(sandbox)}
    assert profiles == {f"arn:aws:iam::123456789012:instance-profile/{record.account}"}


def test_ingress_is_what_the_options_say_and_port_22_only_with_a_key(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    with pytest.raises(OptionsError, match="opens only with a key pair"):
        spec(backend_options={"firewall": {"ports": [22, 8786], "cidr": "me"}})
    plan = spec(backend_options={"firewall": {"ports": [8786], "cidr": "me"}})
    record = create_cluster(plan)
    ec2 = sandbox.client("ec2")
    (machine,) = [i for i in live(sandbox) if i["InstanceId"] == record.scheduler.instance_id]
    ids = [g["GroupId"] for g in machine["SecurityGroups"]]
    rules = [
        p for g in ec2.describe_security_groups(GroupIds=ids)["SecurityGroups"] for p in g["IpPermissions"]
    ]
    open_to = {(r["CidrIp"], p["FromPort"], p["ToPort"]) for p in rules for r in p["IpRanges"]}
    assert open_to == {("192.0.2.7/32", 8786, 8786)}
    inside = [p for p in rules if p["UserIdGroupPairs"]]
    assert [(p["FromPort"], p["ToPort"]) for p in inside] == [(1024, 65535)]
    assert {q["GroupId"] for p in inside for q in p["UserIdGroupPairs"]} <= set(ids)


def test_no_secret_is_in_user_data_or_tags(session: Session, spec: Spec, sandbox: Sandbox, aws: Aws) -> None:
    canary = "canary-7f3a9c"
    with use_session(Session(aws, environ={"TOKEN": canary})) as opened:
        create_cluster(spec())
    keys = opened.client_secrets
    assert keys is not None
    secret = keys.key.get_secret_value().splitlines()[1]
    ec2 = sandbox.client("ec2")
    for instance in live(sandbox):
        attribute = ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
        text = base64.b64decode(attribute["UserData"]["Value"]).decode()
        assert "prefect-coiled" in text
        for hidden in (canary, secret, keys.dashboard_token.get_secret_value(), "PRIVATE KEY"):
            assert hidden not in text
            assert hidden not in str(instance)
    assert Counter(p["Type"] for p in parameters(sandbox)) == {"SecureString": 3, "String": 1}


@pytest.mark.parametrize(("bound", "days"), [(None, 372), (3600.0, 7)])
def test_keys_last_as_long_as_the_cluster_may(
    session: Session, spec: Spec, aws: Aws, bound: float | None, days: int
) -> None:
    planned = spec()
    node = planned.scheduler_node.model_copy(update={"cluster_timeout": bound})
    with use_session(Session(aws)) as opened:
        create_cluster(planned.model_copy(update={"scheduler_node": node}))
    keys = opened.client_secrets
    assert keys is not None
    left = x509.load_pem_x509_certificate(keys.cert.encode()).not_valid_after_utc - datetime.now(timezone.utc)
    assert days * 24 - 1 < left.total_seconds() / 3600 < days * 24 + 2


def test_log_streams_are_left_to_the_machines(session: Session, spec: Spec, sandbox: Sandbox) -> None:
    sandbox.faults(
        [{"effect": "error", "action": "CreateLogStream", "code": "ThrottlingException", "status": 400}]
    )
    record = create_cluster(spec())
    pages = sandbox.client("logs").get_paginator("describe_log_streams").paginate(logGroupName="team")
    streams = {s["logStreamName"] for page in pages for s in page["logStreams"]}
    assert not streams & {record.scheduler.instance_id, *(w.instance_id for w in record.workers)}


def test_a_users_tags_are_on_every_machine_beside_ours(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    plan = spec(tags={"project": "billing"})
    create_cluster(plan)
    for instance in live(sandbox):
        labels = {t["Key"]: t["Value"] for t in instance["Tags"]}
        assert labels["project"] == "billing"
        assert (labels["owner"], labels["coiled-account"], labels["coiled-cluster"]) == (
            "coiled",
            "team",
            plan.name,
        )
        assert labels["coiled-creator"] == "tester"


def test_without_capacity_the_next_type_is_taken(session: Session, spec: Spec, sandbox: Sandbox) -> None:
    sandbox.set(capacity=[{"instance_type": "m6i.xlarge", "zone": "*", "free": 1}])
    plan = spec(n_workers=3, worker_vm_types=["m6i.xlarge", "c6i.xlarge"], scheduler_vm_types=["t3.large"])
    record = create_cluster(plan)
    assert Counter(w.instance_type for w in record.workers) == {"m6i.xlarge": 1, "c6i.xlarge": 2}


def test_without_capacity_in_a_zone_the_next_zone_is_taken(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    sandbox.set(capacity=[{"instance_type": "m6i.xlarge", "zone": "us-east-1a", "free": 0}])
    plan = spec(worker_vm_types=["m6i.xlarge"], scheduler_vm_types=["m6i.xlarge"])
    sandbox.clear_calls()
    record = create_cluster(plan)
    assert {m.zone for m in (record.scheduler, *record.workers)} == {"us-east-1b"}
    # The scheduler is asked for once in each zone, the workers in that of the scheduler.
    assert sandbox.calls().count(("ec2", "RunInstances")) == 3


def test_workers_are_spot_machines_where_that_is_asked_and_the_scheduler_is_not(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    for asked, kinds in (({}, {None}), ({"spot": True}, {"spot"})):
        record = create_cluster(spec(backend_options=asked))
        found = {i["InstanceId"]: i.get("InstanceLifecycle") for i in live(sandbox)}
        assert {found[w.instance_id] for w in record.workers} == kinds
        assert found[record.scheduler.instance_id] is None


def test_spot_falls_back_to_on_demand_only_where_it_may(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    rule = {
        "service": "ec2",
        "action": "RunInstances",
        "match": {"InstanceMarketOptions.MarketType": "spot"},
        "effect": "error",
        "code": "InsufficientInstanceCapacity",
        "status": 500,
    }
    sandbox.faults([rule])
    record = create_cluster(spec(spot_policy="spot_with_fallback", zone="us-east-1a"))
    assert [w.spot for w in record.workers] == [False, False]
    with pytest.raises(NoCapacityError, match=r"launching 2 workers.*\(spot\)"):
        create_cluster(spec(spot=True, zone="us-east-1a"))


def test_no_capacity_anywhere_names_what_was_tried_and_leaves_nothing(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    sandbox.set(capacity=[{"instance_type": "*", "zone": "*", "free": 1}])
    plan = spec(n_workers=2, wait_for_workers=True, worker_vm_types=["m6i.large"], zone="us-east-1a")
    with pytest.raises(NoCapacityError, match=r"m6i\.large in us-east-1a \(on demand\)"):
        create_cluster(plan)
    assert leftovers(sandbox) == NOTHING


def test_fewer_workers_than_asked_are_accepted_within_wait_for_workers(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    sandbox.set(capacity=[{"instance_type": "m6i.large", "zone": "*", "free": 2}])
    plan = spec(
        n_workers=4, wait_for_workers=2, worker_vm_types=["m6i.large"], scheduler_vm_types=["t3.large"]
    )
    assert len(create_cluster(plan).workers) == 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("service", "action"),
    [
        ("ssm", "PutParameter"),
        ("ec2", "CreateSecurityGroup"),
        ("ec2", "AuthorizeSecurityGroupIngress"),
        ("ec2", "CreateLaunchTemplate"),
        ("ec2", "RunInstances"),
    ],
)
@pytest.mark.parametrize("skip", [0, 1])
def test_a_denied_call_leaves_nothing_and_names_the_action(
    session: Session, spec: Spec, sandbox: Sandbox, service: str, action: str, skip: int
) -> None:
    set_up_account("team", "us-east-1")
    skip = 0 if action == "CreateLaunchTemplate" else skip  # without the others a cluster comes up
    code = "UnauthorizedOperation" if service == "ec2" else "AccessDeniedException"
    sandbox.faults(
        [{"service": service, "action": action, "effect": "error", "code": code, "status": 403, "skip": skip}]
    )
    with pytest.raises(PrefectCoiledError, match=action):
        create_cluster(spec())
    sandbox.faults([])
    assert leftovers(sandbox) == NOTHING


def test_a_lost_reply_to_run_instances_launches_nothing_twice(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    set_up_account("team", "us-east-1")
    sandbox.faults([{"service": "ec2", "action": "RunInstances", "effect": "drop_after", "times": 2}])
    record = create_cluster(spec(n_workers=3))
    assert len(live(sandbox)) == 4
    assert len(record.workers) == 3


def test_the_machines_clock_begins_with_their_launch_and_not_before(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_coiled.cluster.launch.load_account", lambda slug: account)
    asked: list[float] = []

    def note(event: Event) -> None:
        if (event.kind, event.action) == ("call", "ec2:RunInstances"):
            asked.append(time.monotonic())

    with hearing(note):
        launched = launch(Request({}, n_workers=0, name="clock"), threading.Event())
    launched.remove_plainly([launched.record.scheduler.instance_id], 5.0)
    assert asked[0] < launched.since


def test_a_stop_during_the_launch_ends_it_and_leaves_nothing(
    account: Account, spec: Spec, sandbox: Sandbox
) -> None:
    stop = threading.Event()
    door = account.door("us-east-1", stop)

    def press(event: Event) -> None:
        if (event.kind, event.action) == ("call", "ec2:RunInstances"):
            stop.set()

    with hearing(press), use_session(Session(door)), pytest.raises(StoppedError):
        create_cluster(spec())
    assert leftovers(sandbox) == NOTHING


def test_a_stop_while_the_name_is_claimed_leaves_it_free(
    account: Account, spec: Spec, sandbox: Sandbox
) -> None:
    stop, plan = threading.Event(), spec()
    lost = {"service": "ssm", "action": "PutParameter", "effect": "drop_after", "times": 1}
    sandbox.faults([lost])

    def press(event: Event) -> None:
        if (event.kind, event.action) == ("reply", "ssm:PutParameter"):
            stop.set()

    with hearing(press), use_session(Session(account.door("us-east-1", stop))), pytest.raises(StoppedError):
        create_cluster(plan)
    assert leftovers(sandbox) == NOTHING


@pytest.mark.parametrize(
    ("step", "state", "action"),
    [("image", "looking", "ec2:CreateSecurityGroup"), ("log streams", "", "ec2:CreateLaunchTemplate")],
)
def test_ctrl_c_leaves_nothing_of_what_is_being_made_at_that_moment(
    session: Session, spec: Spec, sandbox: Sandbox, step: str, state: str, action: str
) -> None:
    begun, over, made, plan = threading.Event(), threading.Event(), threading.Event(), spec()
    kept = kept_names(plan)[0] if action == "ec2:CreateLaunchTemplate" else plan.name

    def press(event: Event) -> None:
        if event.step == step and event.text.startswith(state):
            assert begun.wait(20)
            raise KeyboardInterrupt
        if event.action == action and kept in event.text:
            if event.kind == "reply":
                made.set()
            else:
                begun.set()
                over.wait(5)  # as long as the removal takes, where that does not wait for it

    with hearing(press), pytest.raises(KeyboardInterrupt):
        create_cluster(plan)
    over.set()
    assert made.wait(20)
    assert leftovers(sandbox) == NOTHING


def test_two_clusters_cannot_have_one_name(session: Session, spec: Spec, sandbox: Sandbox) -> None:
    create_cluster(spec(name="twin"))
    with pytest.raises(ProvisionError, match="has a cluster of that name"):
        create_cluster(spec(name="twin"))
    assert len(live(sandbox)) == 3


def test_a_cluster_is_found_by_its_name_from_aws_alone(session: Session, spec: Spec, aws: Aws) -> None:
    plan = spec()
    record = create_cluster(plan)
    found = find_cluster(aws, plan.name)
    assert found is not None
    found_spec, found_record = found
    assert found_spec == plan
    assert found_record.scheduler.instance_id == record.scheduler.instance_id
    assert {w.instance_id for w in found_record.workers} == {w.instance_id for w in record.workers}
    assert find_cluster(aws, "no-such-cluster") is None


def test_added_workers_join_the_same_cluster(session: Session, spec: Spec, aws: Aws) -> None:
    plan = spec()
    record = create_cluster(plan)
    more = add_workers(plan, record, 2, "b1")
    assert {m.cluster for m in more} == {plan.name}
    again = add_workers(plan, record, 2, "b1")
    assert {m.instance_id for m in again} == {m.instance_id for m in more}
    assert len(instances.find_instances(aws, plan.name)) == 5


def test_delete_removes_all_of_a_cluster_and_nothing_of_another(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    keep, drop = spec(name="day"), spec(name="day-2")
    create_cluster(keep)
    create_cluster(drop)
    removal = delete_cluster("team", "us-east-1", "day-2")
    assert {k: len(v) for k, v in removal.removed.items()} == {
        "instance": 3,
        "launch template": 4,  # three of them for the scheduler
        "security group": 2,
        "parameter": 4,
    }
    assert leftovers(sandbox) == {"instances": 3, "groups": 2, "templates": 4, "parameters": 4}
    assert delete_cluster("team", "us-east-1", "day-2").removed == {}


@pytest.mark.parametrize("late", ["workers", "ingress"])
def test_what_comes_while_a_cluster_is_removed_leaves_nothing(
    session: Session, spec: Spec, aws: Aws, sandbox: Sandbox, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, young=True)
    planned = spec()
    record = create_cluster(planned)

    def more() -> None:
        if late == "workers":
            add_workers(planned, record, 1, "b1")
        else:
            change_ingress("team", "us-east-1", planned.name, [IngressRule(cidr="198.51.100.0/24")])

    # Held before it changes anything, it goes on when the cluster is gone.
    race = Race(0, after=False)
    race.run(more, lambda: remove_cluster(aws, planned.name))
    assert race.ended["second"] is None
    assert isinstance(race.ended["first"], (ProvisionError, NotFoundError)), race.ended["first"]
    assert leftovers(sandbox) == NOTHING


def test_no_groups_are_made_for_a_cluster_that_is_being_removed(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    planned = spec()
    record = create_cluster(planned)
    ec2 = sandbox.client("ec2")
    ec2.terminate_instances(InstanceIds=[i["InstanceId"] for i in live(sandbox)])
    mine = [{"Name": "tag:coiled-cluster", "Values": [planned.name]}]
    found = ec2.describe_security_groups(Filters=mine)["SecurityGroups"]
    for group in sorted(found, key=lambda one: "cluster" in one["GroupName"].split("-")):
        ec2.delete_security_group(GroupId=group["GroupId"])
    with pytest.raises(ProvisionError, match="is gone, so the cluster is being removed"):
        add_workers(planned, record, 1, "b1")
    assert leftovers(sandbox)["groups"] == leftovers(sandbox)["instances"] == 0


def test_sweep_leaves_running_clusters_and_foreign_resources_alone(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    create_cluster(spec())
    ec2 = sandbox.client("ec2")
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    before = leftovers(sandbox)
    assert sweep("team", "us-east-1").removed == {}
    assert leftovers(sandbox) == before
    assert ec2.describe_addresses(AllocationIds=[address])["Addresses"]
    ec2.release_address(AllocationId=address)


def test_sweep_removes_a_cluster_whose_scheduler_is_gone(
    session: Session, spec: Spec, sandbox: Sandbox, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = create_cluster(spec())
    instances.terminate_instances(aws, [record.scheduler.instance_id])
    # It was just launched, so that sweep takes it for one that is still coming up.
    assert sweep("team", "us-east-1", release_nat=False).removed == {}
    monkeypatch.setattr("prefect_coiled.aws.parameters.STARTING", 0.0)
    removal = sweep("team", "us-east-1")
    assert len(removal.removed["security group"]) == 2
    assert leftovers(sandbox) == NOTHING
    assert sweep("team", "us-east-1").removed == {}


def test_what_is_written_of_a_cluster_while_it_is_removed_goes_too(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    plan = spec(n_workers=0)
    create_cluster(plan)
    ssm, written = sandbox.client("ssm"), list[str]()

    def writes(event: Event) -> None:
        # As who changes its firewall: by now all that there is of it was listed.
        if (event.kind, event.action) == ("call", "ec2:DeleteSecurityGroup") and not written:
            written.append(f"{cluster_path(plan.account, plan.name, plan.uid)}plan")
            labels = [{"Key": k, "Value": v} for k, v in cluster_tags(plan).items()]
            ssm.put_parameter(Name=written[0], Value="its changed plan", Type="String", Tags=labels)

    with hearing(writes):
        delete_cluster("team", "us-east-1", plan.name)
    assert written
    assert ssm.get_parameters(Names=written)["Parameters"] == []


@pytest.mark.long
def test_sweep_releases_a_nat_gateway_that_no_cluster_uses_and_the_next_cluster_makes_one(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    plan = spec()
    create_cluster(plan)
    delete_cluster("team", "us-east-1", plan.name)
    removal = sweep("team", "us-east-1")
    assert {k: len(v) for k, v in removal.removed.items()} == {"NAT gateway": 1, "elastic address": 1}
    assert sandbox.client("ec2").describe_addresses()["Addresses"] == []
    create_cluster(spec())
    states = [n["State"] for n in sandbox.client("ec2").describe_nat_gateways()["NatGateways"]]
    assert states.count("available") == 1


@pytest.mark.long
def test_a_sweep_beside_a_launch_leaves_it_its_nat_gateway(
    session: Session, spec: Spec, sandbox: Sandbox, account: Account
) -> None:
    plan = spec()
    swept: list[Removal] = []

    def observe(event: Event) -> None:
        # The network is there, no machine yet.
        if (event.kind, event.action) == ("call", "ec2:CreateSecurityGroup") and not swept:
            with use_session(Session(account.door("us-east-1"))):
                swept.append(sweep("team", "us-east-1"))

    with hearing(observe):
        create_cluster(plan)
    assert swept[0].removed == {}
    states = [n["State"] for n in sandbox.client("ec2").describe_nat_gateways()["NatGateways"]]
    assert "available" in states
    assert leftovers(sandbox)["instances"] == 3


def test_a_sweep_leaves_its_nat_gateway_to_a_cluster_that_came_after_it_had_looked(
    session: Session, spec: Spec, sandbox: Sandbox, account: Account
) -> None:
    first = spec(n_workers=0)
    create_cluster(first)
    delete_cluster("team", "us-east-1", first.name)
    made: list[ClusterSpec] = []

    def comes(event: Event) -> None:
        taking = (event.kind, event.action) == ("call", "ssm:PutParameter") and "set-up" in event.text
        if taking and not made:
            made.append(spec(n_workers=0))
            with use_session(Session(account.door("us-east-1"))):
                create_cluster(made[0])

    with hearing(comes):
        removal = sweep("team", "us-east-1")
    assert made
    assert "NAT gateway" not in removal.removed
    states = [n["State"] for n in sandbox.client("ec2").describe_nat_gateways()["NatGateways"]]
    assert "available" in states


@pytest.mark.long
def test_a_launch_during_a_sweep_waits_and_makes_the_nat_gateway_again(
    session: Session, spec: Spec, sandbox: Sandbox, account: Account
) -> None:
    first = spec()
    create_cluster(first)
    delete_cluster("team", "us-east-1", first.name)
    deleting = threading.Event()

    def begins(event: Event) -> None:
        if (event.kind, event.action) == ("call", "ec2:DeleteNatGateway"):
            deleting.set()

    def sweeping() -> Removal:
        door = account.door("us-east-1")
        with hearing(begins), use_session(Session(door)):
            return sweep("team", "us-east-1")

    sandbox.set(nat_deleting=2.0)
    with ThreadPoolExecutor(1) as pool:
        swept = pool.submit(sweeping)
        assert deleting.wait(60)
        plan = spec()
        create_cluster(plan)
        assert len(swept.result().removed["NAT gateway"]) == 1
    sandbox.set(nat_deleting=0.0)
    network = sandbox.client("ec2")
    (live,) = [n for n in network.describe_nat_gateways()["NatGateways"] if n["State"] == "available"]
    routes = [
        route.get("NatGatewayId")
        for table in network.describe_route_tables()["RouteTables"]
        for route in table["Routes"]
        if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("NatGatewayId")
    ]
    assert set(routes) == {live["NatGatewayId"]}


def test_a_clean_up_that_fails_does_not_hide_the_first_cause(
    session: Session, spec: Spec, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults(
        [
            {
                "service": "ec2",
                "action": "CreateLaunchTemplate",
                "effect": "error",
                "code": "UnauthorizedOperation",
                "status": 403,
            },
            {
                "service": "ssm",
                "action": "DeleteParameters",
                "effect": "error",
                "code": "AccessDeniedException",
                "status": 403,
            },
        ]
    )
    with pytest.raises(AccessDeniedError) as caught:
        create_cluster(spec())
    assert caught.value.operation == "ec2:CreateLaunchTemplate"
    assert "could not be removed whole; `prefect-coiled sweep` will" in caplog.text


def test_sweep_deletes_an_empty_second_vpc_and_no_other(
    session: Session, spec: Spec, sandbox: Sandbox
) -> None:
    create_cluster(spec())
    ec2 = sandbox.client("ec2")
    labels = [{"Key": "owner", "Value": "coiled"}, {"Key": "coiled-account", "Value": "team"}]
    (used,) = ec2.describe_vpcs(Filters=[{"Name": "tag:coiled-account", "Values": ["team"]}])["Vpcs"]
    surplus = ec2.create_vpc(
        CidrBlock="10.77.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": labels}]
    )["Vpc"]
    assert sweep("team", "us-east-1").removed == {"VPC": (surplus["VpcId"],)}
    left = ec2.describe_vpcs(Filters=[{"Name": "tag:coiled-account", "Values": ["team"]}])["Vpcs"]
    assert [v["VpcId"] for v in left] == [used["VpcId"]]


@pytest.mark.parametrize("public", [True, False])
def test_its_cost_counts_the_public_addresses_that_its_machines_have(
    session: Session, aws: Aws, spec: Spec, sandbox: Sandbox, public: bool
) -> None:
    wanted = spec(backend_options={"egress": "public-ip"}, use_scheduler_public_ip=public)
    create_cluster(wanted)
    own = {"Key": "coiled-cluster", "Value": wanted.name}
    there = sum("PublicIpAddress" in machine for machine in live(sandbox) if own in machine["Tags"])
    cluster = find_launched(aws, wanted.name)
    assert cluster is not None
    hour = cluster.cost(cluster.record.created_at + timedelta(hours=1))
    (addresses,) = [line.usd for line in hour.lines if line.what.startswith("public IPv4")]
    assert there == 3
    assert addresses == pytest.approx(there * shipped().address, rel=0.02)
    delete_cluster("team", "us-east-1", wanted.name)


def test_whoever_comes_to_a_cluster_before_its_keys_are_there_waits_for_them(
    session: Session,
    aws: Aws,
    account: Account,
    sandbox: Sandbox,
    until: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_coiled.cluster.launch.load_account", lambda slug: account)
    request = Request({}, n_workers=1, name="early", allow_ingress_from="192.0.2.7/32")
    first = launch(request, threading.Event())
    name = client_parameter(first.spec)
    keys = read_parameter(aws, name)
    assert keys is not None
    delete_parameters(aws, [name])
    sandbox.clear_calls()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(copy_context().run, launch, request, threading.Event())
        until(lambda: sandbox.calls().count(("ssm", "GetParameter")) >= 4)  # he has looked twice
        assert not second.done()
        put_secret(aws, name, keys, {})
        attached = second.result(60)
    assert attached.attached
    assert attached.spec.uid == first.spec.uid
    delete_cluster("team", "us-east-1", "early")


def test_a_look_for_a_cluster_of_that_name_that_aws_does_not_answer_ends_no_launch(
    account: Account, aws: Aws, monkeypatch: pytest.MonkeyPatch, lay: Lay
) -> None:
    monkeypatch.setattr("prefect_coiled.cluster.launch.load_account", lambda slug: account)
    request = Request({}, n_workers=0, name="early")
    first = launch(request, threading.Event())
    lay(refusing("ssm:GetParameter", "ThrottlingException", times=1))
    assert launch(request, threading.Event()).attached
    remove_cluster(aws, "early", first.spec.uid)


def test_rules_that_somebody_else_revoked_meanwhile_keep_no_others_open(aws: Aws, sandbox: Sandbox) -> None:
    ec2 = sandbox.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(GroupName="two", Description="two", VpcId=vpc)["GroupId"]
    rules = [
        {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
        for port in (8786, 8787, 22)
    ]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules)
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=rules[1:2])
    change_rules(aws, "two", group, rules, rules[:1])
    (left,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert left["FromPort"] == 8786
    ec2.delete_security_group(GroupId=group)
    with pytest.raises(NotFoundError):
        change_rules(aws, "two", group, rules, [])
    ec2.delete_vpc(VpcId=vpc)
