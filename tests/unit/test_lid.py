"""What a cluster may cost: which types and how many workers stay below, and when its scheduler says stop."""

import pytest

from prefect_coiled.errors import OptionsError
from prefect_coiled.node.meter import AFTER, BEFORE, Meter
from prefect_coiled.plan.lid import Sizes, below
from prefect_coiled.plan.prices import shipped

PLAIN = Sizes(0, False)


def choose(limit, n, schedulers=("m6i.large",), workers=("m6i.large",), *, sizes=PLAIN, nat=False):
    prices = shipped()
    return below(limit, n, schedulers, workers, scheduler=sizes, worker=sizes, nat=nat, prices=prices)


def test_disks_addresses_and_the_nat_gateway_count():
    bare, whole = choose(None, 1).rates, choose(None, 1, sizes=Sizes(730, True), nat=True).rates
    assert whole.worker == pytest.approx(bare.worker + 0.08 + 0.005)
    assert whole.base == pytest.approx(bare.base + 0.08 + 0.005 + 0.05)


def test_a_fast_disk_costs_more_and_a_burstable_machine_what_its_busy_vcpus_do():
    # 0.04 $ a MiB/s beyond 125 and 0.005 $ an IOPS beyond 3,000 a month, of which 1,000 MiB/s need 4,000.
    plain, fast = choose(None, 1).rates, choose(None, 1, sizes=Sizes(0, False, 1000)).rates
    assert fast.worker == pytest.approx(plain.worker + (875 * 0.04 + 1000 * 0.005) / 730)
    assert choose(None, 1, sizes=Sizes(0, False, 500)).rates.worker == pytest.approx(
        plain.worker + 375 * 0.04 / 730
    )
    busy = choose(None, 1, workers=("t3.xlarge",)).rates.worker
    assert busy == pytest.approx(shipped().machines["t3.xlarge"] + 4 * 0.6 * 0.05)
    assert shipped().surplus("t4g.nano") == pytest.approx(2 * 0.95 * 0.04)
    assert shipped().surplus("m6i.large") == shipped().surplus("t2.large") == 0.0


def test_types_that_are_too_dear_are_left_out_and_the_order_stays():
    small, large = shipped().machines["m6i.large"], shipped().machines["m6i.4xlarge"]
    kinds = ("m6i.4xlarge", "m6i.large", "m5.large")
    choice = choose(small + 2 * small + 0.01, 2, kinds, kinds)
    assert choice.worker_types == choice.scheduler_types == ("m6i.large", "m5.large")
    assert choose(9 * large, 2, kinds, kinds).worker_types == kinds


def test_whatever_is_launched_stays_below():
    kinds = ("m6i.xlarge", "m5.large", "m7i.xlarge", "m6i.large")
    for limit in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        choice = choose(limit, 3, kinds, kinds, sizes=Sizes(30, True), nat=True)
        dearest = max(Sizes(30, True).rate(t, shipped()) for t in choice.worker_types)
        first = max(Sizes(30, True).rate(t, shipped()) for t in choice.scheduler_types)
        assert 0.05 + first + 3 * dearest <= limit
        assert choice.rates.most_workers(limit) >= 3
        assert choice.rates.base + choice.rates.most_workers(limit) * choice.rates.worker <= limit


@pytest.mark.parametrize(
    ("dollars", "room"), [(0.2, "room for 1 worker at most"), (0.1, "room for none"), (0.05, "room for none")]
)
def test_what_costs_more_is_refused_with_how_many_would_fit(dollars, room):
    with pytest.raises(OptionsError, match=rf"max_hourly_cost .*: 4 workers .*\$0\.48.*{room}"):
        choose(dollars, 4)


def test_a_type_without_a_known_price_is_refused():
    with pytest.raises(OptionsError, match=r"the price of x9\.huge is not known"):
        choose(100.0, 1, workers=("m6i.large", "x9.huge"))


def test_the_meter_counts_each_machine_that_was_there_by_its_time():
    meter = Meter(1e9, base=3600.0, worker=36.0, started=0.0)
    assert meter.spent == BEFORE  # a dollar a second
    meter.check(10.0, ["a", "b"])  # here since the last look, for all that is known
    meter.check(20.0, ["b"])
    meter.check(30.0, [])
    workers = 0.01 * (2 * (BEFORE + AFTER) + 10 + 10 + 10)
    assert meter.spent == pytest.approx(BEFORE + 30 + workers)


def test_a_machine_with_two_names_or_that_comes_back_is_billed_its_first_minute_once():
    meter = Meter(1e9, base=0.0, worker=36.0, started=0.0)
    for _ in range(3):
        meter.check(0.0, ["a", "a"])
        meter.check(0.0, [])
    assert meter.spent == pytest.approx(0.01 * (BEFORE + AFTER))


def test_the_meter_says_stop_before_all_is_spent():
    meter = Meter(200.0, base=3600.0, worker=0.0, started=0.0)
    looks = [meter.check(float(second), []) for second in range(0, 120, 5)]
    assert looks.index(True) * 5 == 200 - BEFORE - AFTER


def test_machines_that_aws_lists_count_before_they_join_and_if_they_never_do():
    meter = Meter(1000.0, base=3600.0, worker=3600.0, started=0.0)
    assert not meter.check(10.0, [])
    # Since a minute before: the scheduler and nine that boot, a dollar a second each.
    meter.listed(10.0, usd=600.0, usd_per_hour=36000.0)
    looks = [meter.check(float(second), []) for second in range(10, 30)]
    assert 10 + looks.index(True) == 20, "of 1000, 100 are gone by then, and 300 for what it takes to end"


def test_what_joins_between_two_looks_at_the_list_counts_all_the_same():
    meter = Meter(1000.0, base=0.0, worker=3600.0, started=0.0)
    meter.listed(0.0, usd=0.0, usd_per_hour=0.0)
    assert not meter.check(0.0, [])
    assert meter.check(1.0, [f"i-{n}" for n in range(12)])
