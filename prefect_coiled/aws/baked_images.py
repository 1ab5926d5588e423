"""Images that the account has baked: found by tag, named by what they hold."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.images import root_disk
from prefect_coiled.aws.waits import wait_for
from prefect_coiled.errors import AlreadyExistsError, InUseError, NotFoundError, ProvisionError
from prefect_coiled.plan import tags
from prefect_coiled.records import BakedImage

# AWS copies a disk for an image; a disk of 30 GiB takes some minutes.
AVAILABLE = 3600.0
ENVIRONMENT, PYTHON = "coiled-environment", "coiled-python"


def find_baked_images(aws: Aws) -> tuple[BakedImage, ...]:
    """The account's images, the newest first."""
    found = aws.pages(
        "ec2:DescribeImages",
        f"finding images ({aws.account})",
        "Images",
        Owners=["self"],
        Filters=tags.filters(tags.account_tags(aws.account)),
    )
    return tuple(sorted((_record(one) for one in found), key=lambda i: i.created_at, reverse=True))


def create_baked_image(aws: Aws, instance_id: str, name: str, environment: str, python: str) -> str:
    """Take an image of a machine that is off; the one of that name if there is one. Returns its id.

    Its disk is encrypted as that of the machine is.
    """
    labels = tags.named(tags.account_tags(aws.account), name) | {ENVIRONMENT: environment, PYTHON: python}
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

    def ready() -> BakedImage | None:
        found = next((i for i in find_baked_images(aws) if i.image_id == image_id), None)
        if found is not None and found.state in ("failed", "error", "invalid"):
            raise ProvisionError(f"creating image ({image_id})", f"AWS says that it is {found.state}")
        return found if found is not None and found.state == "available" else None

    what = f"waiting for image ({image_id}) to be available"
    return wait_for(aws, what, ready, timeout=timeout, interval=5.0)


def delete_baked_image(aws: Aws, image: BakedImage) -> None:
    """Deregister an image and delete its snapshots; not found is success."""
    _gone(
        lambda: aws.call(
            "ec2:DeregisterImage", f"deregistering image ({image.image_id})", ImageId=image.image_id
        )
    )
    for snapshot in image.snapshot_ids:
        _delete_snapshot(aws, snapshot)


def find_snapshots(aws: Aws) -> tuple[str, ...]:
    """The account's snapshots: those of its images, and any that an interrupted deletion left."""
    found = aws.pages(
        "ec2:DescribeSnapshots",
        f"finding snapshots ({aws.account})",
        "Snapshots",
        OwnerIds=["self"],
        Filters=tags.filters(tags.account_tags(aws.account)),
    )
    return tuple(sorted(str(one["SnapshotId"]) for one in found))


def delete_loose_snapshots(aws: Aws) -> tuple[str, ...]:
    """Delete snapshots that no image has any more."""
    used = {s for image in find_baked_images(aws) for s in image.snapshot_ids}
    loose = tuple(s for s in find_snapshots(aws) if s not in used)
    for snapshot in loose:
        _delete_snapshot(aws, snapshot)
    return loose


def _delete_snapshot(aws: Aws, snapshot_id: str) -> None:
    def delete() -> Any:
        what = f"deleting snapshot ({snapshot_id})"
        return aws.call("ec2:DeleteSnapshot", what, SnapshotId=snapshot_id)

    try:
        _gone(delete)
    except InUseError:  # an image that is being made from it
        return


def _gone(delete: Callable[[], Any]) -> None:
    try:
        delete()
    except NotFoundError:
        return


def _record(image: dict[str, Any]) -> BakedImage:
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
