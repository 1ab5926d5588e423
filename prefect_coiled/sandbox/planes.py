"""The data planes that there are, in one list; the setting `plane` says at the start which one it is.

process     process trees on addresses of the loopback; no walls between them
netns       the same in network namespaces: real addresses, security groups and routes hold
nspawn      whole Linux machines on such a network: systemd, cloud-init and their disk are real
qemu        virtual machines on such a network: their kernel and their hardware are real too, and slow
"""

from __future__ import annotations

from collections.abc import Callable

from prefect_coiled.sandbox.machine import ProcessPlane
from prefect_coiled.sandbox.netns.machines import NetnsPlane
from prefect_coiled.sandbox.nspawn.machines import NspawnPlane
from prefect_coiled.sandbox.plane import DataPlane, Form
from prefect_coiled.sandbox.qemu.machines import QemuPlane
from prefect_coiled.sandbox.settings import Settings

_PLANES: dict[str, Callable[[Settings, Form | None], DataPlane]] = {
    "process": lambda settings, form: ProcessPlane(form),
    "netns": lambda settings, form: NetnsPlane(),
    "nspawn": lambda settings, form: NspawnPlane(settings),
    "qemu": lambda settings, form: QemuPlane(settings),
}


def make_plane(settings: Settings, form: Form | None = None) -> DataPlane:
    """The data plane that the settings ask for.

    Args:
        form: Whether each instance has an address of its own; by default what the platform has.

    Raises:
        SandboxError: It cannot be had here.
    """
    return _PLANES[settings.plane](settings, form)
