"""Steps that bake an image, and that choose the image of a cluster."""

from __future__ import annotations

from contextlib import suppress

from prefect_coiled.aws import baked_images, bucket, images, instances, launch_templates
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.waits import persistently, wait_for
from prefect_coiled.environment import Lock
from prefect_coiled.errors import ProvisionError, WaitTimeoutError
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.known import image_key
from prefect_coiled.plan.user_data import BAKED, Place, bake_data
from prefect_coiled.records import BakedImage, InstanceRecord, MachineImage, Role
from prefect_coiled.tasks.environment import read_lock
from prefect_coiled.tasks.steps import Session, step

# Seconds that the installation may take.
INSTALLING = 1800.0
# Seconds that AWS may take to show what a machine wrote before its end.
CONSOLE = 180.0
# Images looked into for the nearest one.
_LOOKED_INTO = 8


@step("image", "image of {role}s")
def choose_image(
    session: Session, spec: ClusterSpec, role: Role, bucket_name: str
) -> tuple[MachineImage, str]:
    """The image of a role's machines and a note on it: baked with what they install, or a plain one.

    Workers with a GPU have the one that AWS makes for them.
    """
    gpu = spec.gpu and role == "worker"
    if session.locked is not None and spec.installs and not gpu:
        found = nearest(session.aws, spec.architecture, session.locked.lock, bucket_name)
        if found is not None:
            return found
    key = image_key(spec.architecture, gpu=gpu)
    if key not in session.images:
        session.images[key] = images.find_image(session.aws, spec.architecture, gpu=gpu)
    return session.images[key], "bare" if spec.installs else ""


def nearest(aws: Aws, architecture: str, lock: Lock, bucket_name: str) -> tuple[MachineImage, str] | None:
    """The baked image with the most of a lock's packages, in bytes; None if none has any of them."""
    minor = ".".join(lock.python.split(".")[:2])
    fitting = [
        i
        for i in baked_images.find_baked_images(aws)
        if (i.architecture, i.python, i.state) == (architecture, minor, "available")
    ]
    for image in fitting:
        if image.environment == lock.environment_hash:
            return image.machine_image, "baked with these packages"
    wanted = {w.key: max(w.size, 1) for w in lock.wheels}
    best: tuple[int, BakedImage, int] | None = None
    for image in fitting[:_LOOKED_INTO]:
        held = read_lock(aws, bucket_name, image.lock_key)
        common = {w.key for w in held.wheels} & set(wanted) if held else set()
        size = sum(wanted[key] for key in common)
        if common and (best is None or size > best[0]):
            best = size, image, len(common)
    if best is None:
        return None
    return best[1].machine_image, f"baked with {best[2]} of {len(wanted)} packages"


@step("launch template", "launch template of the builder")
def ensure_builder_template(
    aws: Aws, spec: ClusterSpec, image: MachineImage, profile: str, place: Place
) -> str:
    """The launch template of the machine that an image is taken of: it stops where others terminate."""
    script = bake_data(place, spec.region, INSTALLING)
    data = planning.launch_template(spec, "worker", image=image, profile=profile, user_data=script)
    data["InstanceInitiatedShutdownBehavior"] = "stop"
    token = planning.client_token(spec.uid, "template", "builder")
    labels = planning.cluster_tags(spec, "worker")
    name = planning.template_name(spec, "worker")
    return launch_templates.ensure_launch_template(aws, name, data, labels, token)


@step("wait for the builder")
def wait_for_builder(aws: Aws, builder: InstanceRecord) -> None:
    """Wait until the installation is done and the machine is off.

    Raises:
        ProvisionError: It failed; with the machine's last words.
        WaitTimeoutError: It takes too long.
    """
    what = f"baking on machine {builder.instance_id}"

    def off() -> InstanceRecord | None:
        found = instances.find_by_id(aws, builder.instance_id)
        return found if found and found.state in ("stopped", "shutting-down", "terminated") else None

    found = wait_for(aws, what, off, timeout=INSTALLING + 300, interval=5.0)
    lines = _last_words(aws, builder)
    # An image of a machine that did not say so would lack packages.
    if found.state != "stopped" or not any(f"prefect-coiled: {BAKED} " in line for line in lines):
        words = " | ".join(lines[-8:]) or "nothing"
        step = (
            "Mend what the lines tell, and bake again."
            if lines
            else "AWS shows no console of it. Bake again."
        )
        raise ProvisionError(what, f"it is {found.state} and said: {words}", step)


def _last_words(aws: Aws, builder: InstanceRecord) -> list[str]:
    """What a machine that is off wrote to its console, to its end if AWS shows that.

    AWS posts it a while after the machine has stopped:
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
    """
    lines: list[str] = []
    reading = f"reading what machine {builder.instance_id} said"

    def whole() -> bool | None:
        said = persistently(aws, reading, lambda: instances.read_console(aws, builder.instance_id))
        lines[:] = said.strip().splitlines()
        ends = (f"prefect-coiled: {BAKED} ", "; powering off")
        return True if any(end in line for line in lines for end in ends) else None

    with suppress(WaitTimeoutError):
        wait_for(aws, reading, whole, timeout=CONSOLE, interval=5.0)
    return lines


@step("create image", "create image {name}")
def create_image(aws: Aws, builder: InstanceRecord, name: str, lock: Lock, bucket_name: str) -> BakedImage:
    """Take the image, and keep the list of its packages beside it."""
    minor = ".".join(lock.python.split(".")[:2])
    # First the list: an image without one would never be the nearest.
    key = BakedImage.lock_key_of(lock.environment_hash)
    bucket.put_file(aws, bucket_name, key, lock.text().encode())
    image_id = baked_images.create_baked_image(aws, builder.instance_id, name, lock.environment_hash, minor)
    return baked_images.wait_baked_image(aws, image_id)
