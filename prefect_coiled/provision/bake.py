"""Bake an image that holds an environment, so that machines of it install nothing at their boot.

    lock ─▶ claim name ─▶ set up account ─▶ wheels ─▶ bare image ─▶ builder: installs, powers off
                                                                     ─▶ image ─▶ remove the builder

The builder is a cluster of one machine, named after its environment: two bakes of one environment meet at the
name, and what a killed bake leaves goes with the next sweep. Whatever fails, the builder is removed.
"""

from __future__ import annotations

from prefect import flow

from prefect_coiled import events
from prefect_coiled.aws import baked_images
from prefect_coiled.aws.instances import check_instance_types
from prefect_coiled.aws.parameters import BAKE
from prefect_coiled.errors import AwsError, NameTakenError, ProvisionError
from prefect_coiled.events import Watch
from prefect_coiled.plan import machines
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.user_data import DISTRIBUTED_PYTHONS
from prefect_coiled.provision.cluster_removal import remove_cluster
from prefect_coiled.provision.clusters import account_of, give_back, tell_left
from prefect_coiled.provision.launching import vpc_and_zones
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.records import AccountRecord, BakedImage, Removal
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks import images as image_steps
from prefect_coiled.tasks import names
from prefect_coiled.tasks.environment import deliver, prepare
from prefect_coiled.tasks.launch import launch
from prefect_coiled.tasks.steps import Session


@flow(name="bake image", flow_run_name="bake image {spec.name}", persist_result=False)
def bake_image(spec: ClusterSpec) -> BakedImage:
    """Make an image with the client's packages, or find the one that has exactly them.

    Args:
        spec: A cluster as it would be launched: its account, region, architecture, worker types and disk,
            and what of the packages to leave out.

    Returns:
        The image, which clusters use from now on.

    Raises:
        OptionsError: A package cannot be had for the machines; nothing was made.
        PrefectCoiledError: With the first cause; the builder is gone. Where AWS keeps the builder of an image
            that was made: with what is `left`.
    """
    with session_for(spec.account, spec.region) as session:
        if unknown := [one for one in spec.worker_types if not machines.known(one)]:
            check_instance_types(session.aws, unknown)  # before hundreds of packages are sent
        if session.locked is None:
            session.locked = prepare(spec)
        lock = session.locked.lock
        name = f"{BAKE}{lock.environment_hash}"
        for image in baked_images.find_baked_images(session.aws):
            if (image.environment, image.architecture) != (lock.environment_hash, spec.architecture):
                continue
            if image.state == "disabled":  # its name is taken, and no machine can be launched from it
                raise ProvisionError(
                    f"baking {image.name}",
                    f"image {image.image_id} holds these packages already, and is disabled",
                    "Enable it, or deregister it (EC2 console > AMIs > Disabled images > Actions).",
                )
            if image.state == "available":
                events.step("image", f"{image.image_id} holds these packages already")
                # Of a bake that was broken off after that, or is at its end: nobody needs its builder.
                builder = spec.model_copy(update={"name": name})
                try:
                    _end(session, builder, None)
                except AwsError as error:  # the image is what was asked for
                    tell_left(builder, Removal(left={name: error.diagnosis.why}))
                return image
        # Amazon Linux has the usual Pythons in S3; only for another one is there a way out needed.
        alone = ".".join(lock.python.split(".")[:2]) in DISTRIBUTED_PYTHONS
        egress = "none" if alone and spec.egress == "nat" else spec.egress
        spec = spec.model_copy(
            update={
                "name": name,
                "n_workers": 1,
                "ingress": (),
                "egress": egress,
                "spot_policy": "on-demand",
            }
        )
        try:
            names.take_name(session.aws, spec)
        except NameTakenError as taken:
            where = f"--account {spec.account} --region {spec.region}"
            raise NameTakenError(
                "baking these packages",
                f"a bake of them is under way, or one was broken off and left something of {spec.name}",
                f"Wait for it, or remove what it left: `prefect-coiled stop {spec.name} {where}`.",
            ) from taken
        try:
            # Whoever destroys the account sees by the name that it is needed; before, it may go meanwhile.
            image = _bake(session, spec, account_of(session, spec))
        except BaseException:
            give_back(session, spec)  # whoever asked is told the first cause
            raise
        _end(session, spec, spec.uid)
        return image


def _end(session: Session, spec: ClusterSpec, uid: str | None) -> None:
    """Remove a builder; where AWS keeps something of it, that is told."""
    door, ids = session.aws.without_stop(), tuple(session.launched)
    removal = remove_cluster(door, spec.name, uid, ids=ids, patience=60.0)
    if removal.left:
        tell_left(spec, removal)


def _bake(session: Session, spec: ClusterSpec, account: AccountRecord) -> BakedImage:
    aws = session.aws
    assert session.locked is not None
    lock = session.locked.lock
    watch = Watch()
    delivery = deliver(session, account.aws_account_id)
    events.step("environment", str(delivery))
    own = steps.check_own_network(aws, spec)
    vpc_id, zones = vpc_and_zones(spec, account, own)
    groups = steps.ensure_security_groups(aws, spec, vpc_id)
    steps.open_security_groups(aws, spec, groups)
    bare = steps.find_image(aws, spec.architecture)
    template = image_steps.ensure_builder_template(aws, spec, bare, account.account, delivery.place)
    events.step("builder", "launching")
    names.check_held(aws, spec)
    (builder,) = launch(
        session,
        spec,
        "worker",
        zones["worker"],
        account.network,
        count=1,
        least=1,
        by=template,
        group_ids=groups.of("worker"),
        first_zone=own.worker_zone if own else None,
        dedicated=own is not None and own.dedicated,
    )
    events.step("builder", f"{builder.instance_id} installs {delivery.wheels} packages")
    image_steps.wait_for_builder(aws, builder)
    events.step("image", "being made")
    name = f"coiled-{spec.account}-{lock.environment_hash}"
    image = image_steps.create_image(aws, builder, name, lock, delivery.place.bucket)
    events.step("image", f"{image.image_id} after {watch.seconds:.0f} s")
    aws.tell("create_image", f"baked {image.name}", seconds=watch.seconds, reply={"ImageId": image.image_id})
    return image
