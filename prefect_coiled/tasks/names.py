"""The steps about a cluster's name, and about the plan that is kept under it."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prefect_coiled.aws import intents, parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import NameTakenError, PrefectCoiledError, ProvisionError
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.tasks.steps import step


@step("claim name", "claim name {spec.name}")
def claim_name(aws: Aws, spec: ClusterSpec) -> None:
    """Write the cluster's intent under its name, before anything else exists of it.

    Raises:
        NameTakenError: If the name is taken by another cluster of this account and region.
    """
    name = parameters.intent_of(spec.account, spec.name)
    labels = planning.cluster_tags(spec)
    if parameters.claim(aws, name, spec.encode(), labels):
        return
    if read_holder(aws, spec.name) == spec.uid:  # our own claim, whose reply was lost
        return
    raise NameTakenError(
        f"naming the cluster {spec.name!r}",
        f"account {spec.account!r} has a cluster of that name in {spec.region}",
        "Attach to it with Cluster(name=...), choose another name, or run `prefect-coiled sweep`.",
    )


def take_name(aws: Aws, spec: ClusterSpec) -> None:
    """Claim the name; where that is broken off, it is free again: AWS may have it, though nobody was told so.

    Raises:
        NameTakenError: As `claim_name` does.
    """
    try:
        claim_name(aws, spec)
    except NameTakenError:
        raise
    except BaseException:
        # What AWS does not take back now, it does as of a cluster that never came up.
        with suppress(PrefectCoiledError):
            intents.give_back(aws.without_stop(), spec.name, spec.uid)
        raise


@contextmanager
def kept_young(aws: Aws, spec: ClusterSpec) -> Iterator[None]:
    """Write the intent again now and then, so that who sends packages for long is not taken for dead."""
    name, door, over = parameters.intent_of(spec.account, spec.name), aws.beside(), threading.Event()

    def keep() -> None:
        while not over.wait(parameters.STARTING / 3):
            with suppress(PrefectCoiledError):  # the next one is in time as well
                if read_holder(door, spec.name) != spec.uid:
                    return
                if parameters.renew(door, name, spec.encode()) == 1:
                    # Its first version: it was removed at this moment, and was to stay so.
                    parameters.delete_parameters(door, [name])
                    return

    thread = threading.Thread(target=keep, name="intent", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read_intent(aws: Aws, name: str) -> ClusterSpec | None:
    """The spec of the cluster that holds the name, as it was planned, if one does."""
    text = parameters.read_parameter(aws, parameters.intent_of(aws.account, name))
    return None if text is None else _decoded(name, text)


def _decoded(name: str, text: str) -> ClusterSpec:
    try:
        return ClusterSpec.decode(text)
    except (ValueError, zlib.error) as error:
        raise ProvisionError(
            f"reading the plan of cluster {name!r}",
            "another version of this library wrote it, which this one cannot read",
            f"Use that version, or end the cluster: `prefect-coiled stop {name}`.",
        ) from error


def read_holder(aws: Aws, name: str) -> str | None:
    """The uid of the cluster that holds the name, whatever version of this library wrote it; None if free."""
    text = parameters.read_parameter(aws, parameters.intent_of(aws.account, name))
    return None if text is None else planning.uid_of(text)


def read_plan(aws: Aws, name: str) -> ClusterSpec | None:
    """The spec of the cluster that holds the name, with what was changed since, if one does."""
    spec = read_intent(aws, name)
    if spec is None:
        return None
    changed = parameters.read_parameter(aws, _changed(spec))
    return spec if changed is None else _decoded(name, changed)


@step("write changed plan", "write changed plan of {spec.name}")
def write_plan(aws: Aws, spec: ClusterSpec) -> None:
    """Write the changed plan of a cluster beside its intent, whose age is that of the cluster."""
    parameters.write(aws, _changed(spec), spec.encode(), planning.cluster_tags(spec))


def take_back(aws: Aws, changed: ClusterSpec, before: ClusterSpec) -> None:
    """Have the former plan hold again: AWS refuses what the changed one says, and would each time."""
    held = read_plan(aws, changed.name)
    if held is not None and (held.uid, held.ingress) == (changed.uid, changed.ingress):
        write_plan(aws, before)


def forget_plan(aws: Aws, spec: ClusterSpec) -> None:
    """Take a changed plan back if the cluster was removed meanwhile: who removed it has not seen this one."""
    if read_holder(aws, spec.name) != spec.uid:
        parameters.delete_parameters(aws, [_changed(spec)])


def _changed(spec: ClusterSpec) -> str:
    return f"{parameters.cluster_path(spec.account, spec.name, spec.uid)}plan"


@step("check name", "check name {spec.name}")
def check_held(aws: Aws, spec: ClusterSpec) -> None:
    """See that the cluster still has its name: just before machines are made for it.

    Raises:
        NameTakenError: If it was removed meanwhile, or the name is another cluster's by now.
    """
    holder = read_holder(aws, spec.name)
    if holder != spec.uid:
        raise not_held(spec, holder)


@step("read plan", "read plan of {spec.name}")
def as_changed(aws: Aws, spec: ClusterSpec) -> ClusterSpec:
    """The cluster as planned, with who may reach it as somebody may have changed that since.

    Raises:
        NameTakenError: If it was removed meanwhile, or the name is another cluster's by now.
    """
    held = read_plan(aws, spec.name)
    if held is None or held.uid != spec.uid:
        raise not_held(spec, held.uid if held is not None else None)
    return spec.model_copy(update={"ingress": held.ingress, "allow_ssh": held.allow_ssh})


def not_held(spec: ClusterSpec, holder: str | None) -> NameTakenError:
    """The error of a cluster that does not have its name any more."""
    whose = "nobody's" if holder is None else "another cluster's"
    return NameTakenError(
        f"launching machines of cluster {spec.name!r}",
        f"it was removed meanwhile, and the name is {whose} by now",
        "Make a new cluster.",
    )
