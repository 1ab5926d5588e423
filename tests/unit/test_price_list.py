"""What AWS's price list says is kept for a day; what it does not say is said, and nobody waits for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.aws import price_list
from prefect_coiled.aws.price_list import find_prices, seen_prices
from prefect_coiled.errors import AccessDeniedError, CredentialsError, OptionsError, ThrottledError
from prefect_coiled.plan.lid import Sizes, below
from prefect_coiled.plan.prices import basis, shipped

Asked = list[dict[str, str]]


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("_seen", "_spot", "_refused"):
        monkeypatch.setattr(price_list, name, {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def product(usd: str, unit: str, currency: str = "USD") -> str:
    dimension = {"unit": unit, "pricePerUnit": {currency: usd}}
    return json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": {"y": dimension}}}}})


LISTED = {
    "m5.large": [product("0.1070000000", "Hrs")],
    "Storage": [product("0.0880000000", "GB-Mo")],
    "NAT Gateway": [product("0.0480000000", "Hrs"), product("0.0930000000", "GB")],
}


def door(
    asked: Asked, answer: Callable[[str], list[str]] = lambda what: LISTED.get(what, []), **more: Any
) -> Any:
    def call(action: str, what: str, **said: Any) -> dict[str, Any]:
        assert (action, said["ServiceCode"]) == ("pricing:GetProducts", "AmazonEC2")
        wanted = {one["Field"]: one["Value"] for one in said["Filters"]}
        asked.append(wanted)
        return {"PriceList": answer(wanted.get("instanceType") or wanted["productFamily"])}

    place = {"region": "eu-west-1", "endpoint_url": None, "in_sandbox": False, "account": "team", **more}
    return SimpleNamespace(call=call, stop=threading.Event(), **place)


def denied(what: str) -> list[str]:
    raise AccessDeniedError("reading prices", "no", operation="pricing:GetProducts", code="AccessDenied")


def pass_hours(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=hours)
    monkeypatch.setattr(price_list, "datetime", SimpleNamespace(now=lambda zone: later))


def test_a_price_is_asked_for_once_a_day_whatever_process_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []
    aws = door(asked)
    found = find_prices(aws, ["m5.large", "m5.large", "x9.huge"])
    assert (found.region, found.machine("m5.large"), found.machine("x9.huge")) == ("eu-west-1", 0.107, None)
    assert (found.gb_month, found.nat) == (0.088, 0.048 + 0.005)
    assert all(one["regionCode"] == "eu-west-1" for one in asked)
    assert {one.get("marketoption") for one in asked} == {"OnDemand", None}, "capacity blocks cost otherwise"
    assert len(asked) == 4
    monkeypatch.setattr(price_list, "_seen", {})  # another process
    assert find_prices(aws, ["m5.large", "x9.huge"]) == found
    assert seen_prices(aws) == found
    assert len(asked) == 4, "nor for what AWS does not sell there"
    find_prices(aws, ["m5.large", "c5.large"])
    assert [one.get("instanceType") for one in asked[4:]] == ["c5.large"]
    pass_hours(monkeypatch, 25)
    find_prices(aws, ["m5.large"])
    assert len(asked) == 8


def test_in_the_region_of_the_table_aws_is_asked_for_what_is_not_in_it_alone() -> None:
    asked: Asked = []
    listed = {"x9.huge": [product("9.5", "Hrs")]}
    aws = door(asked, lambda what: listed.get(what, []), region="us-east-1")
    assert find_prices(aws, ["m6i.large"]) == shipped()
    assert asked == []
    found = find_prices(aws, ["m6i.large", "x9.huge"])
    assert [one.get("instanceType") for one in asked] == ["x9.huge"]
    assert found == shipped().model_copy(update={"machines": {**shipped().machines, "x9.huge": 9.5}})


def test_what_is_denied_is_asked_for_again_by_others_and_a_little_later() -> None:
    asked: Asked = []
    aws = door(asked, denied)
    found = find_prices(aws, ["m5.large"])
    assert found.region == "us-east-1"
    assert "AccessDenied" in found.why
    assert basis({"eu-west-1": found}).endswith(f"; eu-west-1 differs ({found.why}).")
    assert find_prices(aws, ["m5.large"]) == found
    assert len(asked) == 1, "one has no answer, so nobody waits for the others"
    other = door(asked, account="other")
    assert find_prices(other, ["m5.large"]).region == "eu-west-1"
    assert find_prices(aws, ["m5.large"]).region == "eu-west-1", "what one may read is true for all"


def test_a_failure_takes_nothing_from_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []
    before = find_prices(door(asked), ["m5.large"])
    found = find_prices(door(asked, denied), ["m5.large", "c5.large"])
    assert (found.machine("m5.large"), found.machine("c5.large")) == (0.107, None)
    pass_hours(monkeypatch, 25)
    later = find_prices(door(asked, denied), ["m5.large"])
    assert later.machine("m5.large") == 0.107
    assert later.as_of == before.as_of, "and of which day it is is said"


def test_who_asks_meanwhile_for_other_types_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Asked = []
    others = [door(asked)]

    def answer(what: str) -> list[str]:
        if others:  # in the middle of this
            find_prices(others.pop(), ["c5.large"])
        return LISTED.get(what, [])

    find_prices(door(asked, answer), ["m5.large"])
    assert {"m5.large", "c5.large"} <= seen_prices(door(asked)).machines.keys()


def test_a_busy_aws_is_asked_again() -> None:
    asked: Asked = []
    busy = [
        ThrottledError("reading prices", "no", operation="pricing:GetProducts", code="ThrottlingException")
    ]

    def answer(what: str) -> list[str]:
        if busy:
            raise busy.pop()
        return LISTED.get(what, [])

    assert find_prices(door(asked, answer), ["m5.large"]).machine("m5.large") == 0.107


@pytest.mark.parametrize("answer", [None, "text", ["no JSON"], ['{"terms": {"OnDemand": {"x": {}}}}'], [[]]])
def test_what_no_price_list_says_is_no_failure_of_a_launch(answer: Any) -> None:
    assert "was not to be had" in find_prices(door([], lambda what: answer), ["m5.large"]).why


def test_a_type_that_is_not_sold_there_is_left_out_of_what_a_lid_chooses_from() -> None:
    prices = find_prices(door([]), ["m5.large", "m7a.large"])
    kinds, plain = ("m7a.large", "m5.large"), Sizes(0, False)
    choice = below(1.0, 1, kinds, kinds, scheduler=plain, worker=plain, nat=False, prices=prices)
    assert choice.worker_types == ("m5.large",)
    with pytest.raises(OptionsError, match=r"price of m7a\.large is not known"):
        below(1.0, 1, kinds[:1], kinds[:1], scheduler=plain, worker=plain, nat=False, prices=prices)


def test_keys_that_do_not_work_are_told_of() -> None:
    def refuse(what: str) -> list[str]:
        raise CredentialsError("reading prices", "no", operation="pricing:GetProducts")

    with pytest.raises(CredentialsError):
        find_prices(door([], refuse), ["m5.large"])


def test_a_price_in_another_currency_is_none_in_dollars() -> None:
    listed = {**LISTED, "m5.large": [product("0.9", "Hrs", "CNY")]}
    assert find_prices(door([], lambda what: listed.get(what, [])), ["m5.large"]).machine("m5.large") is None


def test_an_api_that_knows_nothing_of_a_region_is_none() -> None:
    assert find_prices(door([], lambda what: []), ["m5.large"]).region == "us-east-1"


def test_a_file_that_is_broken_and_a_home_that_cannot_be_written_ask_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "prefect-coiled" / "prices" / "prices.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"eu-west-1": {"m5.large"')
    assert find_prices(door([]), ["m5.large"]).machine("m5.large") == 0.107
    monkeypatch.setattr(price_list, "_seen", {})
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")
    assert find_prices(door([]), ["m5.large"]).machine("m5.large") == 0.107


def test_what_other_endpoints_say_is_not_taken_for_what_aws_says(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = door([], endpoint_url="http://127.0.0.1:4566")
    find_prices(elsewhere, ["m5.large"])
    assert seen_prices(elsewhere).region == "eu-west-1"
    assert seen_prices(door([])).region == shipped().region


def test_the_basis_names_each_day_and_region_once() -> None:
    one = shipped().model_copy(update={"region": "eu-west-1", "as_of": "2026-11-30"})
    other = one.model_copy(update={"region": "eu-west-2"})
    text = basis({"eu-west-1": one, "eu-west-2": other, "us-east-1": shipped()}, spot=True)
    assert text == (
        "List prices of us-east-1 as of 2026-07-20; eu-west-1, eu-west-2 as of 2026-11-30, without tax, data "
        "transfer and logs; spot machines cost less than the on-demand price counted here."
    )


def test_the_basis_says_for_how_many_regions_spot_prices_are_known() -> None:
    known = shipped().model_copy(update={"spot": {"m5.large": 0.03}})
    every = basis({"us-east-1": known}, spot=True)
    assert every.endswith("; spot machines at the spot price of the dearest zone at the moment.")
    some = basis({"us-east-1": known, "eu-west-1": shipped()}, spot=True)
    assert "spot price of the dearest zone at the moment where it is known, else at the on-demand" in some
