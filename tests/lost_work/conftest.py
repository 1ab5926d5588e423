"""Machines that are shared by cells, and started anew where one of them was killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .machines import Cluster, Server


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("dask"))
    yield cluster
    cluster.end()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may be killed: the suite's own is not."""
    one = Server(tmp_path_factory.mktemp("server"))
    one.start()
    yield one
    one.kill()
