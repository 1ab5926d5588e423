"""The namespace in the middle: the client on one side, AWS's endpoints inside, the VPCs on the other side.

It has a block of 198.19.0.0/16, which no one routes (RFC 2544): .1 is the client's, .2 is the way in, .3 is
AWS's API, .4 is S3, the rest are public addresses of instances and NAT gateways.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import threading
from collections.abc import Iterable, Sequence

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox.calls import Environ, StartResponse, WsgiApp, call_of, reply
from prefect_coiled.sandbox.netns.namespace import Namespace, run_ip
from prefect_coiled.sandbox.netns.ruleset import internet_rules

__all__ = ["Internet", "Pool", "serve_inside"]

_BLOCKS: list[ipaddress.IPv4Network] = list(ipaddress.IPv4Network("198.19.0.0/16").subnets(new_prefix=21))
_FIRST_PUBLIC = 16


class Pool:
    """Public addresses. Each is used again only after all others: a late client must not meet a stranger.

    Args:
        addresses: All of them.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._size = len(addresses)
        self._next = itertools.cycle(addresses)
        self._taken: set[str] = set()

    def take(self) -> str:
        """One that is not in use."""
        for address in itertools.islice(self._next, self._size):
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise SandboxError("giving a public address", "all of the sandbox's are in use")

    def give_back(self, address: str) -> None:
        """It is used no more."""
        self._taken.discard(address)


class Internet:
    """The internet of one sandbox.

    Raises:
        SandboxError: It cannot be made.
    """

    def __init__(self) -> None:
        self.namespace = Namespace()
        self.link = ""
        self._servers: list[contextlib.ExitStack] = []
        try:
            block = self._claim()
            self.client, self._way_in, self.api, self.s3 = (str(block[n]) for n in range(1, 5))
            self.public = Pool([str(address) for address in block][_FIRST_PUBLIC:-1])
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _claim(self) -> ipaddress.IPv4Network:
        """A block for this sandbox: the name of the client's link is the claim to it."""
        for n in range(len(_BLOCKS)):
            number = (os.getpid() + n) % len(_BLOCKS)
            self.link = f"pcsandbox{number}"
            pair = f"link add {self.link} type veth peer name client netns {self.namespace.ref}"
            try:
                run_ip([pair], self.namespace)
            except SandboxError as error:
                if "File exists" not in str(error):
                    raise
                continue
            self._block = _BLOCKS[number]
            return self._block
        raise SandboxError("starting the sandbox", "every block of public addresses is taken")

    def _set_up(self) -> None:
        self.namespace.set(
            ipv4__ip_forward=1,
            ipv4__conf__all__rp_filter=1,
            ipv4__conf__default__rp_filter=1,
            ipv4__conf__all__send_redirects=0,
            ipv4__conf__default__send_redirects=0,
            ipv6__conf__all__disable_ipv6=1,
            ipv6__conf__default__disable_ipv6=1,
        )
        self.namespace.ip(
            "link set lo up",
            f"addr add {self.api}/32 dev lo",
            f"addr add {self.s3}/32 dev lo",
            f"addr add {self._way_in}/32 peer {self.client}/32 dev client",
            "link set client up",
        )
        self.namespace.nft(internet_rules([self.api, self.s3]))
        run_ip(
            [
                f"addr add {self.client}/32 peer {self._way_in}/32 dev {self.link}",
                f"link set {self.link} up",
                f"route add {self._block} via {self._way_in} dev {self.link} src {self.client}",
            ]
        )

    def open(self, app: WsgiApp) -> None:
        """Answer AWS's calls from inside.

        Args:
            app: Answers all of them, and what only the client may ask.
        """
        doors = {self.api: _without_admin(app), self.s3: _s3_only(_without_admin(app))}
        self._servers = [serve_inside(self.namespace, address, door) for address, door in doors.items()]

    def lead_out(self, relay: int) -> None:
        """Redirect TCP connections that leave the sandbox, so that something can carry them on.

        Args:
            relay: The port here that they are redirected to.
        """
        self.namespace.nft(internet_rules([self.api, self.s3], relay))
        self.namespace.nft(
            f"""table ip way_out {{
            chain leaving {{ type nat hook prerouting priority dstnat; policy accept;
            iifname "vpc*" ip daddr != {self._block} tcp dport 1-65535 redirect to :{relay}
            }}
            }}
            """
        )

    def close(self) -> None:
        """Take it down, with all links to it."""
        for server in self._servers:
            server.close()
        if self.link and self.namespace.number >= 0:
            with contextlib.suppress(SandboxError):  # the kernel may have been faster
                self.namespace.ip("link del client")
        self.namespace.close()


def serve_inside(namespace: Namespace, address: str, app: WsgiApp) -> contextlib.ExitStack:
    """Answer HTTP on port 80 of an address inside, until the result is closed.

    Args:
        namespace: Where the address is.
        address: The address.
        app: The application.
    """
    from prefect_coiled.sandbox.http import serve_on  # loads moto

    server = namespace.do(lambda: serve_on(address, 80, app))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name=address).start()
    stack = contextlib.ExitStack()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return stack


def _without_admin(app: WsgiApp) -> WsgiApp:
    """The admin interface is the client's: it is not reached from inside."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("/_sandbox"):
            return reply(start_response, 403, "This is AWS. The sandbox answers elsewhere.")
        return app(environ, start_response)

    return answer


def _s3_only(app: WsgiApp) -> WsgiApp:
    """S3's address is reached through its gateway endpoint, which leads to no other service."""

    def answer(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = call_of(environ)
        if call.service not in ("s3", ""):
            return call.error(start_response, "NotImplemented", 400, f"This is S3, not {call.service}.")
        return app(environ, start_response)

    return answer
