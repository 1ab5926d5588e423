"""The namespace of one VPC: its router and firewall, the links of its instances, their metadata service.

Two VPCs may have the same block, as on AWS: nothing private of one is known outside of it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterable

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, reply
from prefect_coiled.sandbox.netns.internet import Internet, serve_inside
from prefect_coiled.sandbox.netns.namespace import Namespace
from prefect_coiled.sandbox.netns.ruleset import METADATA, RESOLVER, publics, vpc_rules
from prefect_coiled.sandbox.netns.tap import open_tap
from prefect_coiled.sandbox.network import Interface, Vpc

__all__ = ["VpcNetwork"]


class VpcNetwork:
    """The network of one VPC.

    Args:
        number: Which of the sandbox's VPCs it is.
        internet: Where its internet and NAT gateways lead.
        app: Answers for the metadata of an instance.
        imds_path: Where the application has the metadata of the instance with that id.
    """

    def __init__(
        self, number: int, internet: Internet, app: WsgiApp, imds_path: Callable[[str], str]
    ) -> None:
        self._internet = internet
        self._link = f"vpc{number}"
        outer = ipaddress.ip_address("169.254.64.0") + 4 * number + 1
        self._outer, self._inner = str(outer), str(outer + 1)
        self._app = app
        self._imds_path = imds_path
        self._interfaces: dict[str, Interface] = {}
        self._rules = ""
        self._routed: set[str] = set()
        self._lock = threading.Lock()  # machines are plugged in by threads of theirs
        self._closed = False
        self.namespace = Namespace()
        self._set_up()
        self._metadata = serve_inside(self.namespace, METADATA, self._answer)

    def _set_up(self) -> None:
        self.namespace.set(
            ipv4__ip_forward=1,
            # Nobody sends with another's address.
            ipv4__conf__all__rp_filter=1,
            ipv4__conf__default__rp_filter=1,
            # The router answers for all that is behind it, as in a VPC.
            ipv4__conf__default__proxy_arp=1,
            ipv4__neigh__default__proxy_delay=0,
            ipv4__conf__all__send_redirects=0,
            ipv4__conf__default__send_redirects=0,
            ipv6__conf__all__disable_ipv6=1,
            ipv6__conf__default__disable_ipv6=1,
        )
        self._internet.namespace.ip(
            f"link add {self._link} type veth peer name internet netns {self.namespace.ref}",
            f"addr add {self._outer}/30 dev {self._link}",
            f"link set {self._link} up",
            others=[self.namespace],
        )
        self.namespace.ip(
            "link set lo up",
            f"addr add {METADATA}/32 dev lo",
            f"addr add {self._inner}/30 dev internet",
            "link set internet up",
            f"route add default via {self._outer}",
        )

    # -- what is said of it --------------------------------------------------------------------------

    def apply(self, vpc: Vpc) -> None:
        """Let it be as is said; does nothing where it is so already.

        Args:
            vpc: What is said.
        """
        self._interfaces = {interface.address: interface for interface in vpc.interfaces}
        rules = vpc_rules(vpc, self._internet.s3)
        if rules != self._rules:
            self.namespace.nft(rules)
            self._rules = rules
        wanted = publics(vpc)
        gone, new = self._routed - wanted, wanted - self._routed
        if gone or new:
            self._internet.namespace.ip(
                *(f"route del {address}/32 dev {self._link}" for address in sorted(gone)),
                *(
                    f"route replace {address}/32 via {self._inner} dev {self._link}"
                    for address in sorted(new)
                ),
            )
            self._routed = wanted

    # -- its instances -------------------------------------------------------------------------------

    def plug(self, interface: Interface) -> Namespace:
        """A namespace with the instance's interface in it, eth0.

        Args:
            interface: What is said of the interface.

        Raises:
            SandboxError: It cannot be made, or the VPC has gone meanwhile.
        """
        subnet = ipaddress.ip_network(interface.subnet)
        router, link = subnet[1], _link_of(interface)
        made = Namespace()
        try:
            with self._lock:
                self._check_open()
                self.namespace.ip(
                    f"link add {link} type veth peer name eth0 address {interface.mac} netns {made.ref}",
                    *_wiring(interface),
                    others=[made],
                )
            made.ip(
                "link set lo up",
                f"addr add {interface.address}/{subnet.prefixlen} broadcast + dev eth0",
                "link set eth0 up",
                f"route add default via {router}",
            )
        except BaseException:
            made.close()
            raise
        return made

    def tap(self, interface: Interface) -> int:
        """The other end of the instance's link as an open file: whoever holds it is the network card.

        The link goes with the last process that has the file open.

        Args:
            interface: What is said of the interface.

        Raises:
            SandboxError: It cannot be made, or the VPC has gone meanwhile.
        """
        with self._lock:
            self._check_open()
            file = self.namespace.do(lambda: open_tap(_link_of(interface)))
            try:
                self.namespace.ip(*_wiring(interface))
            except BaseException:
                os.close(file)
                raise
        return file

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("connecting an instance", "its VPC is gone")

    def unplug(self, interface: Interface) -> None:
        """Take the instance's link away."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(SandboxError):  # it may have gone with what ran at its other end
                    self.namespace.ip(f"link del {_link_of(interface)}")

    def cut(self, interface: Interface) -> None:
        """Let the instance's link be dead: nothing comes, nothing goes, nobody is told."""
        self.namespace.ip(f"link set {_link_of(interface)} down")

    def mend(self, interface: Interface) -> None:
        """Let the link live again. With its end, the kernel forgot the way to it."""
        link = _link_of(interface)
        self.namespace.ip(f"link set {link} up", f"route replace {interface.address}/32 dev {link}")

    def requests(self, interface: Interface) -> socket.socket:
        """A socket that hears what the instance asks of a DHCP server, and that nobody else reaches."""

        def bind() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _link_of(interface).encode() + b"\0")
            made.bind(("", 67))
            return made

        return self.namespace.do(bind)

    def questions(self) -> socket.socket:
        """A socket that hears the DNS questions of all instances."""
        self.namespace.ip(f"addr add {RESOLVER}/32 dev lo")

        def bind() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((RESOLVER, 53))
            return made

        return self.namespace.do(bind)

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """The metadata service: who asks is told by the address, which the firewall lets nobody borrow."""
        interface = self._interfaces.get(environ["REMOTE_ADDR"])
        if interface is None:
            return reply(start_response, 404, "")
        path = f"{self._imds_path(interface.instance_id)}/{environ['PATH_INFO'].lstrip('/')}"
        return self._app({**environ, "PATH_INFO": path}, start_response)

    def close(self) -> None:
        """Take it down."""
        with self._lock:
            self._closed = True
            self._metadata.close()
            self._internet.namespace.ip(f"link del {self._link}")
            self.namespace.close()


def _wiring(interface: Interface) -> list[str]:
    """What makes a link lead from the router of its subnet to the instance."""
    router, link = ipaddress.ip_network(interface.subnet)[1], _link_of(interface)
    return [
        f"addr add {router}/32 dev {link}",
        f"link set {link} up",
        f"route add {interface.address}/32 dev {link}",
    ]


def _link_of(interface: Interface) -> str:
    return f"i-{interface.instance_id[-12:]}"
