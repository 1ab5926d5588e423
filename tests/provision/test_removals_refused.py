"""A call that removes is refused for good: all else goes, what is left is said, the next run ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import botocore.client
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from prefect_coiled.aws import parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.images import find_image
from prefect_coiled.aws.kinds import KINDS, find_all
from prefect_coiled.errors import CredentialsError, PrefectCoiledError
from prefect_coiled.plan import tags
from prefect_coiled.plan.actions import ACTIONS
from prefect_coiled.plan.cluster import ClusterSpec, cluster_tags
from prefect_coiled.plan.kinds import Scope, There
from prefect_coiled.plan.prices import shipped
from prefect_coiled.provision import delete_cluster, destroy_account, planning, sweep
from prefect_coiled.records import Removal
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks import names
from prefect_coiled.tasks.machine_data import launch_data
from prefect_coiled.tasks.steps import Session
from tests.provision.laid import bring_up, hurry, refused

pytestmark = pytest.mark.usefixtures("nothing_there")

_call: Any = botocore.client.BaseClient.__dict__["_make_api_call"]
Spec = Callable[..., ClusterSpec]
ZONE, NAME = "us-east-1a", "one"
OURS = tags.account_tags("team")
REMOVING = ("Delete", "Deregister", "Detach", "Disassociate", "Release", "Remove", "Revoke", "Terminate")
NOT_FOUND = {
    "ec2": "InvalidVpcID.NotFound",
    "ecr": "RepositoryNotFoundException",
    "iam": "NoSuchEntity",
    "logs": "ResourceNotFoundException",
    "s3": "NoSuchBucket",
    "ssm": "ParameterNotFound",
}
FAULTS = {
    "denied": ("AccessDenied", 403),
    "slowed down": ("Throttling", 400),
    "failing": ("InternalError", 500),
    "not found": ("", 404),
    "its reply is lost": None,
}
# Answers of EC2 and S3 that are no errors by their status, and name what they did not remove.
INSIDE = {"ec2:DeleteVpcEndpoints": "Unsuccessful", "s3:DeleteObjects": "Errors"}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of waits pass some hundred times as fast, and Prefect repeats no step."""
    hurry(monkeypatch)
    monkeypatch.setattr(planning, "REGIONS", ("us-east-1", "eu-west-1"))


def a_cluster(aws: Aws, spec: ClusterSpec, there: There, sandbox: Sandbox, roles: tuple[str, ...]) -> str:
    """What a cluster has, and its machines; gives the image's id."""
    names.claim_name.fn(aws, spec)
    steps.ensure_security_groups.fn(aws, spec, str(there["vpc"][0]["VpcId"]))
    parameters.put_secret(aws, f"{parameters.cluster_path(aws.account, spec.name, spec.uid)}key", "x", {})
    image = find_image(aws, "x86_64")
    data = launch_data(spec, "scheduler", image, aws.account)
    steps.ensure_launch_template.fn(aws, spec, "scheduler", data)
    for role in roles:
        labels = cluster_tags(spec, role)  # type: ignore[arg-type]
        a_machine(sandbox, image.image_id, labels)
    return image.image_id


def a_machine(sandbox: Sandbox, image_id: str, labels: dict[str, str]) -> str:
    tagged = tags.specifications(labels, "instance", "volume")
    made = sandbox.client("ec2").run_instances(
        ImageId=image_id, InstanceType="t3.micro", MinCount=1, MaxCount=1, TagSpecifications=tagged
    )
    return str(made["Instances"][0]["InstanceId"])


def images(sandbox: Sandbox, base: str, count: int) -> None:
    """Baked images, of a machine that is nobody's."""
    ec2 = sandbox.client("ec2")
    machine = a_machine(sandbox, base, {"owner": "somebody"})
    ec2.get_waiter("instance_running").wait(InstanceIds=[machine])
    for number in range(count):
        tagged = tags.specifications({**OURS, "coiled-environment": f"e{number}"}, "image", "snapshot")
        ec2.create_image(InstanceId=machine, Name=f"baked-{number}", TagSpecifications=tagged)
    ec2.terminate_instances(InstanceIds=[machine])


def for_destroy(aws: Aws, spec: ClusterSpec, sandbox: Sandbox) -> None:
    there = bring_up(aws, ZONE)
    images(sandbox, a_cluster(aws, spec, there, sandbox, ()), 1)
    arn = "arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess"
    aws.call("iam:AttachRolePolicy", "attaching", RoleName="team", PolicyArn=arn)
    sandbox.client("s3").put_object(Bucket=there["bucket"][0]["Name"], Key="wheels/a", Body=b"x")


def for_sweep(aws: Aws, spec: ClusterSpec, sandbox: Sandbox) -> None:
    images(sandbox, a_cluster(aws, spec, bring_up(aws, ZONE), sandbox, ("worker",)), 4)
    ec2 = sandbox.client("ec2")
    ec2.create_internet_gateway(TagSpecifications=tags.specifications(OURS, "internet-gateway"))
    ec2.create_vpc(CidrBlock="10.9.0.0/16", TagSpecifications=tags.specifications(OURS, "vpc"))


def for_close(aws: Aws, spec: ClusterSpec, sandbox: Sandbox) -> None:
    a_cluster(aws, spec, bring_up(aws, ZONE), sandbox, ("scheduler", "worker"))


def of_plan(plan: Callable[[Aws], Any]) -> Callable[[Aws], set[tuple[str, str]]]:
    return lambda aws: {(change.row, change.resource_id) for change in plan(aws).todo}


def of_cluster(aws: Aws) -> set[tuple[str, str]]:
    rows = [row for row in KINDS if KINDS[row].of_clusters and KINDS[row].delete]
    found = find_all(aws, rows, Scope(NAME))
    return {(row, KINDS[row].id_of(item)) for row, items in found.items() for item in items}


class Way(NamedTuple):
    """A way down: what there is before, what of it goes, and how."""

    make: Callable[[Aws, ClusterSpec, Sandbox], None]
    doomed: Callable[[Aws], set[tuple[str, str]]]
    run: Callable[[], Removal]


WAYS = {
    "destroy": Way(
        for_destroy, of_plan(planning.plan_destruction), lambda: destroy_account("team", "us-east-1")
    ),
    "sweep": Way(for_sweep, of_plan(planning.plan_sweep), lambda: sweep("team", "us-east-1")),
    "close": Way(for_close, of_cluster, lambda: delete_cluster("team", "us-east-1", NAME)),
}
ALONE = {  # what the other ways do is done by the end of an account too, but for these
    "sweep": {"TerminateInstances", "DeleteNatGateway", "ReleaseAddress", "DeregisterImage", "DeleteVpc"},
    "close": {"TerminateInstances", "DeleteSecurityGroup", "DeleteLaunchTemplate", "DeleteParameters"},
}
# Rules from one group of a cluster to another are made by others alone: here there are none to take away.
RULES = "ec2:RevokeSecurityGroupIngress"
REMOVALS = sorted(c for c in ACTIONS if c.partition(":")[2].startswith(REMOVING) and c != RULES)
CASES = [("destroy", call) for call in REMOVALS if call != "ec2:TerminateInstances"]
CASES += [(way, call) for way, some in ALONE.items() for call in REMOVALS if call.partition(":")[2] in some]


def strike(patch: pytest.MonkeyPatch, call: str, fault: str) -> Counter[str]:
    """One call has a fault each time. Gives how often each call is made."""
    made = Counter[str]()

    def struck(self: Any, operation: str, given: dict[str, Any]) -> Any:
        service = self.meta.service_model.service_name
        made[f"{service}:{operation}"] += 1
        if f"{service}:{operation}" != call:
            return _call(self, operation, given)
        answer = FAULTS[fault]
        if answer is None:
            _call(self, operation, given)
            raise ConnectionClosedError(endpoint_url="https://aws")
        error = {"Code": answer[0] or NOT_FOUND[service], "Message": "No."}
        if fault == "denied" and call in INSIDE:
            named = {"Key": "wheels/a", **error} if service == "s3" else {"ResourceId": "x", "Error": error}
            return {INSIDE[call]: [named], "ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": {}}}
        raise refused(operation, error["Code"], error["Message"], answer[1])

    patch.setattr(botocore.client.BaseClient, "_make_api_call", struck)
    return made


def expire(patch: pytest.MonkeyPatch, met: set[str]) -> list[str]:
    """From the first call on that was not met yet, credentials are taken no more. Gives what was removed."""
    done: list[str] = []
    gone: list[str] = []

    def struck(self: Any, operation: str, given: dict[str, Any]) -> Any:
        call = f"{self.meta.service_model.service_name}:{operation}"
        if gone or call not in met:
            met.update([] if gone else [call])
            gone.append(call)
            error = {"Code": "RequestExpired", "Message": "Request has expired."}
            refused: Any = {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {}}}
            raise ClientError(refused, operation)
        reply = _call(self, operation, given)
        done.extend([call] if operation.startswith(REMOVING) else [])
        return reply

    patch.setattr(botocore.client.BaseClient, "_make_api_call", struck)
    return done


def ended(run: Callable[[], Removal]) -> Removal:
    """What is said of it, by an error or without."""
    try:
        return run()
    except PrefectCoiledError as error:
        return Removal(left=dict(error.left))


def needing(row: str) -> set[str]:
    """The rows that can only go after a row."""
    found = set(KINDS[row].waits_for) & set(KINDS)
    return found.union(*(needing(other) for other in found))


def prices(aws: Aws) -> dict[str, float | None]:
    there = [(KINDS[row], one) for row, some in find_all(aws).items() for one in some]
    return {kind.id_of(one): kind.usd(one, shipped()) for kind, one in there}


def test_every_row_and_every_call_is_met(aws: Aws, spec: Spec, sandbox: Sandbox) -> None:
    WAYS["destroy"].make(aws, spec(name=NAME), sandbox)
    there = {row for row, _ in WAYS["destroy"].doomed(aws)}
    assert there == {row for row, kind in KINDS.items() if kind.delete is not None} - {"instance"}
    assert {call for _, call in CASES} == set(REMOVALS)


@pytest.mark.parametrize(("way", "call"), CASES)
def test_what_is_refused_for_good_is_left_and_said_and_all_else_goes(
    session: Session,
    spec: Spec,
    aws: Aws,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    call: str,
) -> None:
    make, doomed, run = WAYS[way]
    make(aws, spec(name=NAME), sandbox)
    for fault in FAULTS:
        before = doomed(aws)
        with monkeypatch.context() as patch:
            made = strike(patch, call, fault)
            removal = ended(run)
        left = doomed(aws)
        parameters.delete_parameters(aws, [parameters.set_up_lease("team")])  # nobody's after a minute
        assert 0 < made[call] < 40, fault
        if fault == "its reply is lost":  # it was done
            assert left <= before
            continue
        assert left, fault
        assert not removal.is_done, fault
        # One kind is refused; what is left beside it can only go after it.
        rows = {row for row, _ in left}
        first = {row for row in rows if not any(row in needing(other) for other in rows)}
        if call == "ec2:TerminateInstances":  # the rest of a cluster is of use to a machine that runs on
            first = {row for row in first if not KINDS[row].of_clusters} | {"instance"}
        assert len(first) == 1, (fault, first)
        costs = prices(aws)
        for row, one in left:
            if row == "intent" or (call == "ec2:TerminateInstances" and row not in first):
                continue  # it stays with what is left, which is no news
            assert one in removal.left, fault
            assert ("an hour" in removal.left[one]) is bool(costs.get(one)), (fault, removal.left[one])
    assert ended(run).is_done
    assert not doomed(aws)


@pytest.mark.parametrize("way", list(WAYS))
def test_credentials_that_expire_on_the_way_down_leave_nothing_untold(
    session: Session, spec: Spec, aws: Aws, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    make, doomed, run = WAYS[way]
    make(aws, spec(name=NAME), sandbox)
    met: set[str] = set()
    while True:
        with monkeypatch.context() as patch:
            before = len(met)
            done = expire(patch, met)
            try:
                run()
            except CredentialsError as error:
                left = error.left
            else:
                break
        assert len(met) == before + 1
        parameters.delete_parameters(aws, [parameters.set_up_lease("team")])  # nobody's after a minute
        costs = prices(aws)
        for row, one in doomed(aws) if set(done) - {"ssm:DeleteParameters"} else ():
            # What was not looked for yet is told by the cluster's name.
            assert one in left or (KINDS[row].of_clusters and NAME in left), (met, row, one)
            assert one not in left or ("an hour" in left[one]) is bool(costs.get(one)), left[one]
    assert not doomed(aws)
    assert {call.partition(":")[2] for call in met} >= {
        "DeleteSecurityGroup",
        "TerminateInstances",
    } or way == "destroy"
