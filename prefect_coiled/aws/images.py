"""Machine images: AWS's own Amazon Linux 2023, plain or with the driver of NVIDIA's GPUs.

Images that the account baked are in `baked_images`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import read_parameter
from prefect_coiled.errors import NotFoundError, ProvisionError
from prefect_coiled.records import MachineImage

# Public parameters, maintained by AWS, so that the owner of the image is AWS itself:
# https://docs.aws.amazon.com/linux/al2023/ug/ec2.html#launch-via-aws-cli
_AL2023 = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
# The Deep Learning Base image: driver, CUDA, Docker with NVIDIA's toolkit, and no framework.
# https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html
_GPU = (
    "/aws/service/deeplearning/ami/{architecture}/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
)


def find_image(aws: Aws, architecture: str, gpu: bool = False) -> MachineImage:
    """The newest Amazon Linux 2023 image.

    Raises:
        ProvisionError: If AWS publishes none in this region, or the image is not AWS's own.
    """
    kind = "with a GPU driver" if gpu else "of Amazon Linux 2023"
    what = f"finding the {architecture} image {kind}"
    image_id = read_parameter(aws, (_GPU if gpu else _AL2023).format(architecture=architecture))
    found: list[dict[str, Any]] = []
    if image_id is not None:
        # One that the AWS account does not allow is not shown, or not found:
        # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-allowed-amis.html
        with suppress(NotFoundError):
            found = aws.call("ec2:DescribeImages", what, ImageIds=[image_id], Owners=["amazon"])["Images"]
    if not found:
        raise ProvisionError(
            what,
            f"AWS publishes none in {aws.region}, or shows none to this AWS account",
            "Choose another region, or let `amazon` be among its Allowed AMIs (EC2 console > Settings).",
        )
    root, disk = root_disk(found[0])
    return MachineImage(image_id=str(image_id), root_device=root, disk=disk)


def root_disk(image: dict[str, Any]) -> tuple[str, int]:
    """The name of an image's root device, and the GiB that it has at least."""
    root = str(image["RootDeviceName"])
    disks = {m["DeviceName"]: m.get("Ebs", {}) for m in image.get("BlockDeviceMappings", ())}
    return root, int(disks.get(root, {}).get("VolumeSize", 8))
