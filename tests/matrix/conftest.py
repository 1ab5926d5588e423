"""The sandbox of the provisioning tests: machines run without processes."""

from __future__ import annotations

from tests.provision.conftest import account, aws, sandbox, session, shared_sandbox, spec

__all__ = ["account", "aws", "sandbox", "session", "shared_sandbox", "spec"]
