"""AWS's Deep Learning Base images for machines with a GPU, and the public parameters that name them.

https://docs.aws.amazon.com/dlami/latest/devguide/find-dlami-id.html
"""

from __future__ import annotations

from typing import Any

from moto.ec2 import ec2_backends
from moto.ec2.models.amis import Ami
from moto.ssm.models import Parameter, ParameterDict

__all__ = ["install"]

_PREFIX = "/aws/service/deeplearning/ami"
_PARAMETER = _PREFIX + "/{}/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
_NAME = "Deep Learning {}Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) 20261001"
_GIB = 75
_ARCHITECTURES = {"x86_64": "", "arm64": "ARM64 "}


class GpuImage(Ami):  # type: ignore[misc]
    """An image with a larger disk than moto gives all of them."""

    @property
    def block_device_mappings(self) -> list[dict[str, Any]]:
        """The root device."""
        (root,) = super().block_device_mappings
        return [{**root, "Ebs": {**root["Ebs"], "VolumeSize": _GIB}}]


def install() -> None:
    """Make image and parameter in a region when the parameter is first read there."""
    moto_check = ParameterDict._check_loading_status

    def _check_loading_status(self: Any, key: str) -> None:
        moto_check(self, key)
        if str(key or "").startswith(_PREFIX) and not self.gpu_images_loaded:
            self.gpu_images_loaded = True
            for architecture, word in _ARCHITECTURES.items():
                _publish(self, architecture, _NAME.format(word))

    ParameterDict.gpu_images_loaded = False
    ParameterDict._check_loading_status = _check_loading_status


def _publish(parameters: Any, architecture: str, name: str) -> None:
    backend = ec2_backends[parameters.account_id][parameters.region_name]
    number = f"{len(architecture):02x}{int(parameters.region_name.encode().hex(), 16) % 16**15:015x}"
    image = GpuImage(
        backend,
        f"ami-{number}",
        name=name,
        description=name,
        owner_id="898082745236",
        owner_alias="amazon",
        public=True,
        virtualization_type="hvm",
        architecture=architecture,
        hypervisor="xen",
        root_device_type="ebs",
        root_device_name="/dev/xvda",
        region_name=f"{parameters.region_name}a",
    )
    backend.amis[image.id] = image
    key = _PARAMETER.format(architecture)
    dict.setdefault(parameters, key, []).append(
        Parameter(
            account_id=parameters.account_id,
            name=key,
            value=image.id,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=1790812800,
            version=1,
            data_type="aws:ec2:image",
        )
    )
