"""The plane of network namespaces, and an instance as a process tree in one of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.calls import WsgiApp
from prefect_coiled.sandbox.machine import ProcessMachine
from prefect_coiled.sandbox.netns.internet import Internet
from prefect_coiled.sandbox.netns.namespace import Namespace, check
from prefect_coiled.sandbox.netns.vpc import VpcNetwork
from prefect_coiled.sandbox.network import Interface, Vpc
from prefect_coiled.sandbox.plane import Address, Form, Machine

__all__ = ["NetnsMachine", "NetnsPlane"]


class NetnsMachine(ProcessMachine):
    """One instance as a process tree in a network namespace of its own.

    Args:
        plane: Where it is connected.
        instance_id: The id on EC2.
        address: Its addresses.
        folder: Its folder.
        scratch: Its TMPDIR.
        user_data: What it runs at its first boot.
    """

    def __init__(
        self,
        plane: NetnsPlane,
        instance_id: str,
        address: Address,
        folder: Path,
        scratch: Path,
        user_data: bytes,
    ) -> None:
        super().__init__(instance_id, address, folder, scratch, user_data)
        self._plane = plane
        self._network: VpcNetwork | None = None
        self._interface: Interface | None = None
        self._namespace: Namespace | None = None

    def power_on(self, environ: Mapping[str, str], grace: float) -> None:
        """See `Machine`."""
        self._network, self._interface = self._plane.place(self.instance_id)
        self._namespace = self._network.plug(self._interface)
        super().power_on(environ, grace)

    def _spawn(self, command: list[str], environ: dict[str, str], files: Sequence[int] = ()) -> IO[bytes]:
        assert self._namespace is not None
        spawn = super()._spawn
        return self._namespace.do(lambda: spawn(command, environ, files))

    def unplug(self) -> None:
        """See `Machine`: the cable is out, and nothing runs on."""
        if self._network is not None and self._interface is not None:
            self._network.cut(self._interface)
        super().unplug()

    def replug(self) -> None:
        """See `Machine`."""
        super().replug()
        if self._network is not None and self._interface is not None:
            self._network.mend(self._interface)

    def forget(self) -> None:
        """See `Machine`."""
        super().forget()
        namespace, self._namespace = self._namespace, None
        if namespace is not None and self._network is not None and self._interface is not None:
            self._network.unplug(self._interface)
            namespace.close()
        self._network = self._interface = None


class NetnsPlane:
    """Process trees in network namespaces: their firewall and their routes are real.

    Raises:
        SandboxError: This system, or this user, has no namespaces.
    """

    form: Form = "many"

    def __init__(self) -> None:
        check()
        self._internet = Internet()
        self._networks: dict[str, VpcNetwork] = {}
        self._places: dict[str, tuple[VpcNetwork, Interface]] = {}
        self._numbers = itertools.cycle(range(4096))
        self._app: WsgiApp | None = None
        self._look: Callable[[], Sequence[Vpc]] = tuple
        self._imds_path: Callable[[str], str] = str

    @property
    def client_address(self) -> str:
        """See `DataPlane`."""
        return self._internet.client

    def open(
        self,
        app: WsgiApp,
        port: int,
        look: Callable[[], Sequence[Vpc]],
        imds_path: Callable[[str], str],
    ) -> None:
        """See `DataPlane`; what listens on 127.0.0.1 is not reached from inside."""
        self._app, self._look, self._imds_path = app, look, imds_path
        self._internet.open(app)

    def take(self, instance_id: str, private: str) -> Address:
        """See `DataPlane`."""
        return Address(private, self._internet.public.take())

    def give_back(self, address: Address) -> None:
        """See `DataPlane`."""
        self._internet.public.give_back(address.public)

    def take_public(self) -> str | None:
        """See `DataPlane`."""
        return self._internet.public.take()

    def machine(
        self, instance_id: str, address: Address, folder: Path, scratch: Path, user_data: bytes
    ) -> Machine:
        """See `DataPlane`."""
        return NetnsMachine(self, instance_id, address, folder, scratch, user_data)

    def environ(self, instance_id: str) -> dict[str, str]:
        """See `DataPlane`; metadata is where it is on AWS."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self._internet.api}",
            "AWS_ENDPOINT_URL_S3": f"http://{self._internet.s3}",
        }

    def place(self, instance_id: str) -> tuple[VpcNetwork, Interface]:
        """Where an instance belongs.

        Raises:
            SandboxError: It is gone.
        """
        if instance_id not in self._places:
            raise SandboxError("connecting an instance", f"{instance_id} is gone")
        return self._places[instance_id]

    def changed(self) -> None:
        """See `DataPlane`."""
        assert self._app is not None
        vpcs = {vpc.id: vpc for vpc in self._look()}
        for vpc_id, vpc in vpcs.items():
            if vpc_id not in self._networks:
                self._networks[vpc_id] = VpcNetwork(
                    next(self._numbers), self._internet, self._app, self._imds_path
                )
            self._networks[vpc_id].apply(vpc)
        self._places = {
            interface.instance_id: (self._networks[vpc.id], interface)
            for vpc in vpcs.values()
            for interface in vpc.interfaces
        }
        for vpc_id in set(self._networks) - set(vpcs):
            self._networks.pop(vpc_id).close()

    def close(self) -> None:
        """See `DataPlane`."""
        self._places.clear()
        for network in self._networks.values():
            network.close()
        self._networks.clear()
        self._internet.close()
