"""The keywords of a cluster: how they become a plan, and that the runner takes all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.blocks.account import Ec2DaskAccount, account_layer
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import merge
from prefect_coiled.options.ingress import Firewall, IngressRule, changed_rules, ingress_rules, lets_in_more
from prefect_coiled.plan.cluster import ClusterSpec


def plan(**keywords: Any) -> ClusterSpec:
    account = Account("team", sandbox=None)
    return Request({}, **keywords).spec(account, "me", own_cidr=lambda: "192.0.2.1/32")


def test_machines_without_any_way_out_are_refused_unless_the_network_is_ones_own() -> None:
    with pytest.raises(OptionsError, match=r"egress 'none'.*SSM"):
        plan(backend_options={"egress": "none"})
    own = {"network_id": "vpc-0123456789abcdef0", "scheduler_subnet_id": "subnet-0123456789abcdef0"}
    assert plan(backend_options={"egress": "none", "network": own}).network is not None


def test_me_is_the_callers_address_and_nothing_else_is_asked_for_it() -> None:
    spec = plan(backend_options={"firewall": {"ports": [8786], "cidr": "me"}})
    assert [rule.cidr for rule in spec.ingress] == ["192.0.2.1/32"]


def test_variables_of_the_workers_options_are_kept_as_secrets_and_win() -> None:
    keywords = {"worker_options": {"env": {"TOKEN": "canary", "A": 1}, "resources": {"GPU": 1}}}
    assert "canary" not in plan(**keywords).model_dump_json()
    assert plan(**keywords).worker_node.worker_options == {"resources": {"GPU": 1}}
    asked = Request({}, **keywords, environ={"A": "other", "B": "2"})
    assert asked.environ == {"TOKEN": "canary", "A": "1", "B": "2"}
    with pytest.raises(OptionsError, match=r"worker_options\['env'\]"):
        Request({}, worker_options={"env": ["TOKEN"]})


def test_gpu_workers_are_not_spot_machines_unless_asked() -> None:
    assert plan(worker_gpu=1).spot_policy == "on-demand"
    assert plan(worker_gpu=1).worker_types[0] == "g4dn.xlarge"
    assert plan(worker_gpu=1, spot=True).spot_policy == "spot"


@pytest.mark.parametrize(
    "keywords",
    [
        {"worker_gpu": 1},
        {"worker_gpu_type": "A10G"},
        {"worker_vm_types": "g4dn.2xlarge"},
        {"worker_vm_types": ["g6e.xlarge", "g5.xlarge"]},
        {"worker_vm_types": "g5g.xlarge"},
    ],
)
def test_whoever_asks_for_a_gpu_in_whatever_way_gets_its_image_and_a_disk_for_it(
    keywords: dict[str, Any],
) -> None:
    spec = plan(**keywords)
    assert (spec.gpu, spec.worker_node.gpu, spec.scheduler_node.gpu) == (True, True, False)
    assert (spec.worker_disk, spec.scheduler_disk) == (100, 30)
    assert plan(worker_disk_size=75, **keywords).worker_disk == 75
    with pytest.raises(OptionsError, match=r"worker_disk_size 74.*from 75 to 16384: the image .* with a GPU"):
        plan(worker_disk_size=74, **keywords)


@pytest.mark.parametrize(("throughput", "least"), [(1001, 9), (1500, 12), (2000, 16)])
def test_a_disk_that_is_too_small_for_its_throughput_is_refused_with_the_least_size(
    throughput: int, least: int
) -> None:
    assert plan(worker_disk_size=least, worker_disk_throughput=throughput).worker_disk == least
    with pytest.raises(OptionsError, match=rf"worker_disk_size {least - 1}.*at least {least} GiB"):
        Request({}, worker_disk_size=least - 1, worker_disk_throughput=throughput)
    assert plan(worker_disk_size=8, worker_disk_throughput=1000).worker_disk == 8
    assert plan(worker_disk_throughput=2000).worker_disk == 30


@pytest.mark.parametrize("types", ["m6i.xlarge", "g4ad.xlarge", "p2.xlarge", "x9z.large"])
def test_other_machines_get_the_plain_image(types: str) -> None:
    spec = plan(worker_vm_types=types)
    assert (spec.gpu, spec.worker_node.gpu, spec.worker_disk) == (False, False, 30)


def test_machines_with_and_without_a_gpu_cannot_be_mixed() -> None:
    with pytest.raises(OptionsError, match=r"g4dn\.xlarge and m6i\.xlarge.*some have none"):
        Request({}, worker_vm_types=["g4dn.xlarge", "m6i.xlarge"])


def test_a_spec_survives_its_short_form() -> None:
    spec = plan(worker_options={"resources": {"gpu": 1}})
    assert ClusterSpec.decode(spec.encode()) == spec
    assert len(spec.encode()) < 4096


def test_a_request_is_shown_without_what_may_be_a_secret() -> None:
    request = Request(
        {"coiled": {"environ": {"OTHER": "hunter2"}}},
        n_workers=2,
        environ={"TOKEN": "hunter2"},
        host_setup_script_content="export TOKEN=hunter2",
        worker_options={"env": {"PASSWORD": "hunter2"}},
        backend_options={"registry": {"kind": "docker_hub", "username": "me", "access_token": "hunter2"}},
    )
    assert "hunter2" not in repr(request)
    assert "environ={TOKEN}" in repr(request)


def file(options: dict[str, Any]) -> dict[str, Any]:
    return {"coiled": {"backend-options": options}}


def test_other_ports_are_no_reason_to_let_others_in() -> None:
    home = {"ingress": [{"ports": [22], "cidr": "10.0.0.0/8"}, {"ports": [8787], "cidr": "me"}]}
    kept = [((8786,), "10.0.0.0/8"), ((8786,), "me")]
    only = {"ports": [8786]}
    for merged in (
        merge({"firewall": only}, home, config={}),
        merge({"ingress": [only]}, None, config=file(home)),
        merge({}, home, config=file({"firewall": only})),
        merge({"ingress": only}, home, config=file({"ingress": [{"ports": [1]}]})),
    ):
        assert [(rule.ports, rule.cidr) for rule in merged.options.ingress] == kept
    assert [rule.cidr for rule in merge({"firewall": only}, config={}).options.ingress] == ["0.0.0.0/0"]
    wide = merge({"firewall": {**only, "cidr": "0.0.0.0/0"}}, home, config={}).options.ingress
    assert [rule.cidr for rule in wide] == ["0.0.0.0/0"]
    with pytest.raises(OptionsError, match="nobody gets in"):
        merge({"firewall": only}, {"ingress": []}, config={})


@pytest.mark.parametrize("blank", ["", " ", "\t", "\n", "\u3000"])
def test_a_blank_source_opens_nothing(blank: str) -> None:
    for make in (
        lambda: Request({}, allow_ingress_from=blank),
        lambda: IngressRule(cidr=blank),
        lambda: IngressRule(ports=[8786], cidr=blank),  # type: ignore[arg-type]
        lambda: ingress_rules([{"ports": [8786], "cidr": blank}]),
        lambda: ingress_rules({"cidr": blank}),
        lambda: ingress_rules({"CIDR": blank}),
        lambda: ingress_rules({"Cidr ": blank}),
        lambda: merge({}, {"ingress": [{"cidr": "me"}]}, config=file({"firewall": {"cidr": blank}})),
        lambda: merge({"firewall": {"ports": [8786], "cidr": blank}}, config={}),
        lambda: merge({"ingress": [{"ports": [8786], "cidr": blank}]}, config={}),
        lambda: account_layer(Ec2DaskAccount(region="us-east-1", ingress_cidr=blank)),
        lambda: merge(
            account_layer(Ec2DaskAccount(region="us-east-1", ingress_rules=[{"cidr": blank}])), config={}
        ),
    ):
        with pytest.raises(OptionsError, match="blank"):
            make()


def rule(cidr: str, *ports: int) -> IngressRule:
    return IngressRule(ports=ports or (8786,), cidr=cidr)


def test_what_is_closed_is_opened_by_networks_alone() -> None:
    for change in (Firewall(), Firewall(ports=[8786]), Firewall(ports=[8786], cidrs=[])):
        with pytest.raises(OptionsError, match="closed"):
            changed_rules([], change)
    for blank in ("", " "):
        with pytest.raises(OptionsError, match="blank"):
            changed_rules([], Firewall(ports=[8786], cidrs=[blank]))
    assert changed_rules([], Firewall(ports=[8786], cidrs=["me"])) == [rule("me")]
    kept = [rule("10.0.0.0/8", 8787), rule("me", 8787)]
    assert changed_rules(kept, Firewall(ports=[8786])) == [rule("10.0.0.0/8"), rule("me")]


@pytest.mark.parametrize(
    ("new", "saved", "more"),
    [
        (rule("10.1.0.0/16"), rule("10.0.0.0/8"), False),
        (rule("10.0.0.0/8"), rule("10.1.0.0/16"), True),
        (rule("11.0.0.0/8"), rule("10.0.0.0/8"), True),
        (rule("10.0.0.0/8", 8786, 8787), rule("10.0.0.0/8"), True),
        (rule("2001:db8:1::/48"), rule("2001:db8::/32"), False),
        (rule("2001:db8::/32"), rule("2001:db8:1::/48"), True),
        (rule("2001:db8::/32"), rule("0.0.0.0/0"), True),
        (rule("me"), rule("me"), False),
        (rule("me"), rule("0.0.0.0/0"), False),
        (rule("me"), rule("10.0.0.0/8"), True),
        (rule("10.0.0.0/8"), rule("me"), True),
    ],
)
def test_who_gets_in_only_now_is_known(new: IngressRule, saved: IngressRule, more: bool) -> None:
    assert lets_in_more([new], [saved]) is more
    assert lets_in_more([new], [])
    assert not lets_in_more([], [saved])


NARROW = {"ingress": [{"ports": [8786, 8787], "cidr": "10.1.0.0/16"}]}
OPEN = {"0.0.0.0/0", "::/0"}
SOURCES = (
    None,
    "",
    " ",
    "\u00a0",
    ",",
    " , ",
    [],
    {},
    (),
    False,
    0,
    "0",
    "none",
    "null",
    "*",
    "any",
    "0.0.0.0",
    "10.1.0.0",
    "0.0.0.0/00",
    "0.0.0.0/0.0.0.0",
    "0:0:0:0:0:0:0:0/0",
)
SAID = ("0.0.0.0/0 ", " ::/0", "10.0.0.0/8,0.0.0.0/0", ["0.0.0.0/0"])
FORMS: dict[str, Any] = {
    "allow_ingress_from": lambda v: merged({}, allow_ingress_from=v),
    "the same in the file": lambda v: merged({"coiled": {"allow-ingress-from": v}}),
    "ingress": lambda v: merge({"ingress": v}, NARROW, config={}),
    "a source": lambda v: merge({"ingress": [{"ports": [8786], "cidr": v}]}, NARROW, config={}),
    "a source alone": lambda v: merge({"ingress": {"cidr": v}}, NARROW, config={}),
    "ports": lambda v: merge({"ingress": [{"ports": v}]}, NARROW, config={}),
    "firewall": lambda v: merge({"firewall": v}, NARROW, config={}),
    "firewall in the file": lambda v: merge({}, NARROW, config=file({"firewall": {"cidr": v}})),
    "ingress in the file": lambda v: merge({}, NARROW, config=file({"ingress": v})),
}


def merged(config: dict[str, Any], **keywords: Any) -> Any:
    account: Any = SimpleNamespace(options=NARROW)
    return Request(config, **keywords).merged(account)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [*SOURCES, *SAID], ids=repr)
def test_nothing_but_the_words_opens_to_everybody(form: str, value: Any) -> None:
    try:
        rules = FORMS[form](value).options.ingress
    except OptionsError:
        return
    assert value in SAID or not {rule.cidr for rule in rules} & OPEN
