import pytest

from prefect_coiled.costs import CostEstimate, MachineUse, estimate, hourly


def test_the_hourly_price_is_the_list_price_or_none():
    assert hourly("m6i.xlarge") == 0.192
    assert hourly("g4dn.xlarge") == 0.526
    assert hourly("x8aedz.3xlarge") is None


def test_an_estimate_sums_machines_disks_addresses_and_gateways():
    result = estimate(
        [
            MachineUse(vm_type="m6i.xlarge", label="scheduler", hours=2, public_ip=True, disk_gb=73),
            MachineUse(vm_type="m6i.large", label="workers", hours=2, count=10),
            MachineUse(vm_type="m6i.large", count=0),
        ],
        nat_gateway_hours=2,
    )
    assert [line.what for line in result.lines] == [
        "scheduler: 1 x m6i.xlarge, 2.00 h",
        "workers: 10 x m6i.large, 2.00 h",
        "disks (gp3)",
        "public IPv4 addresses",
        "NAT gateways and their addresses",
    ]
    assert [line.usd for line in result.lines] == pytest.approx([0.384, 1.92, 0.016, 0.01, 0.1])
    assert result.total_usd == result.known_usd == pytest.approx(2.43)
    assert "Total: $2.43" in str(result)


def test_an_unknown_price_is_never_made_up():
    result = estimate([MachineUse(vm_type="x8aedz.3xlarge"), MachineUse(vm_type="m6i.xlarge")])
    assert result.lines[0].usd is None
    assert result.lines[0].note == "price not known"
    assert result.total_usd is None
    assert result.known_usd == pytest.approx(0.192)
    assert "Total: price not known; without what is not known $0.1920" in str(result)


def test_spot_is_counted_at_most_at_the_on_demand_price():
    result = estimate([MachineUse(vm_type="m6i.xlarge", spot=True)])
    assert result.total_usd == pytest.approx(0.192)
    assert "at most" in result.lines[0].note
    assert "spot machines cost less" in result.basis


def test_a_machine_is_billed_for_a_minute_at_least_if_it_ran():
    assert estimate([MachineUse(vm_type="m6i.xlarge", hours=0.001)]).total_usd == pytest.approx(0.192 / 60)
    assert estimate([MachineUse(vm_type="m6i.xlarge", hours=0)]).total_usd == 0
    assert estimate([]).total_usd == 0


def test_the_basis_says_what_kind_of_number_it_is():
    basis = estimate([MachineUse(vm_type="m6i.xlarge")], region="eu-west-1").basis
    assert basis.startswith("List prices of us-east-1 as of 2026-07-20")
    assert "eu-west-1 differs" in basis
    assert "differs" not in estimate([], region="us-east-1").basis


def test_an_estimate_goes_through_json():
    result = estimate([MachineUse(vm_type="m6i.xlarge")])
    assert CostEstimate.model_validate_json(result.model_dump_json()) == result
