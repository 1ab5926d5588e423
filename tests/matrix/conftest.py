"""The sandbox of the provisioning tests: machines run without processes."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from prefect import task_engine

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster import launched as launching
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
) -> World:
    """An AWS account in the sandbox, whose name is known; Prefect tries a step again at once."""
    monkeypatch.setattr(launching, "load_account", lambda slug: account)
    monkeypatch.setattr(task_engine, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    return World(sandbox, account, locked)
