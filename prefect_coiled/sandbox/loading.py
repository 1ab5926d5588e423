"""What has to happen in the server's process before moto is imported."""

from __future__ import annotations

import functools
import gc
import os
import secrets

from botocore.loaders import JSONFileLoader

__all__ = ["loaded", "prepare"]

_SWITCHES = {
    # Images and instance types must exist.
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    # No web page may read the answers.
    "MOTO_DISABLE_GLOBAL_CORS": "true",
    "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
}


def prepare() -> None:
    """Set moto's switches, and spare it needless work (1 s of 3).

    moto asks several sessions for EC2's model while it is imported, and each would parse it anew; it draws
    the ids of 1,300 images digit by digit; and the garbage collector looks at all that was loaded.
    """
    gc.disable()
    os.environ.update(_SWITCHES)
    parse = JSONFileLoader.load_file
    cached = functools.lru_cache(maxsize=64)(lambda path: parse(JSONFileLoader(), path))
    JSONFileLoader.load_file = lambda self, file_path: cached(file_path)  # type: ignore[method-assign]

    from moto.ec2 import utils

    utils.random_resource_id = _random_resource_id


def loaded() -> None:
    """All is loaded: leave it out of the garbage collector's rounds from now on."""
    gc.freeze()
    gc.enable()


def _random_resource_id(size: int = 8) -> str:
    return f"{secrets.randbits(4 * size):0{size}x}"
