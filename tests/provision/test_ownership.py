"""Whose it is: names come back and are shared, so what is ours is proven before it is touched."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from prefect_coiled.aws import bucket, instances, leases, parameters, security_groups
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.ownership import is_ours
from prefect_coiled.cli import app
from prefect_coiled.cluster import launch as launching
from prefect_coiled.errors import (
    AccessDeniedError,
    NameTakenError,
    PrefectCoiledError,
    ProvisionError,
    UnavailableError,
)
from prefect_coiled.events import Event, hearing
from prefect_coiled.notifications import machines_of, read_notifications
from prefect_coiled.plan import tags
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kinds import Scope
from prefect_coiled.plan.machine_policies import bucket_name
from prefect_coiled.provision import (
    add_workers,
    change_ingress,
    create_cluster,
    delete_cluster,
    destroy_account,
    plan_sweep,
    remove_cluster,
    set_up_account,
    sweep,
)
from prefect_coiled.provision.clusters import find_cluster
from prefect_coiled.provision.sweeping import sweep_clusters
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.names import claim_name, kept_young, read_holder
from prefect_coiled.tasks.steps import Session, use_session

NUMBER, OTHER = "123456789012", "222222222222"


@pytest.fixture(autouse=True)
def nothing_there(sandbox: Sandbox) -> Iterator[None]:
    sandbox.reset()
    yield
    sandbox.reset()


def door_of(sandbox: Sandbox, slug: str = "team", region: str = "us-east-1") -> Aws:
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    account = Account(slug, credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
    return account.door(region)


@pytest.mark.long
def test_the_role_stays_where_a_region_with_a_network_of_ones_own_needs_it(
    session: Session, sandbox: Sandbox
) -> None:
    with use_session(Session(door_of(sandbox, region="eu-west-1"))):
        set_up_account("team", "eu-west-1", network=False)
    set_up_account("team", "us-east-1", network=False)
    removal = destroy_account("team", "us-east-1")
    assert "team" in {r["RoleName"] for r in sandbox.client("iam").list_roles()["Roles"]}
    assert removal.left == {"role/team": "used in eu-west-1"}
    assert removal.is_done  # that is as it should be


def test_a_bucket_with_the_tags_of_somebody_else_is_refused_and_stays_as_it_is(
    aws: Aws, sandbox: Sandbox
) -> None:
    s3, name = sandbox.client("s3"), bucket_name("team", NUMBER, "us-east-1")
    s3.create_bucket(Bucket=name)
    s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": [{"Key": "owner", "Value": "finance"}]})
    for touch in (lambda: bucket.ensure_bucket(aws, NUMBER), lambda: bucket.delete_bucket(aws, name)):
        with pytest.raises(ProvisionError, match=r"does not carry our tags.*another account slug"):
            touch()
    assert s3.get_bucket_tagging(Bucket=name)["TagSet"] == [{"Key": "owner", "Value": "finance"}]


@pytest.mark.parametrize("opened", [False, True])
def test_a_bucket_of_another_aws_account_is_neither_read_nor_written(
    aws: Aws, sandbox: Sandbox, opened: bool
) -> None:
    role = f"arn:aws:iam::{OTHER}:role/somebody"
    made = sandbox.client("sts").assume_role(RoleArn=role, RoleSessionName="other")["Credentials"]
    keys = (made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])
    theirs = boto3.Session(*keys, region_name="us-east-1").client("s3", endpoint_url=sandbox.endpoint)
    name = bucket_name("team", NUMBER, "us-east-1")
    theirs.create_bucket(Bucket=name)
    ours = tags.to_aws(tags.account_tags("team"))
    theirs.put_bucket_tagging(Bucket=name, Tagging={"TagSet": ours})  # anybody can write these
    theirs.put_object(Bucket=name, Key="wheels/bad", Body=b"bad")
    if opened:  # a trap: whoever comes may write, and reads what its owner put there
        places = [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"]
        trap = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": places}
        theirs.put_bucket_policy(
            Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [trap]})
        )
        assert sandbox.client("s3").get_object(Bucket=name, Key="wheels/bad")["Body"].read() == b"bad"
    with pytest.raises(AccessDeniedError):
        bucket.put_file(aws, name, "wheels/x", b"x")
    with pytest.raises(AccessDeniedError):
        bucket.read_file(aws, name, "wheels/bad")
    with pytest.raises(PrefectCoiledError):
        bucket.ensure_bucket(aws, NUMBER)
    with pytest.raises(PrefectCoiledError):
        bucket.delete_bucket(aws, name)
    if opened:
        assert "Deny" not in theirs.get_bucket_policy(Bucket=name)["Policy"], "its policy is as it was"
    assert [one["Key"] for one in theirs.list_objects_v2(Bucket=name)["Contents"]] == ["wheels/bad"]


def test_what_is_ours_has_our_tags_and_is_in_our_aws_account(aws: Aws) -> None:
    ours = tags.account_tags("team")
    assert is_ours(aws, ours, NUMBER)
    assert is_ours(aws, ours, f"arn:aws:iam::{NUMBER}:role/team")
    assert not is_ours(aws, ours, OTHER)
    assert not is_ours(aws, ours, f"arn:aws:logs:us-east-1:{OTHER}:log-group:team")
    assert not is_ours(aws, tags.account_tags("team-2"), NUMBER)
    assert not is_ours(aws, {}, NUMBER)


def test_a_name_that_went_to_another_cluster_since_it_was_looked_at_is_left_to_it(
    aws: Aws, spec: Callable[..., ClusterSpec]
) -> None:
    old, new = spec(name="nightly"), spec(name="nightly")
    kind = KINDS["intent"]
    claim_name.fn(aws, old)
    found = list(find(aws, kind, Scope("nightly", old.uid)))
    assert kind.delete is not None
    kind.delete(aws, found)  # by somebody else
    claim_name.fn(aws, new)
    kind.delete(aws, found)
    assert read_holder(aws, "nightly") == new.uid


def test_who_may_remove_but_not_write_removes_a_name_and_leaves_that_of_another_and_his_lease(
    aws: Aws, spec: Callable[..., ClusterSpec], sandbox: Sandbox
) -> None:
    old, new = spec(name="nightly"), spec(name="nightly")
    kind, lease = KINDS["intent"], parameters.removal_of("team", "nightly")
    claim_name.fn(aws, old)
    found = list(find(aws, kind, Scope("nightly", old.uid)))
    parameters.claim(aws, lease, "of one who died", tags.account_tags("team"))
    denied = {"service": "ssm", "action": "PutParameter", "effect": "error", "code": "AccessDeniedException"}
    sandbox.faults([denied])
    assert kind.delete is not None
    kind.delete(aws, found)
    assert parameters.find_parameters(aws, "/prefect-coiled/team/nightly/") == []
    sandbox.faults([])
    claim_name.fn(aws, new)
    parameters.claim(aws, lease, "of another", tags.account_tags("team"))
    sandbox.faults([denied])
    kind.delete(aws, found)
    assert read_holder(aws, "nightly") == new.uid
    assert parameters.read_parameter(aws, lease) == "of another"


def test_a_sweep_leaves_the_new_cluster_of_an_old_name(
    session: Session, aws: Aws, spec: Callable[..., ClusterSpec], sandbox: Sandbox, account: Account
) -> None:
    set_up_account("team", "us-east-1")
    ours = [{"Name": "tag:coiled-account", "Values": ["team"]}]
    vpc = sandbox.client("ec2").describe_vpcs(Filters=ours)["Vpcs"][0]["VpcId"]
    for name in ("aaa", "nightly"):  # what a hurried close leaves
        of_old = tags.account_tags("team", cluster=name, cluster_uid="old")
        security_groups.ensure_security_group(aws, f"old-{name}", "x", vpc, of_old)
    made: list[Any] = []

    def meanwhile(event: Event) -> None:
        if event.kind == "call" and event.action == "ec2:DeleteSecurityGroup" and not made:
            made.append(None)
            with use_session(Session(account.door("us-east-1"))):
                made.append(create_cluster(spec(name="nightly")))

    with hearing(meanwhile):
        removal = sweep("team", "us-east-1")
    record = made[1]
    alive = instances.find_instances(aws, "nightly", states=("pending", "running"))
    assert {m.cluster_uid for m in alive} == {record.uid}
    assert len(alive) == 3
    assert len(removal.removed["security group"]) == 2
    # And whoever means the old one does nothing to the new one, nor to its keys.
    remove_cluster(aws, "nightly", "old")
    assert len(instances.find_instances(aws, "nightly", states=("pending", "running"))) == 3
    path = parameters.cluster_path("team", "nightly")
    assert len(parameters.find_parameters(aws, path)) == 4  # intent, and keys of scheduler, worker, client
    with pytest.raises(ProvisionError, match="another cluster has its name"):
        change_ingress("team", "us-east-1", "nightly", [], uid="old")
    old = spec(name="nightly").model_copy(update={"uid": "old"})
    with pytest.raises(NameTakenError, match="another cluster's by now"):
        add_workers(old, record, 1, "more")


@pytest.mark.long
def test_a_sweep_leaves_a_cluster_that_lives_by_the_time_that_it_comes_to_it(
    session: Session, aws: Aws, spec: Callable[..., ClusterSpec]
) -> None:
    set_up_account("team", "us-east-1")
    late = spec(name="late", n_workers=1)
    vpc = find(aws, KINDS["vpc"])[0]["VpcId"]
    left = tags.account_tags("team", cluster="late", cluster_uid=late.uid)
    security_groups.ensure_security_group(aws, "left", "x", vpc, left)
    plan = plan_sweep(aws)
    assert {change.uid for change in plan.todo if change.cluster} == {late.uid}
    create_cluster(late)
    removal, errors, failed = sweep_clusters(session, plan)
    assert (removal.removed, errors, failed) == ({}, [], [])
    assert len(instances.find_instances(aws, "late", states=("pending", "running"))) == 2


@pytest.mark.long
def test_of_the_clusters_that_had_a_name_the_one_that_has_it_is_meant(
    aws: Aws, spec: Callable[..., ClusterSpec], account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = spec(name="again", n_workers=1), spec(name="again", n_workers=0)
    with use_session(Session(aws)):
        create_cluster(old)
        # Its name is free although its machines are there, as it is when a parameter was deleted by hand.
        aws.call("ssm:DeleteParameters", "", Names=[parameters.intent_of("team", "again")])
        record = create_cluster(new)
        add_workers(new, record, 1, "more")
        change_ingress("team", "us-east-1", "again", [], uid=new.uid)
    found = find_cluster(aws, "again")
    assert found is not None
    assert (found[0].uid, found[1].scheduler.instance_id) == (new.uid, record.scheduler.instance_id)
    newest = {record.scheduler.instance_id, *(w.instance_id for w in found[1].workers)}
    assert len(newest) == 2
    assert machines_of(aws, "again").keys() == newest
    # Both count, and both are listed.
    assert launching._running(aws) == 2
    monkeypatch.setattr("prefect_coiled.blocks.loading.load_account", lambda slug: account)
    listed = json.loads(CliRunner().invoke(app, ["ls", "--json", "--account", "team"]).stdout)
    assert [(c["name"], c["workers"]) for c in listed] == [("again", 1), ("again", 1)]
    with use_session(Session(aws)):
        delete_cluster("team", "us-east-1", "again", new.uid)
    # Whatever is told of a cluster says which it is.
    of = {
        r.event_type: r.data.get("uid") for r in read_notifications(aws) if r.data.get("cluster") == "again"
    }
    assert {kind for kind, uid in of.items() if uid == new.uid} >= {
        "create_scheduler",
        "create_worker",
        "create_cluster",
        "scale",
        "change_ingress",
        "delete_cluster",
    }
    # Of one that is gone too: EC2 shows both, and forgets both.
    assert machines_of(aws, "again").keys() == newest
    monkeypatch.setattr(instances, "find_instances", lambda *args, **kwargs: [])
    assert machines_of(aws, "again").keys() == newest


def test_a_lease_is_held_by_one(aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "GOOD_FOR", 3.0)
    name = "/prefect-coiled/team/proof"
    parameters.claim(aws, name, "dead", tags.account_tags("team"))
    while leases.is_held(aws, name):  # its holder does not write it any more
        threading.Event().wait(0.2)
    at_taking, go, together = threading.Event(), threading.Event(), threading.Barrier(2, timeout=6)
    slow = door_of(sandbox)

    def hold(event: Event) -> None:
        renews = (event.kind, event.action) == ("call", "ssm:PutParameter") and "renewing" in event.text
        if renews and not go.is_set():
            at_taking.set()
            go.wait(20)

    inside: list[str] = []

    def take(door: Aws, which: str) -> None:
        try:
            with hearing(*([hold] if door is slow else [])), leases.lease(door, name):
                inside.append(which)
                go.set()
                together.wait()
        except (PrefectCoiledError, threading.BrokenBarrierError):
            pass

    threads = [threading.Thread(target=take, args=(slow, "slow"))]
    threads[0].start()
    assert at_taking.wait(20)
    threads.append(threading.Thread(target=take, args=(door_of(sandbox), "fast")))
    threads[1].start()
    for thread in threads:
        thread.join(45)
    assert together.broken, "both were inside at once"
    assert inside[0] == "fast"
    assert parameters.find_parameters(aws, "/prefect-coiled/team/") == []


def test_who_has_lost_a_lease_changes_nothing_any_more(
    aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "GOOD_FOR", 1.0)
    name = "/prefect-coiled/team/proof"
    denied = {"service": "ssm", "action": "PutParameter", "effect": "error", "code": "InternalServerError"}
    with leases.lease(aws, name) as held:
        parameters.claim(aws, f"{name}-1", "x", {})
        sandbox.faults([denied | {"status": 500}])
        for _ in range(100):
            if held.lost:
                break
            threading.Event().wait(0.1)
        sandbox.faults([])
        held._thread.join(10)
        assert not held._thread.is_alive(), "it is written no more"
        assert parameters.read_parameter(aws, f"{name}-1") == "x"  # whoever reads does no harm
        with pytest.raises(ProvisionError, match="somebody else may have it"):
            parameters.delete_parameters(aws, [f"{name}-1"])
        # Another one takes it over, and keeps it when the first one goes.
        with leases.lease(door_of(sandbox), name) as other:
            held.give_back()
            assert parameters.read_parameter(aws, name) is not None
            assert not other.lost
    parameters.delete_parameters(aws, [f"{name}-1"])


def test_a_lease_is_given_back_where_what_was_done_under_it_failed(aws: Aws) -> None:
    name = "/prefect-coiled/team/proof"

    def fail() -> None:
        with leases.lease(aws, name):
            assert leases.is_held(aws, name)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not leases.is_held(aws, name)
    assert aws.fence is None


def test_a_lease_counts_from_when_it_was_written_though_the_reply_was_lost(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, later = "/prefect-coiled/team/proof", [0.0]
    claims, reads, now = leases.claim, leases.read_with_age, leases._now

    def claim(*args: Any) -> bool:
        claims(*args)
        return False  # as after a reply that was lost, to somebody whose laptop slept

    def read(door: Aws, key: str) -> tuple[str, float] | None:
        found = reads(door, key)
        return (found[0], found[1] + 40) if found else None

    monkeypatch.setattr(leases, "claim", claim)
    monkeypatch.setattr(leases, "read_with_age", read)
    monkeypatch.setattr(leases, "_now", lambda: now() + later[0])
    check = leases.take(aws, name)
    check()
    later[0] = 10.0
    with pytest.raises(ProvisionError, match="somebody else may have it"):
        check()
    parameters.delete_parameters(aws, [name])


def test_a_change_is_not_tried_again_once_the_lease_is_lost(aws: Aws, sandbox: Sandbox) -> None:
    # As of a laptop that slept while AWS was asked to send it again.
    parameters.claim(aws, "/prefect-coiled/team/proof", "mine", {})
    rule = {"service": "ssm", "action": "DeleteParameters", "effect": "error", "code": "ServiceUnavailable"}
    sandbox.faults([{**rule, "status": 503}])
    door, asked = door_of(sandbox), list[bool]()

    def fence() -> None:
        asked.append(bool(sandbox.struck()))
        if asked[-1]:
            raise ProvisionError("holding the lease", "it was not renewed", "Run it again.")

    door.fence = fence
    with pytest.raises(ProvisionError, match="not renewed"):
        parameters.delete_parameters(door, ["/prefect-coiled/team/proof"])
    assert asked[-2:] == [False, True]
    assert len(sandbox.struck()) == 1
    sandbox.faults([])
    door.fence = None
    parameters.delete_parameters(door, ["/prefect-coiled/team/proof"])


def test_a_lease_that_cannot_be_given_back_in_time_is_left_to_whoever_takes_it(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, later, tried = "/prefect-coiled/team/proof", [0.0], list[float]()
    now = leases._now

    def fail(door: Aws, names: list[str]) -> None:
        tried.append(later[0])
        later[0] += 50.0
        raise UnavailableError("deleting", "SSM has too much to do", "Wait.")

    monkeypatch.setattr(leases, "_now", lambda: now() + later[0])
    with monkeypatch.context() as patch, leases.lease(aws, name):
        patch.setattr(leases, "delete_parameters", fail)
    assert tried == [0.0]
    assert parameters.read_parameter(aws, name) is not None
    parameters.delete_parameters(aws, [name])


def test_who_sends_packages_for_long_is_not_taken_for_dead(
    aws: Aws, spec: Callable[..., ClusterSpec], monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]
) -> None:
    monkeypatch.setattr(parameters, "STARTING", 1.5)
    plan = spec()
    claim_name(aws, plan)
    name = parameters.intent_of("team", plan.name)

    def version() -> int:
        reply = aws.call("ssm:GetParameter", "reading", Name=name)
        return int(reply["Parameter"]["Version"])

    with kept_young(aws, plan):
        until(lambda: version() > 2)
        assert read_holder(aws, plan.name) == plan.uid
        parameters.delete_parameters(aws, [name])
        other = spec(name=plan.name)
        claim_name(aws, other)
        assert read_holder(aws, plan.name) == other.uid
    with kept_young(aws, plan):
        threading.Event().wait(1.2)
    assert read_holder(aws, plan.name) == other.uid, "a name that went to another one is left to it"
    parameters.delete_parameters(aws, [name])
