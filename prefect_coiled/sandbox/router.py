"""The router of a sandbox whose machines have network cards: subnets, gateways, what a VPC gives by itself.

A network namespace with a bridge on which every machine's cable ends. It has the address of each subnet's
gateway, of the metadata service, of the resolver and of AWS's API; a cable leads to the computer outside,
where clients are. A public address is one of that cable, translated to a private one. Everything is gone with
the process that made it and the machines on it. No firewall: security groups are kept, not enforced.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Sequence

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import dhcp, way_out
from prefect_coiled.sandbox.namespace import Namespace
from prefect_coiled.sandbox.network import Vpc, mac

__all__ = ["API", "METADATA", "RESOLVER", "Router"]

METADATA, RESOLVER, API = "169.254.169.254", "169.254.169.253", "169.254.169.252"
_RELAY_PORT = 9
# A network for benchmarks (RFC 2544), which nobody has at home: 198.18.N.0/24 for the clients of one sandbox.
_OUTSIDE = "198.18"

_RULES = """
table ip vpc {{
  chain before {{
    type nat hook prerouting priority dstnat; policy accept;
    {public}
    ip saddr {{ {inside} }} ip daddr != {{ {inside}, 169.254.0.0/16, {outside}.0/24 }} \\
      tcp dport 1-65535 redirect to :{relay}
  }}
  chain after {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "out" masquerade
  }}
}}
"""


class Router:
    """The router of one sandbox.

    Raises:
        SandboxError: The system does not allow it, or a tool is missing.
    """

    def __init__(self) -> None:
        self.namespace = Namespace()
        self._lock = threading.Lock()
        self._leases: dict[str, dhcp.Lease] = {}
        self._leaving: set[str] = set()
        self._translated: dict[str, str] = {}
        self._gateways: set[str] = set()
        self._told = ""
        self._sockets: list[socket.socket] = []
        self.received: dict[str, int] = {}
        run = self.namespace.run
        self._outside = self._cable()
        self.client_address = f"{self._outside}.1"
        run("ip", "link", "add", "br0", "type", "bridge")
        for address in (METADATA, RESOLVER, API):
            run("ip", "address", "add", f"{address}/32", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        self.namespace.set("ipv4/ip_forward", "1")
        with self.namespace.entered():
            requests = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            requests.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            requests.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"br0\0")
            requests.bind(("", 67))
            questions = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            questions.bind((RESOLVER, 53))
            leaving = socket.create_server(("", _RELAY_PORT), backlog=128)
        self._sockets += [requests, questions, leaving]
        dhcp.serve(requests, self._leases.get)
        way_out.resolve(questions)
        way_out.relay(leaving, self._may_leave, self._count)

    def listen(self, address: str, port: int = 80) -> socket.socket:
        """A socket that machines reach."""
        with self.namespace.entered():
            listener = socket.create_server((address, port), backlog=128)
        self._sockets.append(listener)
        return listener

    def public(self, address: str, number: int) -> str:
        """A public address of the machine with that private one.

        Args:
            address: The private address.
            number: Its last number, from 10 to 250.
        """
        found = f"{self._outside}.{number}"
        with contextlib.suppress(SandboxError):  # it has it since an earlier machine
            self.namespace.run("ip", "address", "add", f"{found}/32", "dev", "out")
        with self._lock:
            self._translated[found] = address
        return found

    def follow(self, vpcs: Sequence[Vpc]) -> None:
        """Be as is said: a gateway for each subnet, a lease for each card, a way out where a route is.

        Args:
            vpcs: The networks, with all that have instances.
        """
        with self._lock:
            leases: dict[str, dhcp.Lease] = {}
            leaving: set[str] = set()
            gateways: set[str] = set()
            for vpc in vpcs:
                ways = {t.id: {r.through for r in t.routes if r.cidr == "0.0.0.0/0"} for t in vpc.tables}
                for card in vpc.interfaces:
                    network = ipaddress.IPv4Network(card.subnet)
                    lease = dhcp.Lease(
                        ipaddress.IPv4Address(card.address), network, ipaddress.IPv4Address(RESOLVER)
                    )
                    leases[mac(card.address)] = lease
                    gateways.add(f"{lease.gateway}/{network.prefixlen}")
                    way = ways.get(card.table, set())
                    if "nat" in way or ("internet" in way and card.public):
                        leaving.add(card.address)
            self._leases.clear()
            self._leases.update(leases)
            self._leaving.clear()
            self._leaving.update(leaving)
            for gateway in sorted(gateways - self._gateways):
                self.namespace.run("ip", "address", "add", gateway, "dev", "br0")
                self._gateways.add(gateway)
            self._tell(sorted({block for vpc in vpcs for block in vpc.cidrs}))

    def plug(self, link: str, connected: bool) -> None:
        """Put a machine's cable in, or pull it."""
        with contextlib.suppress(SandboxError):  # the machine, and its cable with it, may be gone
            self.namespace.run("ip", "link", "set", link, "up" if connected else "down")

    def close(self) -> None:
        """Let go of all of it; what machines still hold goes with them."""
        for open_one in self._sockets:
            # A thread that waits in accept or recv is not woken by close alone.
            with contextlib.suppress(OSError):
                open_one.shutdown(socket.SHUT_RDWR)
            open_one.close()
        self.namespace.run("ip", "link", "delete", "out")
        self.namespace.close()

    def _cable(self) -> str:
        """The cable to the computer outside; gives the network of it, without the last number."""
        first = os.getpid() % 250
        for number in (*range(first, 250), *range(first)):
            network, link = f"{_OUTSIDE}.{number}", f"coiled-vpc{number}"
            path = self.namespace.path
            try:
                _outside("link", "add", link, "type", "veth", "peer", "name", "out", "netns", path)
            except SandboxError as error:
                if "exists" in error.diagnosis.why:
                    continue  # another sandbox has it
                raise
            _outside("address", "add", f"{network}.1/24", "dev", link)
            _outside("link", "set", link, "up")
            self.namespace.run("ip", "address", "add", f"{network}.2/24", "dev", "out")
            self.namespace.run("ip", "link", "set", "out", "up")
            self.namespace.run("ip", "route", "add", "default", "via", f"{network}.1")
            return network
        raise SandboxError("starting the sandbox", "every network of the sandbox is taken")

    def _tell(self, inside: Sequence[str]) -> None:
        if not inside:
            return
        public = "\n    ".join(
            f"ip daddr {outer} dnat to {inner}" for outer, inner in sorted(self._translated.items())
        )
        rules = _RULES.format(
            public=public, inside=", ".join(inside), outside=self._outside, relay=_RELAY_PORT
        )
        if rules != self._told:
            # The first line makes the table, so that the second can always delete it; all in one step.
            self.namespace.run("nft", "-f", "-", text=f"table ip vpc {{}}\ndelete table ip vpc\n{rules}")
            self._told = rules

    def _may_leave(self, address: str) -> bool:
        return address in self._leaving

    def _count(self, address: str, size: int) -> None:
        with self._lock:
            self.received[address] = self.received.get(address, 0) + size


def _outside(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SandboxError("laying a cable to the sandbox's network", done.stderr.strip())
