"""What machines are told as they are launched, within what EC2 takes; and what they cost. No step."""

from __future__ import annotations

from typing import Any

from prefect_coiled.aws import parameters
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.price_list import find_prices
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kept import MOST_WAYS, keep_of
from prefect_coiled.plan.prices import Prices
from prefect_coiled.plan.user_data import Place, user_data
from prefect_coiled.records import MachineImage, Role


def launch_data(
    spec: ClusterSpec,
    role: Role,
    image: MachineImage,
    profile: str,
    scheduler_host: str = "",
    environment: Place | None = None,
    ways: int = MOST_WAYS,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """What a launch says of the machines of a role; that of workers names the scheduler's address.

    Args:
        ways: By how many templates a scheduler may launch workers.
        prices: What a scheduler counts with.
    """
    script = role_user_data(spec, role, scheduler_host, environment, ways, prices)
    return planning.launch_template(spec, role, image=image, profile=profile, user_data=script)


def prices_of(aws: Aws, spec: ClusterSpec) -> Prices:
    """What the machines of a cluster cost, of all types that it may get."""
    spot = () if spec.spot_policy == "on-demand" else spec.worker_types
    return find_prices(aws, {*spec.scheduler_types, *spec.worker_types}, spot=spot)


# As long as the longest address of a lock there can be, for a check before any is known.
_SOMEWHERE = Place("b" * 63, f"wheels/environments/{'0' * 16}/pylock.toml", "3.10.10")


def check_sizes(spec: ClusterSpec, prices: Prices) -> None:
    """See that the plan and the user data of both roles can be written, before anything is made.

    Raises:
        OptionsError: If the plan is too large for a parameter, or as `role_user_data` does.
    """
    parameters.check_size(spec.encode())
    for role in ("scheduler", "worker"):
        place = _SOMEWHERE if spec.installs else None
        role_user_data(spec, role, "255.255.255.255", place, prices=prices)


def role_user_data(
    spec: ClusterSpec,
    role: Role,
    scheduler_host: str = "",
    environment: Place | None = None,
    ways: int = MOST_WAYS,
    prices: Prices | None = None,
) -> str:
    """The user data of a role, with where to install from unless the image holds everything.

    Raises:
        OptionsError: If it does not fit.
    """
    node = spec.node(role)
    if role == "worker":
        node = node.model_copy(update={"scheduler_host": scheduler_host})
    else:
        billed = planning.billed_of(spec, prices)
        node = node.model_copy(update={"keep": keep_of(spec, ways), "billed": billed})
    return user_data(node, environment, container=spec.container)
