"""The parts of the data planes that need no privilege: what rules are written, which addresses are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import SandboxInfo, control
from prefect_coiled.sandbox.netns.internet import Pool
from prefect_coiled.sandbox.netns.ruleset import publics, vpc_rules
from prefect_coiled.sandbox.network import EVERYWHERE, Group, Interface, Route, RouteTable, Rule, Vpc
from prefect_coiled.sandbox.settings import Settings

EVERYTHING = (Rule("-1", cidr=EVERYWHERE),)


def rules(*ingress: Rule, egress: tuple[Rule, ...] = EVERYTHING, routes: tuple[Route, ...] = ()) -> str:
    interface = Interface(
        "i-1", "10.0.0.4", "10.0.0.0/24", public="198.19.0.16", groups=("sg-1",), table="rtb-1"
    )
    vpc = Vpc(
        "vpc-1",
        ("10.0.0.0/16",),
        (interface,),
        (Group("sg-1", ingress, egress), Group("sg-2")),
        (RouteTable("rtb-1", routes),),
    )
    return vpc_rules(vpc, "198.19.0.4")


def chain(text: str, name: str) -> list[str]:
    """The lines of a chain."""
    lines = text.splitlines()
    first = lines.index(f"chain {name} {{") + 1
    return lines[first : lines.index("}", first)]


def test_without_rules_nothing_comes_in() -> None:
    assert chain(rules(), "in_sg_1") == []
    assert chain(rules(), "entering") == ["ip daddr @sg_1 jump in_sg_1", "drop"]


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (Rule("tcp", 8786, 8786, cidr="203.0.113.0/24"), "ip saddr 203.0.113.0/24 tcp dport 8786 accept"),
        (Rule("udp", 1024, 65535, group="sg-2"), "ip saddr @sg_2 udp dport 1024-65535 accept"),
        (Rule("icmp", cidr="10.0.0.0/8"), "ip saddr 10.0.0.0/8 meta l4proto icmp accept"),
        (Rule("icmp", 8, -1, cidr="10.0.0.0/8"), "ip saddr 10.0.0.0/8 icmp type 8 accept"),
        (Rule("47", cidr="10.0.0.0/8"), "ip saddr 10.0.0.0/8 meta l4proto 47 accept"),
        (Rule("-1", group="sg-1"), "ip saddr @sg_1 accept"),
    ],
)
def test_a_rule_lets_in_what_it_says(rule: Rule, line: str) -> None:
    assert chain(rules(rule), "in_sg_1") == [line]


def test_what_everybody_may_do_is_not_tracked_where_everything_may_go_out() -> None:
    anybody = Rule("tcp", 8786, 8786, cidr=EVERYWHERE)
    narrow = Rule("tcp", 8786, 8786, cidr="203.0.113.0/24")
    assert chain(rules(narrow, anybody), "in_sg_1")[0] == "tcp dport 8786 ct mark set 1 accept"
    few = (Rule("tcp", 443, 443, cidr=EVERYWHERE),)
    assert not [line for line in chain(rules(narrow, anybody, egress=few), "in_sg_1") if "mark" in line]


def test_routes_are_asked_from_the_narrowest_to_the_widest() -> None:
    routes = (
        Route(EVERYWHERE, "nat", "198.19.0.17"),
        Route("198.19.0.0/24", "nothing"),
        Route("", "s3"),
        Route("198.19.0.1/32", "internet"),
    )
    assert chain(rules(routes=routes), "rtb_1") == [
        "ip daddr 198.19.0.4 meta mark set 2 return",
        "ip daddr 198.19.0.1/32 goto by_internet",
        "ip daddr 198.19.0.0/24 drop",
        "meta mark set 256 return",
        "drop",
    ]


def test_public_addresses_are_those_of_instances_and_of_nat_gateways() -> None:
    interface = Interface("i-1", "10.0.0.4", "10.0.0.0/24", public="198.19.0.16", table="rtb-1")
    table = RouteTable("rtb-1", (Route(EVERYWHERE, "nat", "198.19.0.17"), Route("", "s3")))
    assert publics(Vpc("vpc-1", ("10.0.0.0/16",), (interface,), (), (table,))) == {
        "198.19.0.16",
        "198.19.0.17",
    }


def test_an_address_is_given_again_only_after_all_others_and_never_twice() -> None:
    pool = Pool(["a", "b", "c"])
    assert pool.take() == "a"
    pool.give_back("a")
    assert [pool.take(), pool.take(), pool.take()] == ["b", "c", "a"]
    with pytest.raises(SandboxError, match="in use"):
        pool.take()


def test_a_plane_that_is_not_there_is_refused() -> None:
    with pytest.raises(SandboxError, match="plane is"):
        Settings().update({"plane": "cloud"})
    with pytest.raises(SandboxError, match="since the start"):
        Settings().update({"plane": "netns"}, running=True)


def test_a_sandbox_that_runs_with_another_plane_is_not_taken_for_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    running = SandboxInfo("http://127.0.0.1:1", 1, tmp_path, "many")
    monkeypatch.setattr(control, "status", lambda folder=None: running)
    assert control.start() is running
    assert control.start(settings={"plane": "process"}) is running
    with pytest.raises(SandboxError, match='data plane is "process"'):
        control.start(settings={"plane": "netns"})
