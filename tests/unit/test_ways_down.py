"""What goes and what stays on a way down: machines that hang, images that failed, what others do then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.aws.ecr import REPOSITORY
from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.aws.logs import LOG_GROUP
from prefect_coiled.aws.vpc import VPC
from prefect_coiled.cluster import launch
from prefect_coiled.errors import NotFoundError, WaitTimeoutError
from prefect_coiled.plan import tags
from prefect_coiled.plan.changes import of_sweep, standing
from prefect_coiled.plan.kinds import ALL, Item, Wanted
from prefect_coiled.plan.prices import shipped
from prefect_coiled.provision import cluster_removal, removal, set_up


def what_goes(**there: list[Item]) -> set[str]:
    """Of what there is in an idle account, what a sweep removes."""
    everything = {row: there.get(row.replace(" ", "_"), []) for row in KINDS}
    changes = of_sweep(KINDS, everything, prices=shipped())
    return {change.resource_id for change in changes if change.action == "delete"}


def image(name: str, state: str, day: int, **ebs: Any) -> Item:
    return {
        "ImageId": name,
        "Name": name,
        "State": state,
        "RootDeviceName": "/dev/xvda",
        "CreationDate": f"2026-01-{day:02}T00:00:00.000Z",
        "Architecture": "x86_64",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, **ebs}}],
        "Tags": [{"Key": "coiled-python", "Value": "3.11"}],
    }


def test_images_that_failed_keep_no_other_and_go() -> None:
    images = [
        image("d", "failed", 4),
        image("c", "error", 3),
        image("b", "failed", 2),
        image("a", "available", 1),
    ]
    assert what_goes(image=images) == {"d", "c", "b"}
    good = [image(name, "available", 9 - n) for n, name in enumerate("dcba")]
    assert what_goes(image=good) == {"a"}, "the newest three stay"


def test_the_snapshot_of_an_image_that_is_being_made_stays_though_aws_does_not_name_it_yet() -> None:
    snapshot = {"SnapshotId": "snap-1", "State": "pending", "Tags": []}
    assert what_goes(image=[image("a", "pending", 1)], snapshot=[snapshot]) == set()
    assert what_goes(image=[image("a", "available", 1)], snapshot=[snapshot]) == {"snap-1"}


@pytest.mark.parametrize(("state", "lives"), [("pending", True), ("running", True), ("stopped", False)])
def test_a_scheduler_that_was_stopped_is_as_dead_as_one_that_has_ended(state: str, lives: bool) -> None:
    labels = {tags.CLUSTER: "one", tags.CLUSTER_UID: "u1", tags.ROLE: "scheduler"}
    machine = {"InstanceId": "i-1", "State": {"Name": state}, "Tags": tags.to_aws(labels)}
    found = standing(KINDS, {"instance": [machine]})
    assert [one.uid for one in (found.live if lives else found.dead)] == ["u1"]


def test_a_machine_that_does_not_end_in_time_is_left_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"InstanceId": "i-1", "InstanceType": "m7i.large", "State": {"Name": "shutting-down"}, "Tags": []}
    monkeypatch.setattr(removal, "seen_prices", lambda aws: shipped())
    monkeypatch.setattr(removal, "find", lambda aws, kind: [shown])

    def run(step: Any, calls: list[Any]) -> list[Any]:
        return [
            WaitTimeoutError("waiting for instances", "after 20 seconds i-1 is shutting-down") for _ in calls
        ]

    aws: Any = None
    doomed = {"instance": [cluster_removal._ending("i-1")]}
    told, errors = removal.remove(aws, doomed, run, 20.0, asked=("instance",))
    assert list(told.left) == ["i-1"]
    assert len(errors) == 1


@pytest.mark.parametrize("nat", [False, True])
def test_a_set_up_that_finds_all_there_waits_for_who_removes_it(
    nat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    held = iter([True, False])
    monkeypatch.setattr(set_up, "look", lambda *_, **__: done.append("look") or {})
    monkeypatch.setattr(set_up, "set_up_of", lambda *_: SimpleNamespace(todo=()))
    monkeypatch.setattr(set_up.steps, "is_held", lambda aws: next(held))
    monkeypatch.setattr(set_up.steps, "wait_until_free", lambda aws: done.append("wait"))
    aws: Any = SimpleNamespace(account="team", labels=dict)
    want = Wanted(zones=("a",), every=("a",), zone="a", nat=nat)
    set_up._brought(aws, want, "ecr", ("network",), strict=False)
    assert done == ["look", "wait", "look"]


class Going:
    """An account whose VPC, log group and repository are listed, and gone at the next call."""

    account = "team"

    def call(self, action: str, what: str, **given: Any) -> Any:
        if action == "ecr:DescribeRepositories":
            return {"repositories": [{"repositoryArn": "arn", "repositoryName": "coiled-team"}]}
        if action == "ecr:ListTagsForResource":
            return {"tags": []}
        raise NotFoundError(what, "there is no such thing.")

    def pages(self, action: str, what: str, key: str, **given: Any) -> Any:
        if action == "ecr:DescribeImages":
            raise NotFoundError(what, "there is no such thing.")
        listed: dict[str, Any] = {
            "logGroups": {"logGroupName": "team", "arn": "arn"},
            "Vpcs": {"VpcId": "vpc-1"},
        }
        return iter([listed[key]])


def test_what_goes_between_two_reads_of_it_hides_nothing() -> None:
    aws: Any = Going()
    assert list(LOG_GROUP.find(aws, ALL)) == []
    assert list(REPOSITORY.find(aws, ALL)) == []
    (vpc,) = VPC.find(aws, ALL)
    assert vpc["VpcId"] == "vpc-1"


def test_a_cluster_without_a_listed_scheduler_is_taken_for_ended_after_the_lists_may_be_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, removed, uids = [0.0], list[float](), ["u1"]
    monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(launch.parameters, "intent_of", lambda *_: "intent")
    monkeypatch.setattr(launch.parameters, "read_with_age", lambda *_: ("its plan", 9000.0))
    monkeypatch.setattr(launch, "uid_of", lambda text: uids[0])
    monkeypatch.setattr(launch, "find_cluster", lambda *_: None)
    monkeypatch.setattr(launch.instances, "find_instances", lambda *_, **__: [])

    def remove(*_: Any, **__: Any) -> Any:
        assert _[2] == uids[0]
        removed.append(clock[0])
        return SimpleNamespace(is_done=True)

    def wait(aws: Any, what: str, look: Any, **_: Any) -> Any:
        while (found := look()) is None:
            clock[0] += 1.0
            if clock[0] == 20.0:  # somebody else has removed it, and started another one
                uids[0] = "u2"
        return found

    monkeypatch.setattr(launch, "remove_cluster", remove)
    monkeypatch.setattr(launch, "wait_for", wait)
    aws: Any = SimpleNamespace(account="team")
    assert launch._find_or_await(aws, "one") is None
    assert removed == [20.0 + launch.CONSISTENCY + 1], "counted anew for the other cluster"
