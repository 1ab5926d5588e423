"""Machine images: AWS's own Amazon Linux 2023. An image that the account baked will go in front of it."""

from __future__ import annotations

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.parameters import read_parameter
from prefect_coiled.errors import ProvisionError

# Public parameters, maintained by AWS, so that the owner of the image is AWS itself:
# https://docs.aws.amazon.com/linux/al2023/ug/ec2.html#launch-via-aws-cli
_AL2023 = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"


def find_image(aws: Aws, architecture: str) -> str:
    """The id of the newest Amazon Linux 2023 image.

    Args:
        aws: The door.
        architecture: "x86_64" or "arm64".

    Raises:
        ProvisionError: If AWS publishes none in this region.
    """
    image_id = read_parameter(aws, _AL2023.format(architecture=architecture))
    if image_id is None:
        raise ProvisionError(
            f"finding the {architecture} image of Amazon Linux 2023",
            f"AWS publishes none in {aws.region}",
            "Choose another region.",
        )
    return image_id
