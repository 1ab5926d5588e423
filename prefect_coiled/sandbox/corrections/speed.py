"""What moto does more of than anybody asked for.

Not a matter of truth. Two look-ups go through everything, at every instance: without them a launch of 300
instances takes 8 s instead of 3. Each Region that somebody looks at gets 1,300 images with a snapshot each,
at once and after each reset: 0.1 s for each of 17 Regions. Each account gets AWS's 1,600 own policies, read
anew from their text: 0.1 s. And each call lists the folders of moto's package, and all methods of a service:
2 of its 4 ms, with a lock held that all calls share.
"""

from __future__ import annotations

import copy
import functools
import threading
from typing import Any

from moto import backends
from moto.core import responses
from moto.ec2.models import EC2Backend
from moto.ec2.models.amis import AmiBackend
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE
from moto.iam.models import IAMBackend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication

__all__ = ["install"]


def install() -> None:
    """Look up a resource's own tags, and an image by its id, directly; load what is large late, or once."""
    _load_images_late()
    _read_policies_once()
    folders = frozenset(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: folders
    responses.method_names_from_class = functools.cache(responses.method_names_from_class)
    application = DomainDispatcherApplication
    application.get_backend_for_host = functools.cache(application.get_backend_for_host)
    moto_describe_images = EC2Backend.describe_images

    def get_tags(self: Any) -> list[dict[str, str]]:
        if not self.id:
            return []
        kind = EC2_PREFIX_TO_RESOURCE.get(self.id.rpartition("-")[0], "")
        return [
            {"resource_id": self.id, "key": key, "value": value, "resource_type": kind}
            for key, value in dict(self.ec2_backend.tags.get(self.id, {})).items()
        ]

    def describe_images(
        self: Any,
        ami_ids: list[str] | None = None,
        filters: dict[str, Any] | None = None,
        exec_users: list[str] | None = None,
        owners: list[str] | None = None,
    ) -> list[Any]:
        only_id = not ami_ids and not exec_users and not owners and filters and set(filters) == {"image-id"}
        if only_id and isinstance(filters["image-id"], str):  # type: ignore[index]
            image = self.amis.get(filters["image-id"])  # type: ignore[index]
            return [] if image is None else [image]
        found: list[Any] = moto_describe_images(self, ami_ids, filters, exec_users, owners)
        return found

    TaggedEC2Resource.get_tags = get_tags
    EC2Backend.describe_images = describe_images


def _load_images_late() -> None:
    load = AmiBackend._load_amis
    # One for all backends: those of a reset are made while others still answer.
    loading = threading.RLock()

    def load_late(self: Any) -> None:
        self.images_loaded = False

    def get(self: Any) -> dict[str, Any]:
        if not self.images_loaded:
            with loading:
                # What loads puts each image in here, and so comes by.
                if not (self.images_loaded or self.images_loading):
                    self.images_loading = True
                    load(self)
                    self.images_loading, self.images_loaded = False, True
        images: dict[str, Any] = self.images_by_id
        return images

    def set_images(self: Any, images: dict[str, Any]) -> None:
        self.images_by_id = images

    AmiBackend.images_loading = False
    AmiBackend.images_loaded = True
    AmiBackend._load_amis = load_late
    AmiBackend.amis = property(get, set_images)


def _read_policies_once() -> None:
    read = IAMBackend._init_aws_policies
    known: list[Any] = []

    def copies(self: Any) -> list[Any]:
        if not known:
            known[:] = read(self)
        # Of its own an account has how often each is attached; AWS has one id of each for all accounts.
        found = [copy.copy(policy) for policy in known]
        for policy in found:
            policy.partition = self.partition
        return found

    IAMBackend._init_aws_policies = copies
