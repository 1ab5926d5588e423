"""Images that the account has baked: found by tag, named by what they hold."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from prefect_coiled.aws import bucket
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.images import root_disk
from prefect_coiled.aws.tagged import ec2_kind, find_tagged
from prefect_coiled.aws.waits import wait_as
from prefect_coiled.errors import AlreadyExistsError, AwsError, NotFoundError, PrefectCoiledError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import ALL, Item, Scope, There
from prefect_coiled.records import BakedImage

# AWS copies a disk for an image; a disk of 30 GiB takes some minutes.
AVAILABLE = 3600.0
# Images of one Python and architecture that a sweep keeps.
KEPT_IMAGES = 3
_PROTECTED = (
    "it is protected from deregistration; take that off (EC2 console > AMIs > Actions > Manage AMI "
    "deregistration protection), then run again"
)
# States of an image from which no machine can be launched, ever.
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Image.html
_FAILED = ("failed", "error", "invalid")
ENVIRONMENT, PYTHON = "coiled-environment", "coiled-python"


def find_baked_images(aws: Aws) -> tuple[BakedImage, ...]:
    """The account's images, the newest first."""
    return tuple(_record(one) for one in _find(aws, ALL))


def _find(aws: Aws, scope: Scope) -> list[Item]:
    # A disabled one is not shown unless it is asked for; it costs what others do, and has to go as they do:
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/disable-an-ami.html
    found = find_tagged(aws, "ec2:DescribeImages", "Images", scope, owners="Owners", disabled=True)
    return sorted(found, key=lambda image: str(image["CreationDate"]), reverse=True)


def create_baked_image(aws: Aws, instance_id: str, name: str, environment: str, python: str) -> str:
    """Take an image of a machine that is off; the one of that name if there is one. Returns its id.

    Its disk is encrypted as that of the machine is.
    """
    labels = tags.named(aws.labels(), name) | {ENVIRONMENT: environment, PYTHON: python}
    try:
        reply = aws.call(
            "ec2:CreateImage",
            f"creating image ({name})",
            InstanceId=instance_id,
            Name=name,
            Description=f"prefect-coiled environment {environment}, Python {python}",
            TagSpecifications=tags.specifications(labels, "image", "snapshot"),
        )
        return str(reply["ImageId"])
    except AlreadyExistsError:
        found = next((i for i in find_baked_images(aws) if i.name == name), None)
        if found is None:
            raise
        return found.image_id


def wait_baked_image(aws: Aws, image_id: str, *, timeout: float = AVAILABLE) -> BakedImage:
    """Wait until an image can be launched.

    Raises:
        ProvisionError: AWS could not make it.
        WaitTimeoutError: It takes too long.
    """
    call, what = "ec2:DescribeImages", f"waiting for image ({image_id}) to be available"
    try:
        reply = wait_as(
            aws, "image_available", call, what, timeout=timeout, interval=5.0, ImageIds=[image_id]
        )
    except PrefectCoiledError as error:
        if not _given_up(aws, image_id):
            why = "it may still come, and its snapshot is stored; a bake of the same packages finds it"
            error.left = {image_id: f"{why}, or deregister it (EC2 console > AMIs)"}
        raise
    return _record(reply["Images"][0])


def _given_up(aws: Aws, image_id: str) -> bool:
    """Remove an image that failed: no machine can be launched from it, and it keeps its name."""
    try:
        found = aws.call("ec2:DescribeImages", f"looking at image ({image_id})", ImageIds=[image_id])[
            "Images"
        ]
        if not found or found[0]["State"] not in _FAILED:
            return False
        aws.call("ec2:DeregisterImage", f"deregistering image ({image_id})", ImageId=image_id)
    except AwsError:
        return False
    return True


def _surplus(item: Item, there: There, idle: bool) -> str:
    """The newest of each Python and architecture stay; all do while a cluster may start more of them.

    One that AWS could not make keeps no other, and goes: no machine starts from it.
    """
    image = _record(item)
    if image.state in _FAILED:
        return f"AWS could not make it ({image.state})" if idle else ""
    alike = [one for one in map(_record, there["image"]) if one.alike == image.alike]
    before = alike[: [one.image_id for one in alike].index(image.image_id)]  # they are the newest first
    newer = sum(one.state in ("available", "pending") for one in before)
    return f"{newer} newer ones for Python {image.python}" if idle and newer >= KEPT_IMAGES else ""


def _delete(aws: Aws, items: list[Item]) -> None:
    """Delete the lists of what images hold, and deregister them; their snapshots are rows of their own."""
    for item in items:
        what = f"deregistering image ({item['ImageId']})"
        with suppress(NotFoundError):  # the bucket may be gone
            bucket.delete_files(aws, bucket.own_name(aws), [_record(item).lock_key])
        aws.call("ec2:DeregisterImage", what, ImageId=item["ImageId"])


def _held(item: Item) -> str:
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-deregistration-protection.html
    protected = str(item.get("DeregistrationProtection") or "disabled") != "disabled"
    return _PROTECTED if protected else ""


def _of_no_image(item: Item, there: There, idle: bool) -> str:
    images = list(map(_record, there["image"]))
    if any(image.state == "pending" for image in images):
        return ""  # it may be of one that is being made, of which AWS does not name it yet
    used = {snapshot for image in images for snapshot in image.snapshot_ids}
    return "no image has it" if idle and item["SnapshotId"] not in used else ""


def _record(image: Item) -> BakedImage:
    labels = tags.from_aws(image.get("Tags"))
    root, disk = root_disk(image)
    return BakedImage(
        image_id=str(image["ImageId"]),
        name=str(image.get("Name", "")),
        environment=labels.get(ENVIRONMENT, ""),
        python=labels.get(PYTHON, ""),
        architecture=str(image.get("Architecture", "")),
        state=str(image.get("State", "")),
        created_at=datetime.fromisoformat(str(image["CreationDate"]).replace("Z", "+00:00")),
        snapshot_ids=tuple(
            str(m["Ebs"]["SnapshotId"])
            for m in image.get("BlockDeviceMappings", ())
            if m.get("Ebs", {}).get("SnapshotId")
        ),
        root_device=root,
        disk=disk,
    )


IMAGE = ec2_kind(
    "image",
    "ec2:DescribeImages",
    "Images",
    "ImageId",
    find=_find,
    note=lambda item: _record(item).note,
    waits_for=("snapshot", "bucket"),
    surplus=_surplus,
    held=_held,
    delete=_delete,
)

SNAPSHOT = ec2_kind(
    "snapshot",
    "ec2:DescribeSnapshots",
    "Snapshots",
    "SnapshotId",
    "ec2:DeleteSnapshot",
    owners="OwnerIds",
    surplus=_of_no_image,
)
