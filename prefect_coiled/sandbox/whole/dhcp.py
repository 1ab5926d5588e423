"""DHCP as a VPC has it: each network card gets the one address that EC2 has for it, and no other.

Answers by broadcast, because a client without an address cannot be told in another way without raw sockets.
https://www.rfc-editor.org/rfc/rfc2131
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Lease", "answer", "serve", "stop"]

_log = logging.getLogger(__name__)

_MAGIC = b"\x63\x82\x53\x63"
_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK = 1, 2, 3, 5, 6
_SECONDS = 3600  # as in a VPC
_MASK, _ROUTER, _RESOLVER, _DOMAIN, _WANTED, _LEASE, _KIND, _SERVER = 1, 3, 6, 15, 50, 51, 53, 54


@dataclass(frozen=True)
class Lease:
    """What a network card is told.

    Attributes:
        address: Its address.
        network: Its subnet; the first address of it is the gateway's.
        resolver: The DNS server.
    """

    address: ipaddress.IPv4Address
    network: ipaddress.IPv4Network
    resolver: ipaddress.IPv4Address

    @property
    def gateway(self) -> ipaddress.IPv4Address:
        """The router of the subnet."""
        return self.network.network_address + 1


def answer(packet: bytes, lease_of: Callable[[str], Lease | None]) -> bytes | None:
    """The reply to one packet.

    Args:
        packet: What came to port 67.
        lease_of: The lease of a MAC address, if there is one.

    Returns:
        The reply, or None where nothing is to be said.
    """
    if len(packet) < 240 or packet[0] != 1 or packet[236:240] != _MAGIC:
        return None
    options = _options(packet[240:])
    kind = options.get(_KIND, b"\0")[0]
    mac = packet[28 : 28 + packet[2]].hex(":")
    lease = lease_of(mac)
    if lease is None or kind not in (_DISCOVER, _REQUEST):
        return None
    gateway, address = lease.gateway.packed, lease.address.packed
    reply = {_KIND: bytes([_OFFER if kind == _DISCOVER else _ACK]), _SERVER: gateway}
    wanted = options.get(_WANTED) or packet[12:16]
    if kind == _REQUEST and wanted != address:
        reply[_KIND], address = bytes([_NAK]), bytes(4)
    else:
        reply |= {
            _LEASE: struct.pack("!I", _SECONDS),
            _MASK: lease.network.netmask.packed,
            _ROUTER: gateway,
            _RESOLVER: lease.resolver.packed,
            _DOMAIN: b"ec2.internal",
        }
    head = struct.pack("!4B", 2, packet[1], packet[2], 0) + packet[4:8] + bytes(2) + packet[10:12]
    head += packet[12:16] + address + gateway + bytes(4) + packet[28:44] + bytes(192)
    tail = b"".join(bytes([number, len(value)]) + value for number, value in reply.items())
    return (head + _MAGIC + tail + b"\xff").ljust(300, b"\0")


def serve(listener: socket.socket, lease_of: Callable[[str], Lease | None]) -> None:
    """Answer in a thread until the socket is closed.

    Args:
        listener: Bound to port 67 of one network card.
        lease_of: See `answer`.
    """

    def run() -> None:
        while True:
            try:
                packet, peer = listener.recvfrom(1500)
                if reply := answer(packet, lease_of):
                    known = "0.0.0.0" not in peer[0] and packet[12:16] != bytes(4)
                    listener.sendto(reply, (peer[0] if known else "255.255.255.255", 68))
            except OSError as error:
                if listener.fileno() < 0:
                    return
                _log.warning("DHCP: %s", error)

    threading.Thread(target=run, daemon=True, name="dhcp").start()


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 1 < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        length = data[at + 1]
        found[data[at]] = data[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def stop(listener: socket.socket) -> None:
    """Close a socket that a thread waits on, and so end the thread."""
    # Closing alone does not wake a thread in recv or accept.
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
