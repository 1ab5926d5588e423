"""Another program's clock, and another version of this library: who shares a cluster meets both."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.cluster import launched as room
from prefect_coiled.cluster.launched import Launched
from prefect_coiled.errors import ProvisionError
from prefect_coiled.plan.prices import shipped
from prefect_coiled.tasks import names

NOON = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """Planned at noon, launched three hours later: it waited for a slot."""
    monkeypatch.setattr(room, "seen_prices", lambda aws: shipped())
    machine = SimpleNamespace(
        instance_id="i-0", instance_type="m6i.large", spot=False, launched_at=NOON + timedelta(hours=3)
    )
    made: Any = Launched.__new__(Launched)
    made.aws, made._ran = None, {}
    made.record = SimpleNamespace(created_at=NOON, scheduler=machine, region="us-east-1")
    made.spec = SimpleNamespace(
        scheduler_disk=30, worker_disk=30, has_public_address=lambda role: True, egress="nat", network=None
    )
    return made  # type: ignore[no-any-return]


def test_what_was_waited_for_a_slot_costs_nothing(cluster: Launched) -> None:
    hour = cluster.cost(NOON + timedelta(hours=4)).known_usd
    assert hour > 0
    assert hour == pytest.approx(cluster.cost(NOON + timedelta(hours=5)).known_usd / 2)


def test_a_clock_that_is_behind_does_not_keep_the_cost_from_being_told(cluster: Launched) -> None:
    assert cluster.cost(NOON).known_usd == 0.0


@pytest.mark.parametrize("plan", [b"no plan", zlib.compress(json.dumps({"name": "a", "new": 1}).encode())])
def test_a_plan_that_this_version_cannot_read_is_told_in_a_line(
    plan: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = base64.b64encode(plan).decode()
    monkeypatch.setattr(names.parameters, "read_parameter", lambda aws, name: text)
    account: Any = SimpleNamespace(account="team")
    for read in (names.read_intent, names.read_plan):
        with pytest.raises(ProvisionError, match=r"another version .*prefect-coiled stop shared") as told:
            read(account, "shared")
        assert "\n" not in str(told.value)
