"""What a scheduler's machine launches in place of workers that lack, when AWS says no."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

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


def keeping(ec2: Ec2, wanted: int) -> tuple[Keeper, list[str]]:
    said: list[str] = []
    config: Any = SimpleNamespace(
        keep=Keep(uid="u", n_workers=wanted, templates=("t1", "t2", "t3")),
        account="a",
        cluster="c",
        works=False,
        boot_timeout=1200.0,
    )
    scheduler = Dask(
        lambda: (), lambda: 1, lambda seconds: 0, lambda n: None, lambda text, ids, warns: said.append(text)
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
