"""The machines' way out of the sandbox: their TCP connections and DNS questions, carried on by this process.

Every TCP connection that leaves the sandbox's internet comes to `relay`, which makes one like it from outside
of all namespaces; `resolve` asks the resolver that this computer uses. So nothing is to be set up on the
computer itself, and nothing stays there. Whether a machine may leave its VPC is decided before, by routes.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from pathlib import Path

__all__ = ["relay", "resolve"]

_log = logging.getLogger(__name__)

_ORIGINAL_DESTINATION = 80  # SO_ORIGINAL_DST of linux/netfilter_ipv4.h
_CONNECT_S, _DNS_S = 30.0, 5.0
# What the VPC's own resolver knows; asked elsewhere, it would cost the time-outs of whoever is asked.
_INSIDE = (b"internal", b"instance-data", b"localdomain")


def relay(listener: socket.socket) -> None:
    """Carry connections on, in threads, until the socket is closed. The log says what they brought.

    Args:
        listener: Where connections are redirected to.
    """

    def carry(inner: socket.socket, address: str) -> None:
        with inner, contextlib.suppress(OSError):
            packed = inner.getsockopt(socket.SOL_IP, _ORIGINAL_DESTINATION, 16)
            port, raw = struct.unpack("!2xH4s", packed[:8])
            host = socket.inet_ntoa(raw)
            with socket.create_connection((host, port), _CONNECT_S) as outer:
                outer.settimeout(None)
                up = threading.Thread(target=_pump, args=(inner, outer), daemon=True)
                up.start()
                size = _pump(outer, inner)
                up.join()
            _log.info("%s received %d bytes from %s:%d", address, size, host, port)

    def accept() -> None:
        while True:
            try:
                inner, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(inner, peer[0]), daemon=True).start()

    threading.Thread(target=accept, daemon=True, name="relay").start()


def resolve(listener: socket.socket) -> None:
    """Answer DNS questions in threads until the socket is closed.

    Args:
        listener: A UDP socket on port 53 of the VPC's resolver.
    """
    servers = _resolvers()

    def answer(question: bytes, peer: tuple[str, int]) -> None:
        with contextlib.suppress(OSError):
            listener.sendto(_ask(question, servers), peer)

    def run() -> None:
        while True:
            try:
                question, peer = listener.recvfrom(4096)
            except OSError:
                return
            if len(question) > 12:
                threading.Thread(target=answer, args=(question, peer), daemon=True).start()

    threading.Thread(target=run, daemon=True, name="resolver").start()


def _ask(question: bytes, servers: list[str]) -> bytes:
    labels = _labels(question)
    if len(labels) < 2 or labels[-1].lower() in _INSIDE:
        return _refusal(question, 3)  # no such name
    for server in servers:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.settimeout(_DNS_S)
            asked.connect((server, 53))
            asked.send(question)
            return asked.recv(65535)
    return _refusal(question, 2)  # the resolver has failed


def _labels(question: bytes) -> list[bytes]:
    found = []
    at = 12
    while at < len(question) and (length := question[at]):
        found.append(question[at + 1 : at + 1 + length])
        at += 1 + length
    return found


def _refusal(question: bytes, code: int) -> bytes:
    """The question again, with a code and without any answer."""
    end = 12 + sum(1 + len(label) for label in _labels(question)) + 5
    flags = 0x8080 | (question[2] & 0x79) << 8 | code
    return question[:2] + struct.pack("!5H", flags, 1, 0, 0, 0) + question[12:end]


def _resolvers() -> list[str]:
    lines = Path("/etc/resolv.conf").read_text().split("\n") if Path("/etc/resolv.conf").exists() else []
    words = [line.split() for line in lines]
    return [w[1] for w in words if len(w) > 1 and w[0] == "nameserver" and ":" not in w[1]]


def _pump(source: socket.socket, target: socket.socket) -> int:
    """Carry bytes until one end is closed; gives how many."""
    size = 0
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
            size += len(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    return size
