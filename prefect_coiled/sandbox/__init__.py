"""The local AWS: moto's API as the control plane, and EC2 instances that really boot as process trees.

    control     start, status, stop and ensure_started for the one background sandbox of a user
    handle      Sandbox: a sandbox of its own for a test, with faults, a record of calls and ways to die
    server      the process itself; its first lines tell the way of a request

Importing this package is cheap: neither moto nor boto3 is loaded before a sandbox is asked for, and moto
is loaded in the server process only, never in the process of a flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_coiled.sandbox.control import SandboxInfo, ensure_started, start, status, stop
    from prefect_coiled.sandbox.handle import Sandbox

__all__ = ["Sandbox", "SandboxInfo", "ensure_started", "start", "status", "stop"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prefect_coiled.sandbox import control, handle

    return getattr(handle if name == "Sandbox" else control, name)
