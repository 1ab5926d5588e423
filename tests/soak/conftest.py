"""The sandbox of the provisioning tests: machines run without processes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster import launch as launching
from prefect_coiled.sandbox import Sandbox
from tests.provision.conftest import account, sandbox, shared_sandbox
from tests.provision.laid import bring_up

__all__ = ["account", "sandbox", "shared_sandbox"]

WHOLE = os.environ.get("PREFECT_COILED_SOAK") == "all"


@pytest.fixture
def laid(sandbox: Sandbox, account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """An account that is set up."""
    monkeypatch.setattr(launching, "load_account", lambda slug: account)
    sandbox.reset()
    sandbox.set(boot="none", profile="realistic" if WHOLE else "fast")
    bring_up(account.door("us-east-1"), "us-east-1a")
    yield sandbox
    sandbox.set(profile="fast")
    sandbox.reset()
