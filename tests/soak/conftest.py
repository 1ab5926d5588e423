"""The sandbox of the provisioning tests: machines run without processes."""

from __future__ import annotations

from tests.provision.conftest import account, sandbox, shared_sandbox

__all__ = ["account", "sandbox", "shared_sandbox"]
