"""Bakes that were broken off: the next one ends what they left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from prefect_coiled.aws import parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.environment import Locked
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.provision import bake_image
from prefect_coiled.provision.planning import plan_sweep
from prefect_coiled.records import InstanceRecord
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks import images as image_steps
from prefect_coiled.tasks.steps import Session, use_session
from tests.matrix.lives import Killed, Life, answer, called, what_there_is
from tests.provision.laid import bring_up, hurry

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    # Threads of the life that is no more meet it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def test_a_bake_ends_what_one_left_that_was_killed_once_it_had_its_image(
    sandbox: Sandbox,
    aws: Aws,
    spec: Callable[..., ClusterSpec],
    locked: Locked,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hurry(monkeypatch)

    def bake() -> str:
        session = Session(aws)
        session.locked = locked
        with use_session(session):
            return bake_image(spec(zone="us-east-1a")).image_id

    bring_up(aws, "us-east-1a")
    before = what_there_is(sandbox)
    with called(answer):
        first = bake()
    with_image = what_there_is(sandbox)
    assert with_image - before == Counter({"image": 1, "snapshot": 1})
    sandbox.client("ec2").deregister_image(ImageId=first)
    with Life({"ec2:CreateImage": "killed after"}).lived(), pytest.raises(Killed):
        bake()
    assert what_there_is(sandbox)["instance: worker"] == 1
    with called(answer):
        assert bake() != first
    assert what_there_is(sandbox) - with_image <= Counter(snapshot=1)  # of the image that was deregistered


@pytest.mark.parametrize(("bakes", "swept"), [(9000.0, False), (0.0, True)])
def test_a_sweep_leaves_a_bake_that_takes_longer_than_a_launch_may(
    session: Session,
    spec: Callable[..., ClusterSpec],
    locked: Locked,
    monkeypatch: pytest.MonkeyPatch,
    bakes: float,
    swept: bool,
) -> None:
    session.locked = locked
    for image in session.aws.call("ec2:DescribeImages", "images", Owners=["self"])["Images"]:
        session.aws.call("ec2:DeregisterImage", "an image", ImageId=image["ImageId"])
    found: list[bool] = []

    def installs(aws: Aws, builder: InstanceRecord) -> None:
        with pytest.MonkeyPatch.context() as later:  # more than half an hour after its first step
            later.setattr(parameters, "STARTING", 0.0)
            later.setattr(parameters, "BAKING", bakes)
            found.append(builder.instance_id in [one.resource_id for one in plan_sweep(aws).todo])
        raise InterruptedError

    monkeypatch.setattr(image_steps, "wait_for_builder", installs)
    with pytest.raises(InterruptedError):
        bake_image(spec(zone="us-east-1a"))
    assert found == [swept]
