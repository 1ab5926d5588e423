"""What a task runner connects to: the cluster that it was given, or one that it makes now.

    parameters, environment, code ─▶ keywords ─▶ how do tasks ask the Prefect API? ─▶ the cluster

Called once a flow run, in the flow's context. This module knows nothing of tasks.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefect.context import FlowRunContext
from prefect.utilities.importtools import to_qualified_name

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.file import cluster_defaults
from prefect_coiled.task_runner.api_url import AUTO, Way, choose_way, is_loopback
from prefect_coiled.task_runner.results import BUCKET, check_results
from prefect_coiled.task_runner.run_options import parameter, resolve


@dataclass(frozen=True)
class Opened:
    """What there is to connect to.

    Attributes:
        target: A cluster, or the address of a scheduler.
        made: The cluster, where it was made here; it is to be closed with the flow run.
        ours: Whether its machines are those of an account of this library.
        way: How its tasks ask the Prefect API.
        keeps: Whether results of its tasks go to the account's bucket.
        beside: Whether its workers are processes of this machine, and so share its disk.
    """

    target: Any
    way: Way
    made: Any = None
    ours: bool = False
    keeps: bool = False
    beside: bool = False


def open_target(
    given: Any,
    make: Any,
    keywords: Mapping[str, Any],
    parameters: Mapping[str, Any] | None,
    *,
    api_relay: str | None = None,
    stack: ExitStack,
    stop: threading.Event,
    log: Any,
) -> Opened:
    """Take what was given, or make a cluster.

    Args:
        given: A cluster or an address, if the runner was given one.
        make: Another cluster class, if the runner was given one.
        api_relay: The option, for a cluster that was given or is of another class.
        stop: When set, the making ends as soon as it can.

    Raises:
        OptionsError: The flow run's options are wrong, or its API is out of reach; nothing was made.
    """
    if given is not None or make is not None:
        _refuse_settings(parameters)
    if given is not None:
        beside = _is_beside(given)
        return Opened(given, choose_way(api_relay or AUTO, shares_loopback=beside), beside=beside)
    kwargs, ours, keeps, beside = dict(keywords), make is None, False, False
    if ours:
        from prefect_coiled.cluster import Cluster

        make = Cluster
        kwargs, sources = resolve(kwargs, parameters)
        for keyword, source in sources.items():
            log.info("Cluster option %s comes from the %s", keyword, source)
        keeps = (kwargs.get("results") or cluster_defaults().get("results")) == BUCKET
        if keeps:
            check_results(FlowRunContext.get())
        beside = Cluster.shares_loopback(kwargs.get("account"))
        way = choose_way(
            kwargs.get("api_relay") or cluster_defaults().get("api_relay") or AUTO,
            shares_loopback=beside,
            has_egress=partial(Cluster.has_egress, **kwargs),
        )
        if way.remark:
            log.warning("%s", way.remark)
        kwargs["report"] = lambda step, state: log.info("%s: %s", step, state)
    if "stop" in inspect.signature(make).parameters:
        kwargs["stop"] = stop
    log.info("Creating a new Dask cluster with `%s`", to_qualified_name(make))
    made = make(**kwargs)
    stack.callback(made.close)
    made.__enter__()
    if not ours:
        beside = _is_beside(made)
        way = choose_way(api_relay or AUTO, shares_loopback=beside)
    return Opened(made, way, made, ours, keeps, beside)


def _is_beside(cluster: Any) -> bool:
    """Whether the workers of a cluster of another kind are processes of this machine, as far as one sees."""
    address = str(getattr(cluster, "scheduler_address", cluster) or "")
    return address.startswith("inproc:") or is_loopback(address)


def _refuse_settings(parameters: Mapping[str, Any] | None) -> None:
    name, settings = parameter(parameters)
    if settings is not None and settings.keywords():
        raise OptionsError(
            f"parameter {name!r}",
            "cannot change the cluster: the task runner has `cluster`, `address` or `cluster_class`.",
            "Leave the parameter empty, or the task runner without these.",
        )
