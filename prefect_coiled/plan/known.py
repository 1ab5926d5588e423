"""What a launch has to know of its account in a region, as it is kept between launches. Pure."""

from __future__ import annotations

import base64
import hashlib
import zlib

from pydantic import ValidationError

from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.machine_policies import instance_policy
from prefect_coiled.records import AccountRecord, MachineImage, Record


class Known(Record):
    """What somebody has looked at: everything that a launch needs was there, and as it should be.

    Attributes:
        version: The number that AWS gives what is written, as the writer expected it. With another one
            somebody has changed something, or is about to, after the writer began to look.
        wants: What the writer's version of this library wants of an account; see `wants_of`.
        images: Plain machine images, by `image_key`.
        disk_key: The customer's key that encrypts disks in the region; empty for AWS's own.
    """

    version: int
    wants: str
    account: AccountRecord
    images: dict[str, MachineImage] = {}
    disk_key: str = ""

    def serves(self, spec: ClusterSpec) -> bool:
        """Whether a launch of that cluster needs nothing else.

        What closes a network is looked at each time: it may be open again.
        """
        network = self.account.network
        if network is None or spec.network is not None or any(s.blocked for s in network.subnets):
            return False
        placed = all(network.subnet(spec.zone, tier) is not None for tier in ("public", "private"))
        return placed and (spec.egress != "nat" or bool(network.nat_gateways))

    def encode(self) -> str:
        """As short text, for a parameter."""
        raw = self.model_dump_json(exclude_defaults=True).encode()
        return base64.b64encode(zlib.compress(raw, 9)).decode()

    @classmethod
    def decode(cls, text: str) -> Known | None:
        """Read what `encode` wrote; None for what another version wrote otherwise, and for `NOTHING`."""
        try:
            return cls.model_validate_json(zlib.decompress(base64.b64decode(text)))
        except (ValueError, ValidationError, zlib.error):
            return None


# Written where something is about to change: nothing is known then.
NOTHING = "nothing"


def image_key(architecture: str, *, gpu: bool) -> str:
    """Which plain image it is."""
    return f"{architecture} gpu" if gpu else architecture


def wants_of(account: str, number: str, boundary: str, library: str, partition: str = "aws") -> str:
    """What this version of the library wants of an account, as a short hash.

    An account that an older version found complete may lack something for this one.
    """
    policy = instance_policy(account, number, partition)
    return hashlib.sha256("\0".join((library, boundary, policy)).encode()).hexdigest()[:16]
