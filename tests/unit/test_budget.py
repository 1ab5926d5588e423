"""A monthly budget: what it takes, what counts against it, and what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled import Ec2DaskAccount
from prefect_coiled.blocks import account_from_block
from prefect_coiled.blocks.editing import check_nothing_opened, edited
from prefect_coiled.errors import AccessDeniedError, AwsError, NoAnswerError, OptionsError
from prefect_coiled.plan.budget import read_budget, standing
from prefect_coiled.plan.prices import shipped
from prefect_coiled.plan.spending import CostRecord, Known
from prefect_coiled.provision import budget as looking

NOW = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def cluster(uid: str, since: datetime, usd: float, *, hours: float, good_for: float = 0.0) -> Known:
    at = since + hours * HOUR
    told = {"cluster": uid, "uid": uid, "usd_per_hour": 2.0 if good_for else 0.0, "good_for": good_for}
    return Known("team", "us-east-1", CostRecord(since=since, at=at, usd=usd, machines=2, **told))


def test_what_was_spent_this_month_and_what_runs_count() -> None:
    found = [
        cluster("ended", NOW - 5 * HOUR, 3.0, hours=1),
        cluster("runs", NOW - HOUR, 2.0, hours=1, good_for=300.0),
        cluster("over the turn of the month", datetime(2026, 2, 28, 12, tzinfo=timezone.utc), 10.0, hours=24),
        cluster("of last month", datetime(2026, 2, 1, tzinfo=timezone.utc), 99.0, hours=24),
    ]
    now = standing("team", 20.0, found, NOW, listed={"young": (1, 0.5), "runs": (1, 1.0)})
    assert now.spent == 10.0
    assert now.usd_per_hour == 2.5
    now.hold("one that fits", 7.5)
    with pytest.raises(OptionsError) as refused:
        now.hold("launching cluster 'too-much'", 7.6)
    for words in ("'too-much'", "$10.00", "$20.00", "2026-03-01", "$2.50", "$7.60", "$20.10", "team"):
        assert words in str(refused.value)


def test_a_cluster_that_runs_counts_until_its_next_record_is_long_overdue() -> None:
    # A record is taken when it is due, sent with others, and found a while after that.
    for good_for, late in ((15.0, 1), (15.0, 59), (300.0, 1), (300.0, 299)):
        found = [cluster("runs", NOW - HOUR, 2.0, hours=1, good_for=good_for)]
        after = NOW + timedelta(seconds=good_for + late)
        assert standing("team", 20.0, found, after).usd_per_hour == 2.0, (good_for, late)
        assert standing("team", 20.0, found, after + timedelta(seconds=400)).usd_per_hour == 0.0


def test_what_is_not_known_of_the_prices_is_said() -> None:
    known = cluster("new", NOW - HOUR, 2.0, hours=1)
    record = known.record.model_copy(update={"unpriced": ("p5.48xlarge",), "prices_of": "us-east-1"})
    now = standing("team", 20.0, [known._replace(record=record)], NOW)
    assert "the price of p5.48xlarge is not known, and not in it" in str(now)
    assert "those of us-east-1 count" in str(now)
    assert (now.told()["unpriced"], now.told()["prices_of"]) == (["p5.48xlarge"], ["us-east-1"])
    old = cluster("of last month", datetime(2026, 2, 1, tzinfo=timezone.utc), 1.0, hours=1)
    late = old.record.model_copy(update={"unpriced": ("p5.48xlarge",)})
    assert standing("team", 20.0, [old._replace(record=late)], NOW).unpriced == ()


@pytest.mark.parametrize("error", [NoAnswerError, AccessDeniedError])
def test_a_region_that_is_out_of_reach_keeps_no_launch_in_another_from_coming_up(
    error: type[AwsError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(aws: Any, begin: datetime, now: datetime) -> list[Known]:
        if aws.region != "us-east-1":
            raise error("reading log streams", "no answer", "Check the network.")
        return []

    def door(region: str | None = None, stop: Any = None) -> Any:
        return SimpleNamespace(region=region, account="team", stop=None, beside=door)

    monkeypatch.setattr(looking, "find_records", records)
    monkeypatch.setattr(looking.instances, "find_instances", lambda aws, states: [])
    monkeypatch.setattr(looking, "find_prices", lambda aws, types: None)
    looking.hold_to_budget(door("us-east-1"), 200.0, "launching cluster 'c'", 1.0)
    with pytest.raises(error):
        looking.hold_to_budget(door("us-west-2"), 200.0, "launching cluster 'c'", 1.0)


def test_a_cluster_that_grew_since_its_last_record_counts_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [cluster("grows", NOW - HOUR, 2.0, hours=1, good_for=300.0)]
    monkeypatch.setattr(looking, "find_records", lambda aws, *_: found if aws.region == "us-east-1" else [])

    def listed(aws: Any, states: tuple[str, ...]) -> list[Any]:
        assert "stopped" not in states
        worker = {"cluster_uid": "grows", "instance_type": "m6i.xlarge", "spot": False, "public_ip": ""}
        return [SimpleNamespace(**worker) for _ in range(100)]

    monkeypatch.setattr(looking.instances, "find_instances", listed)
    monkeypatch.setattr(looking, "find_prices", lambda aws, types: shipped())
    door: Any = SimpleNamespace(region="us-east-1", account="team", stop=None)
    door.beside = lambda region, stop: SimpleNamespace(region=region, account="team")
    # As many times what the two of the record cost, which knows the prices of spot machines.
    assert looking.find_standing(door, 200.0, NOW).usd_per_hour == pytest.approx(100.0)


def test_a_cluster_without_a_record_counts_with_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {"cluster_uid": "new", "instance_type": "m6i.xlarge", "spot": False, "public_ip": "203.0.113.7"}
    monkeypatch.setattr(looking, "find_records", lambda *_: [])
    monkeypatch.setattr(
        looking.instances,
        "find_instances",
        lambda *_, **__: [SimpleNamespace(**machine), SimpleNamespace(**machine)],
    )
    monkeypatch.setattr(looking, "find_prices", lambda *_: shipped())
    door: Any = SimpleNamespace(region="us-east-1", account="team", stop=None)
    door.beside = lambda region, stop: SimpleNamespace(region=region, account="team")
    found = looking.find_standing(door, 200.0, NOW)
    price = shipped().machine("m6i.xlarge")
    assert price is not None
    assert found.usd_per_hour == pytest.approx(2 * (price + shipped().address))


def test_where_nothing_is_to_be_seen_that_is_said() -> None:
    now = standing("team", 20.0, [], NOW, not_seen=("eu-west-1",))
    assert "eu-west-1" in str(now)
    assert "$20.00" in str(now)


@pytest.mark.parametrize(("said", "meant"), [("", None), ("  ", None), ("200", 200.0), ("$0.5", 0.5)])
def test_a_budget_is_an_amount_or_nothing(said: str, meant: float | None) -> None:
    assert read_budget(said) == meant


@pytest.mark.parametrize("said", ["0", "-1", "nan", "inf", "much", "1,000", True, float("nan")])
def test_what_is_no_amount_is_no_account(said: Any) -> None:
    with pytest.raises(OptionsError, match="monthly_budget"):
        Ec2DaskAccount(region="us-east-1", monthly_budget=said)


def test_a_number_is_as_good_as_a_text() -> None:
    block = Ec2DaskAccount(region="us-east-1", monthly_budget=12.5)
    assert block.monthly_budget == "12.5"
    assert account_from_block(block, "team").monthly_budget == 12.5
    assert account_from_block(Ec2DaskAccount(region="us-east-1"), "team").monthly_budget is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (200, "200"),
        (200.0, "200"),
        (100, "100"),
        (1234567.0, "1234567"),
        (1234567.89, "1234567.89"),
        (1e16, "1" + "0" * 16),
        (0.000012, "0.000012"),
    ],
)
def test_a_number_is_kept_as_it_is_and_plainly_written(number: float, text: str) -> None:
    block = Ec2DaskAccount(region="us-east-1", monthly_budget=number)
    assert block.monthly_budget == text
    assert account_from_block(block, "team").monthly_budget == number


def test_a_budget_is_changed_and_emptied_but_does_not_fall_away() -> None:
    saved = edited(None, fields={"monthly_budget": "200"})
    assert edited(saved, fields={"zone": "us-east-1b"}).monthly_budget == "200"
    none = edited(saved, clear=["budget"])
    assert none.monthly_budget == ""
    with pytest.raises(OptionsError, match="monthly_budget"):
        check_nothing_opened(saved, none, ())
    check_nothing_opened(saved, none, ("monthly_budget",))
