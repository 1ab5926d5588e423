"""AWS's images for machines with a GPU, which moto does not have."""

from __future__ import annotations

from typing import Any

import pytest

PLAIN = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
GPU = "/aws/service/deeplearning/ami/{}/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"


@pytest.mark.parametrize("region", ["us-east-1", "eu-north-1"])
@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_public_parameter_names_an_image_of_amazons_with_a_large_disk(
    sandbox: Any, region: str, architecture: str
) -> None:
    ssm, ec2 = sandbox.client("ssm", region), sandbox.client("ec2", region)
    image_id = ssm.get_parameter(Name=GPU.format(architecture))["Parameter"]["Value"]
    assert ssm.get_parameter(Name=GPU.format(architecture))["Parameter"]["Value"] == image_id
    (image,) = ec2.describe_images(ImageIds=[image_id], Owners=["amazon"])["Images"]
    assert image["Architecture"] == architecture
    assert "Nvidia Driver GPU" in image["Name"]
    (disk,) = image["BlockDeviceMappings"]
    assert (image["RootDeviceName"], disk["Ebs"]["VolumeSize"]) == ("/dev/xvda", 75)


def test_the_plain_image_is_another_one(sandbox: Any) -> None:
    ssm = sandbox.client("ssm")
    names = [PLAIN, GPU.format("x86_64"), GPU.format("arm64")]
    found = {ssm.get_parameter(Name=name)["Parameter"]["Value"] for name in names}
    assert len(found) == 3


def test_instances_start_from_it(sandbox: Any, world: Any) -> None:
    sandbox.set(boot="none")
    image_id = sandbox.client("ssm").get_parameter(Name=GPU.format("x86_64"))["Parameter"]["Value"]
    (made,) = world.run(ImageId=image_id, InstanceType="g4dn.xlarge")
    assert made["ImageId"] == image_id
