"""A user's world: an AWS account in the sandbox, what the user does in it, and what there is afterwards."""

from __future__ import annotations

import re
import threading
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from prefect_coiled.aws import known, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.parameters import known_of
from prefect_coiled.cluster.launch import find_launched, launch
from prefect_coiled.cluster.request import Request
from prefect_coiled.environment import Locked
from prefect_coiled.errors import NameTakenError
from prefect_coiled.events import hearing
from prefect_coiled.options import IngressRule
from prefect_coiled.provision import bake_image, delete_cluster, destroy_account, set_up_account, sweep
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks.steps import Session, use_session
from tests.provision.laid import bring_up, live

from .lives import answer, called, what_there_is

__all__ = ["World", "after", "age", "begin", "differences"]

NAME, WORKERS, MORE, ZONE = "one", 2, 3, "us-east-1a"


class World:
    """An AWS account in the sandbox, and what a user does in it."""

    def __init__(self, sandbox: Sandbox, account: Account, locked: Locked) -> None:
        self.sandbox, self.account, self.locked = sandbox, account, locked
        self.begun = 0

    @property
    def aws(self) -> Aws:
        return self.account.door("us-east-1")

    def parameters(self) -> set[str]:
        """The values of all parameters."""
        pages = self.sandbox.client("ssm").get_paginator("get_parameters_by_path")
        found = pages.paginate(Path="/prefect-coiled", Recursive=True, WithDecryption=True)
        return {one["Value"] for page in found for one in page["Parameters"]}

    def anew(self) -> None:
        self.sandbox.reset()
        self.sandbox.set(boot="none")

    def ready(self) -> None:
        """What a set-up of one zone makes, by the plan and the rows alone."""
        bring_up(self.aws, ZONE)

    def set_up(self) -> None:
        with use_session(Session(self.aws)):
            set_up_account("team", "us-east-1")

    def know(self) -> None:
        """A launch that looked at the account has left what it saw."""
        ssm = self.sandbox.client("ssm")
        if (
            not ssm.get_parameters(Names=[known_of("team")])["Parameters"]
            or known.remembered(self.aws) is None
        ):
            self.create()
            self.delete()

    def forget(self) -> None:
        """Nothing is known of the account, to nobody."""
        known._REMEMBERED.clear()
        self.sandbox.client("ssm").delete_parameters(Names=[known_of("team")])

    def create(self) -> None:
        # As `Cluster` does: what hears of a cluster is gone with whoever asked for it.
        with hearing():
            launch(self._request(), threading.Event())

    def create_without_gateway(self) -> None:
        with hearing():
            launch(self._request(backend_options={"egress": "public-ip"}), threading.Event())

    def _request(self, **more: Any) -> Request:
        given = {"n_workers": WORKERS, "zone": ZONE, "allow_ingress_from": "192.0.2.7/32", **more}
        return Request({}, name=NAME, **given)

    def bake(self) -> None:
        """As `prefect-coiled environment bake`, of two packages."""
        session = Session(self.aws)
        session.locked = self.locked
        with use_session(session):
            bake_image(self._request().spec(self.account, "tester", own_cidr=lambda: "192.0.2.7/32"))

    def bake_again(self) -> None:
        """The same, and what it says where an earlier one was broken off."""
        try:
            self.bake()
        except NameTakenError as taken:
            (name,) = re.findall(r"`prefect-coiled stop (bake-\w+) ", str(taken))
            with use_session(Session(self.aws)):
                delete_cluster("team", "us-east-1", name)
            self.bake()

    def grow(self) -> None:
        """As `Cluster.scale`: by what AWS lists."""
        cluster = find_launched(self.aws, NAME)
        assert cluster is not None
        there = sum(m.role == "worker" for m in cluster.machines(("pending", "running")))
        if there < WORKERS + MORE:
            cluster.add(WORKERS + MORE - there)

    def add_one(self) -> None:
        cluster = find_launched(self.aws, NAME)
        if cluster is not None:
            cluster.add(1)

    def open_a_port(self) -> None:
        cluster = find_launched(self.aws, NAME)
        if cluster is not None:
            cluster.set_ingress([IngressRule(ports=(8786,), cidr="198.51.100.0/24")])

    def shrink(self) -> None:
        cluster = find_launched(self.aws, NAME)
        assert cluster is not None
        there = [m.instance_id for m in cluster.machines(("pending", "running")) if m.role == "worker"]
        cluster.terminate_workers(there[1:])

    def delete(self) -> None:
        with use_session(Session(self.aws)):
            delete_cluster("team", "us-east-1", NAME)

    def sweep(self) -> None:
        with use_session(Session(self.aws)):
            sweep("team", "us-east-1", release_nat=False)

    def orphan(self) -> None:
        """The scheduler's machine dies; the workers run on."""
        cluster = find_launched(self.aws, NAME)
        assert cluster is not None
        scheduler = cluster.record.scheduler.instance_id
        self.sandbox.client("ec2").terminate_instances(InstanceIds=[scheduler])

    def end_by_themselves(self) -> None:
        """Machines whose client is gone end after minutes (`node/timers.py`); here they do at once."""
        ec2 = self.sandbox.client("ec2")
        there = [m["InstanceId"] for m in live(self.sandbox)]
        if there:
            ec2.terminate_instances(InstanceIds=there)

    def destroy(self) -> None:
        with use_session(Session(self.aws)):
            destroy_account("team", "us-east-1")


def age(monkeypatch: pytest.MonkeyPatch, room: ModuleType, values: set[str]) -> None:
    """Who reads parameters in this room finds those with these values an hour old."""
    read = parameters.read_with_age

    def aged(aws: Aws, name: str) -> tuple[str, float] | None:
        found = read(aws, name)
        return (found[0], 3600.0) if found is not None and found[0] in values else found

    monkeypatch.setattr(room, "read_with_age", aged)


# What there is after steps without a fault; and after how many cases an account is a new one.
_LEAVE: dict[tuple[str, ...], Counter[str]] = {}
_KEPT_FOR = 10


def after(world: World, *steps: str) -> Counter[str]:
    """What there is when these were done without a fault, from an empty account on."""
    if steps not in _LEAVE:
        world.anew()
        with called(answer):
            for step in steps:
                getattr(world, step)()
        _LEAVE[steps] = what_there_is(world.sandbox)
    return _LEAVE[steps]


def begin(world: World, *steps: str, anew: bool = False, knows: bool | None = None) -> None:
    """See that there is what these steps leave.

    An empty account costs the sandbox seconds. So what an earlier case left is gone on from, where it is just
    what some of the steps leave; a cluster that is too many is removed.

    Args:
        anew: Whether it has to be an empty account all the same.
        knows: Whether a launch begins with what another one saw; None where that does not matter.
    """
    world.begun += 1
    kept = not anew and world.begun % _KEPT_FOR
    if not (kept and (_goes_on(world, steps) or _goes_on(world, steps, "delete"))):
        world.anew()
        with called(answer):
            for step in steps:
                getattr(world, step)()
    if knows is not None:
        with called(answer):
            world.know() if knows else world.forget()


def _goes_on(world: World, steps: tuple[str, ...], *first: str) -> bool:
    with called(answer):
        for step in first:
            getattr(world, step)()
        found = what_there_is(world.sandbox)
        for number in range(len(steps), -1, -1):
            if found == _LEAVE.get(steps[:number]):
                for step in steps[number:]:
                    getattr(world, step)()
                return True
    return False


def differences(found: Counter[str], wanted: Counter[str]) -> list[str]:
    return [f"{found[k]} x {k}, not {wanted[k]}" for k in sorted({*found, *wanted}) if found[k] != wanted[k]]
