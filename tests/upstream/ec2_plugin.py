"""Puts `Cluster` in the place of dask-cloudprovider's `EC2Cluster` in that project's own tests of it.

As a plugin of pytest it selects those that are about any cluster of EC2 machines. What its tests import is
given here: neither that project nor its AWS client is installed, and who asks for the caller asks the
sandbox.
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType, TracebackType
from typing import Any, ClassVar
from weakref import WeakSet

import pytest

from prefect_coiled import Cluster, load_account
from prefect_coiled.aws.caller import find_caller

SELECTED = ("test_init", "test_create_cluster", "test_create_cluster_sync")
_IMAGE = "brings an AMI with Docker on it; here an image is baked, or is none"
_GPU = "needs a GPU"
_OWN = "is about a function of that project itself"
NOT = {
    "test_create_cluster_with_packer": _IMAGE,
    "test_create_rapids_cluster": _GPU,
    "test_create_rapids_cluster_with_packer": _GPU,
    "test_get_ubuntu_image": _OWN,
    "test_get_cloud_init": _OWN,
    "test_get_cloud_init_rapids": _OWN,
}


class Ec2Cluster(Cluster):
    """Ours, with the size that theirs has when nothing is said: no worker."""

    made: ClassVar[WeakSet[Ec2Cluster]] = WeakSet()

    def __init__(self, **keywords: Any) -> None:
        keywords.setdefault("n_workers", 0)
        self.made.add(self)
        super().__init__(**keywords)


class _Caller:
    """What their tests ask first: whether there are credentials."""

    async def __aenter__(self) -> _Caller:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        pass

    async def get_caller_identity(self) -> Any:
        return await asyncio.to_thread(lambda: find_caller(load_account().door("us-east-1")))


class _Session:
    def create_client(self, service: str) -> _Caller:
        assert service == "sts"
        return _Caller()


def _module(name: str, **attributes: Any) -> None:
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(attributes)


# It stands on fixtures, which pytest has refused since its release 9.
pytest.mark.external = lambda function: function  # type: ignore[method-assign]
_module("aiobotocore", get_session=_Session)
for package in ("dask_cloudprovider", "dask_cloudprovider.aws"):
    _module(package)
_module("dask_cloudprovider.aws.ec2", EC2Cluster=Ec2Cluster)
_module("dask_cloudprovider.aws.helper", get_latest_ami_id=None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = {item.name for item in items}
    if names != {*SELECTED, *NOT}:
        raise pytest.UsageError(f"tests that nobody has judged, or are gone: {names ^ {*SELECTED, *NOT}}")
    items[:] = [item for item in items if item.name in SELECTED]
    print(
        f"\ndask-cloudprovider's tests of EC2Cluster: {len(names)}, selected {len(items)}, listed {len(NOT)}"
    )


def pytest_sessionfinish() -> None:
    # The fixture of a cluster that is made synchronously does not close it.
    for cluster in list(Ec2Cluster.made):
        if not cluster.asynchronous:
            cluster.close()
