"""The sandbox of the provisioning tests: machines run without processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import prefect.events.utilities
import pytest
from prefect import task_engine
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster import launch as launching
from prefect_coiled.environment import Locked
from prefect_coiled.sandbox import Sandbox
from tests.provision.conftest import account, aws, locked, sandbox, session, shared_sandbox, spec

from .worlds import World

__all__ = ["account", "aws", "locked", "sandbox", "session", "shared_sandbox", "spec"]


@pytest.fixture
def world(
    sandbox: Sandbox,
    account: Account,
    locked: Locked,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """An AWS account in the sandbox, whose name is known; Prefect tries a step again at once."""
    # What the API hears of steps nobody looks at here, and it costs more than they do.
    monkeypatch.setattr(prefect.events.utilities, "should_emit_events", lambda: False)
    monkeypatch.setattr(launching, "load_account", lambda slug: account)
    monkeypatch.setattr(task_engine, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield World(sandbox, account, locked)
