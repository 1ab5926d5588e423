"""Why a cluster did not come up is what is raised, whatever its removal meets."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled import Cluster
from prefect_coiled.cluster import cluster as module
from prefect_coiled.errors import AccessDeniedError, ClusterStartError


def test_a_removal_that_fails_too_does_not_hide_why_the_launch_did(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise ClusterStartError("starting", "the first cause.")

    async def kept(self: Any) -> None:
        raise AccessDeniedError("terminating", "the second one.")

    monkeypatch.setattr(module, "launch", fail)
    monkeypatch.setattr(Cluster, "_end", kept)
    with pytest.raises(ClusterStartError, match="the first cause"):
        Cluster(n_workers=1, quiet=True)
    assert "the second one" in caplog.text
    assert "prefect-coiled ls" in caplog.text
