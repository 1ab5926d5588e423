"""What a scheduler's machine launches in place of workers that lack, when AWS says no."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from prefect_coiled.node import keeper as module
from prefect_coiled.node.keeper import Dask, Keeper
from prefect_coiled.plan import tags
from prefect_coiled.plan.node_config import Keep

OWN = "i-scheduler"
DENIED = (
    "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:assumed-role/team/i-1 "
    "is not authorized to perform: ec2:RunInstances "
    "on resource: arn:aws:ec2:us-east-1:123456789012:instance/* {}"
)
ORGANISATION = DENIED.format("with an explicit deny in a service control policy")
OWN_POLICY = DENIED.format("because no identity-based policy allows the ec2:RunInstances action")


class Ec2:
    """EC2 that gives what a function says: for a template and a number, how many, or what is said instead."""

    def __init__(self, gives: Any) -> None:
        self.gives = gives
        self.asked: list[tuple[str, int]] = []
        self.tokens: list[str] = []
        self.made: list[str] = []

    def describe_instances(self, **_: Any) -> dict[str, Any]:
        role = [{"Key": tags.ROLE, "Value": "worker"}]
        listed = [{"InstanceId": one, "State": {"Name": "pending"}, "Tags": role} for one in self.made]
        listed.append({"InstanceId": OWN, "State": {"Name": "running"}})
        return {"Reservations": [{"Instances": listed}]}

    def run_instances(self, **said: Any) -> dict[str, Any]:
        name, most = said["LaunchTemplate"]["LaunchTemplateName"], said["MaxCount"]
        self.asked.append((name, most))
        self.tokens.append(said["ClientToken"])
        given = self.gives(name, most)
        if not isinstance(given, int):
            code, message = given
            raise ClientError({"Error": {"Code": code, "Message": message}}, "RunInstances")
        new = [f"i-{len(self.made) + n}" for n in range(given)]
        self.made += new
        return {"Instances": [{"InstanceId": one} for one in new]}


def keeping(
    ec2: Ec2, wanted: int, there: Callable[[], Iterable[str]] = tuple, let_go: Any = None
) -> tuple[Keeper, list[str]]:
    said: list[str] = []
    config: Any = SimpleNamespace(
        keep=Keep(uid="u", n_workers=wanted, templates=("t1", "t2", "t3")),
        account="a",
        cluster="c",
        works=False,
        boot_timeout=1200.0,
    )
    scheduler = Dask(
        there,
        lambda: 1,
        lambda seconds: 0,
        lambda n: None,
        let_go,
        lambda text, ids, warns: said.append(text),
    )
    return Keeper(config, machine=OWN, client=lambda: ec2, scheduler=scheduler, patience=0.0, pace=0.0), said


async def turns(keeper: Keeper, count: int) -> None:
    await keeper.told()  # whoever launched the cluster has connected
    for _ in range(count):
        await keeper.turn()


@pytest.mark.parametrize("room", [1, 5, 6, 7])
@pytest.mark.parametrize("code", ["VcpuLimitExceeded", "InsufficientFreeAddressesInSubnet"])
async def test_as_many_come_as_there_is_room_for(room: int, code: str) -> None:
    def gives(name: str, most: int) -> Any:
        return most if most <= room - len(ec2.made) else (code, "Too many.")

    ec2 = Ec2(gives)
    keeper, said = keeping(ec2, 8)
    await turns(keeper, 3)
    assert len(ec2.made) == room
    assert len(set(ec2.tokens)) == len(ec2.tokens), "no call is taken for another one"
    assert sum("launched" in text for text in said) >= 1


async def test_what_an_organisation_forbids_rules_out_that_way_alone() -> None:
    def gives(name: str, most: int) -> Any:
        if name == "t2":
            return "UnauthorizedOperation", ORGANISATION
        return ("InsufficientInstanceCapacity", "None.") if len(ec2.asked) < 4 else most

    ec2 = Ec2(gives)
    keeper, said = keeping(ec2, 2)
    await turns(keeper, 4)
    assert [name for name, _ in ec2.asked][:3] == ["t1", "t2", "t3"]
    assert [name for name, _ in ec2.asked].count("t2") == 1
    assert len(ec2.made) == 2
    assert not any("earlier version" in text for text in said)


async def test_where_every_way_is_forbidden_that_is_said_once_with_who_forbids_it() -> None:
    ec2 = Ec2(lambda name, most: ("UnauthorizedOperation", ORGANISATION))
    keeper, said = keeping(ec2, 2)
    await turns(keeper, 4)
    assert [name for name, _ in ec2.asked] == ["t1", "t2", "t3"]
    (text,) = said
    assert "service control policy" in text
    assert "earlier version" not in text


async def test_a_role_that_may_not_launch_is_said_to_be_of_an_earlier_version() -> None:
    ec2 = Ec2(lambda name, most: ("UnauthorizedOperation", OWN_POLICY))
    keeper, said = keeping(ec2, 2)
    await turns(keeper, 4)
    assert [name for name, _ in ec2.asked] == ["t1"]
    (text,) = said
    assert "earlier version" in text


async def test_what_came_back_after_it_was_replaced_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, there, let_go = [0.0], {"i-0", "i-1"}, list[tuple[set[str], int]]()
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    async def go(machines: set[str], count: int) -> list[str]:
        let_go.append((machines, count))
        gone = sorted(machines)[:count]
        there.difference_update(gone)
        return gone

    ec2 = Ec2(lambda name, most: most)
    ec2.made += ["i-0", "i-1"]
    keeper, said = keeping(ec2, 2, lambda: there, go)
    await keeper.told(launched=["i-0", "i-1"])
    await keeper.turn()
    there -= {"i-0", "i-1"}  # `client.restart()`, with a start that takes its time
    for clock[0] in (1.0, 5.0, 40.0):
        await keeper.turn()
    assert len(ec2.made) == 4
    there |= set(ec2.made)
    for clock[0] in (45.0, 60.0, 104.0):
        await keeper.turn()
        assert let_go == []
    clock[0] = 106.0
    await keeper.turn()
    assert let_go == [({"i-0", "i-1", "i-2", "i-3"}, 2)]
    for clock[0] in (180.0, 400.0):
        await keeper.turn()
    assert len(let_go) == 1
    assert any("retired 2 machines: more had come than are wanted" in text for text in said)


async def test_one_client_launches_at_a_time() -> None:
    keeper, _ = keeping(Ec2(lambda name, most: most), 2)
    assert (await keeper.told(hold="one", wanted=10))["wanted"] == 2
    assert await keeper.told(hold="other", wanted=20) == {"busy": True}
    assert keeper.keeping.wanted == 10, "nothing of it was done"
    await keeper.told(release="one", launched=["i-7", "i-8"])
    told = await keeper.told(hold="other", wanted=20)
    assert (told["wanted"], told["unlisted"]) == (10, ["i-7", "i-8"])


async def test_a_call_that_was_refused_for_its_rate_is_not_sent_again_as_it_was() -> None:
    answers = iter([("RequestLimitExceeded", "Too fast."), 1])
    ec2 = Ec2(lambda name, most: next(answers))
    keeper, _ = keeping(ec2, 1)
    await turns(keeper, 2)
    assert len(set(ec2.tokens)) == 2
    assert len(ec2.made) == 1
