"""One process that makes and closes cluster after cluster, as a server does: it stays as it is.

python -m pytest tests/soak/test_long_lived.py    # a few
make soak                                         # 50
"""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from distributed import Client

from prefect_coiled import Cluster
from prefect_coiled.sandbox import Sandbox

from .test_soak import TABLE, WHOLE

CLUSTERS = 50 if WHOLE else 6
# By then all is there that a process has once.
FIRST = 10 if WHOLE else 3


@pytest.fixture
def booting(prefect_server: None) -> Iterator[Sandbox]:
    """A sandbox whose machines boot, as the default account of this process."""
    with Sandbox({"grace": 3}) as own, pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect_coiled.sandbox.control.ensure_started", lambda: own.info)
        yield own


@pytest.mark.timeout(3600)
def test_a_process_that_makes_and_closes_many_clusters_does_not_grow(booting: Sandbox) -> None:
    me, sizes, begun = psutil.Process(), [], time.monotonic()
    for number in range(CLUSTERS):
        with (
            Cluster(n_workers=1, wait_for_workers=True, nthreads=1, quiet=True) as cluster,
            Client(cluster) as client,
        ):
            assert client.submit(sum, [number, 1]).result(timeout=300) == number + 1
        gc.collect()
        sizes.append((me.num_fds(), threading.active_count(), round(me.memory_info().rss / 2**20)))
    left = [i for i in booting.instances().values() if i["state"] != "terminated"]
    told = {
        "clusters": CLUSTERS,
        "seconds": round(time.monotonic() - begun),
        "descriptors, threads, MiB": sizes,
        "machines left": len(left),
        "children": [" ".join(child.cmdline())[:80] for child in me.children()],
    }
    if TABLE:
        Path(TABLE).with_suffix(".long-lived.json").write_text(json.dumps(told, indent=1))
    assert not left, told
    assert sizes[-1][0] <= sizes[FIRST - 1][0] + 3, told
    assert sizes[-1][1] <= sizes[FIRST - 1][1] + 2, told
