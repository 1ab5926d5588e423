"""The shipped automation, on a real server, with seconds for hours."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import DoNothing

from prefect_coiled import Cluster
from prefect_coiled.sandbox import SandboxInfo

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def here(sandbox: SandboxInfo, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox is the default account of this process too."""
    monkeypatch.setenv("XDG_STATE_HOME", environ["XDG_STATE_HOME"])


def triggered(client: SyncPrefectClient) -> list[str]:
    """The clusters for which an automation of ours fired."""
    wanted = {"event": {"name": ["prefect.automation.triggered"]}}
    reply = client._client.post("/events/filter", json={"filter": wanted, "limit": 50}).json()["events"]
    return [str(e["payload"]["triggering_labels"]["prefect.resource.id"]) for e in reply]


def test_a_cluster_that_runs_for_too_long_is_told_of_and_one_that_ends_is_not(
    here: None, client: SyncPrefectClient, live: Callable[[], list[str]], until: Callable[..., Any]
) -> None:
    ours = runpy.run_path(str(ROOT / "flows" / "automations.py"))
    made = ours["long_clusters"](timedelta(seconds=20), [DoNothing()], "default")
    ours["save"](made)
    saved = ours["save"](made)  # again: in place of the first
    found = client.read_automations_by_name(made.name)
    assert [a.id for a in found] == [saved]
    with Cluster(n_workers=0, name="short", quiet=True):
        pass
    with Cluster(n_workers=0, name="long", quiet=True, no_client_timeout="1 minute"):
        until(lambda: triggered(client), 120)
    assert triggered(client) == ["prefect-coiled.cluster.default.long"]
    assert live() == []


def test_an_automation_without_its_notification_block_is_not_made(client: SyncPrefectClient) -> None:
    ours = runpy.run_path(str(ROOT / "flows" / "automations.py"))
    with pytest.raises(SystemExit, match="no block 'slack-webhook/nobodys'"):
        ours["notify"]("slack-webhook/nobodys")
