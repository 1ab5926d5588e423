"""What a flow run says of its cluster over what the code says."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_coiled import ClusterSettings
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import IngressRule
from prefect_coiled.options.keywords import PREFIX as PRE
from prefect_coiled.options.keywords import from_variables
from prefect_coiled.task_runner.run_options import resolve


def test_the_parameter_wins_over_the_environment_and_that_over_the_code() -> None:
    code = {"n_workers": 2, "account": "code", "worker_cpu": 4, "idle_timeout": "1 hour"}
    environ = {f"{PRE}N_WORKERS": "20", f"{PRE}ACCOUNT": "env", "PATH": "/bin"}
    parameters = {"day": "monday", "cluster": ClusterSettings(n_workers=40)}
    held, sources = resolve(code, parameters, environ)
    assert held == {"n_workers": 40, "account": "env", "worker_cpu": 4, "idle_timeout": 3600.0}
    assert sources == {"account": "environment", "n_workers": "parameter 'cluster'"}


def test_nothing_said_changes_nothing() -> None:
    code = {"n_workers": 2, "region": "eu-west-1", "backend_options": {"spot": True}}
    assert resolve(code, {"cluster": ClusterSettings()}, {}) == (code, {})
    assert resolve(code, None, {f"{PRE}N_WORKERS": " "}) == (code, {})


def test_names_stay_texts() -> None:
    assert from_variables({f"{PRE}NAME": "2026", f"{PRE}ACCOUNT": "7"}) == {"name": "2026", "account": "7"}


@pytest.mark.parametrize(
    ("keyword", "text", "value"),
    [
        ("container", "1.10", "1.10"),
        ("worker_class", "true", "true"),
        ("allow_ingress_from", "10", "10"),
        ("software", "123", "123"),
        ("n_workers", "20", 20),
        ("idle_timeout", "20", 20.0),
        ("idle_timeout", "20 minutes", 1200.0),
        ("idle_timeout", "none", None),
        ("worker_cpu", "[4, 8]", (4, 8)),
        ("worker_vm_types", '["m6i.large", "m6i.xlarge"]', ("m6i.large", "m6i.xlarge")),
        ("worker_vm_types", "m6i.large, m6i.xlarge", ("m6i.large", "m6i.xlarge")),
        ("worker_vm_types", "m6i.large", ("m6i.large",)),
        ("memory_limit", "4 GiB", "4294967296"),
        ("worker_memory", "16", "16"),
        ("spot", "False", False),
        ("spot", "no", False),
        ("allow_ssh", "0", False),
        ("shutdown_on_close", "Yes", True),
        ("wait_for_workers", "True", True),
        ("wait_for_workers", "1", 1),
        ("wait_for_workers", "0.5", 0.5),
        ("worker_gpu", "1", 1),
        ("tags", '{"team": "1"}', {"team": "1"}),
    ],
)
def test_a_variable_is_what_its_keyword_takes(keyword: str, text: str, value: Any) -> None:
    found = from_variables({f"{PRE}{keyword.upper()}": text})
    assert found == {keyword: value}
    assert type(found[keyword]) is type(value)


@pytest.mark.parametrize(
    ("keyword", "text", "words"),
    [
        ("allow_ssh", "maybe", "true or false"),
        ("allow_ssh", "2", "true or false"),
        ("allow_ssh", "[]", "true or false"),
        ("tags", "team=a", "a mapping of texts"),
        ("nthreads", "two", "a whole number, 1 or more"),
        ("backend_options", "{region: eu-west-1}", "a mapping"),
    ],
)
def test_what_a_variable_cannot_mean_is_refused_by_its_name(keyword: str, text: str, words: str) -> None:
    with pytest.raises(OptionsError, match=f"{PRE}{keyword.upper()} .*it has to be {words}"):
        from_variables({f"{PRE}{keyword.upper()}": text})


def test_a_misspelt_variable_is_an_error_that_names_the_nearest_keyword() -> None:
    with pytest.raises(OptionsError, match=r"N_WORKRS.*Did you mean 'n_workers'\?"):
        from_variables({f"{PRE}N_WORKRS": "3"})


@pytest.mark.parametrize(
    ("lower", "higher", "held"),
    [
        # Machines by name hide machines by size, and the other way round.
        ({"worker_cpu": 4, "worker_memory": "16 GiB"}, {"worker_vm_types": ["c6i.large"]},
         {"worker_vm_types": ("c6i.large",)}),
        ({"worker_vm_types": ["c6i.large"]}, {"worker_cpu": 8}, {"worker_cpu": 8}),
        # Shorthands are the same options as those in backend_options.
        ({"backend_options": {"region": "eu-west-1", "zone": "eu-west-1a", "egress": "none"}},
         {"region": "us-east-1"}, {"backend_options": {"region": "us-east-1", "egress": "none"}}),
        ({"region": "eu-west-1", "zone": "eu-west-1a"}, {"region": "eu-west-1"},
         {"backend_options": {"region": "eu-west-1", "zone": "eu-west-1a"}}),
        ({"spot": True}, {"spot_policy": "on-demand"}, {"backend_options": {"spot_policy": "on-demand"}}),
        ({"backend_options": {"ingress": [{"ports": [1], "cidr": "me"}]}}, {"allow_ingress_from": "me"},
         {"backend_options": {"ingress": (IngressRule(cidr="me"),)}}),
        ({"allow_ingress_from": "me"}, {"backend_options": {"firewall": {"ports": [1], "cidr": "me"}}},
         {"backend_options": {"ingress": (IngressRule(ports=[1], cidr="me"),)}}),
    ],
)  # fmt: skip
def test_what_contradicts_the_higher_place_falls_away(
    lower: dict[str, Any], higher: dict[str, Any], held: dict[str, Any]
) -> None:
    assert resolve(lower, {"cluster": ClusterSettings(more=higher)}, {})[0] == held


def test_other_ports_by_a_variable_are_open_to_those_that_the_code_lets_in() -> None:
    code = {"allow_ingress_from": "10.0.0.0/8"}
    (rule,) = resolve(code, {}, {f"{PRE}BACKEND_OPTIONS": '{"firewall": {"ports": [8786]}}'})[0][
        "backend_options"
    ]["ingress"]
    assert (rule.ports, rule.cidr) == ((8786,), "10.0.0.0/8")


def test_a_network_does_not_follow_into_another_region() -> None:
    own = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
    with pytest.raises(OptionsError, match="Give a network of that region too"):
        resolve({"backend_options": {"region": "eu-west-1", "network": own}}, {},
                {f"{PRE}REGION": "us-east-1"})  # fmt: skip


def test_settings_refuse_what_they_do_not_know_and_what_would_be_shown() -> None:
    for wrong, said in (
        ({"n_workrs": 3}, "Did you mean 'n_workers'"),
        ({"more": {"worker_disksize": 3}}, "Did you mean 'worker_disk_size'"),
        ({"more": {"environ": {"TOKEN": "x"}}}, "plain text"),
        ({"more": {"environ": {}}}, "plain text"),
        ({"more": {"worker_options": {"env": {"TOKEN": "x"}}}}, "worker_options.env.*plain text"),
        ({"more": {"backend_options": {"registry": {"access_token": "x"}}}}, "access_token.*plain text"),
        ({"n_workers": "two"}, "n_workers 'two': it has to be a whole number"),
        ({"region": "us-east1"}, "Did you mean 'us-east-1'"),
        ({"more": {"nthreads": 0}}, "nthreads 0"),
        ({"idle_timeout": ["soon"]}, "idle_timeout"),
    ):
        with pytest.raises(OptionsError, match=said) as caught:
            ClusterSettings(**wrong)
        assert "\n" not in str(caught.value)
    with pytest.raises(OptionsError, match="given twice"):
        ClusterSettings(account="a", more={"account": "b"}).keywords()


def test_two_parameters_of_the_kind_are_an_error() -> None:
    with pytest.raises(OptionsError, match="'a' and 'b'"):
        resolve({}, {"a": ClusterSettings(), "b": ClusterSettings()}, {})
