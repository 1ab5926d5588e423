"""A sandbox and folders of the tests' own, for examples in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from prefect_coiled import Cluster
from prefect_coiled.sandbox import stop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package", autouse=True)
def environ(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[dict[str, str]]:
    """The environment of an example: nothing of the user's, and one sandbox for all of them."""
    own = {
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "DASK_CONFIG": str(tmp_path_factory.mktemp("dask")),
    }
    saved = {key: os.environ.get(key) for key in own}
    os.environ.update(own)
    try:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "DASK_COILED"))}
        yield {**inherited, "PREFECT_API_URL": str(PREFECT_API_URL.value()), "PYTHONPATH": path}
    finally:
        stop()
        for key, value in saved.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


@pytest.fixture(scope="package")
def running_cluster(environ: dict[str, str]) -> Iterator[str]:
    """The name of a cluster that examples attach to instead of making one each, which would take minutes."""
    with Cluster(n_workers=1, name="of-the-examples", wait_for_workers=True, quiet=True) as cluster:
        yield str(cluster.name)
