"""Prefect's own storage of leases, in which a minute is three seconds; named by a setting of the server's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.server.concurrency.lease_storage import memory

_FASTER = 20


class ConcurrencyLeaseStorage(memory.ConcurrencyLeaseStorage):
    async def create_lease(self, resource_ids: list[UUID], ttl: timedelta, metadata: Any = None) -> Any:
        return await super().create_lease(resource_ids, ttl / _FASTER, metadata)

    async def renew_lease(self, lease_id: UUID, ttl: timedelta) -> bool:
        return await super().renew_lease(lease_id, ttl / _FASTER)
