"""The configuration of a task runner: what it was given, and how that goes into copies and processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import distributed
from prefect_dask import DaskTaskRunner
from typing_extensions import Self, Unpack

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import check_known
from prefect_coiled.options.keywords import ClusterOptions, taken
from prefect_coiled.options.kinds import shown
from prefect_coiled.task_runner.shipping import is_shipping


class ConfiguredRunner(DaskTaskRunner):
    """A task runner's configuration; see `CoiledTaskRunner`."""

    def __init__(
        self,
        cluster: distributed.deploy.Cluster | None = None,
        address: str | None = None,
        cluster_class: str | Callable[..., distributed.deploy.Cluster] | None = None,
        cluster_kwargs: dict[str, Any] | None = None,
        adapt_kwargs: dict[str, Any] | None = None,
        client_kwargs: dict[str, Any] | None = None,
        performance_report_path: str | None = None,
        **options: Unpack[ClusterOptions],
    ) -> None:
        _check_place(cluster, address)
        _check(options)
        #: How tasks ask the Prefect API, where the cluster is not made of `options`.
        self.api_relay = options.pop("api_relay", None) if cluster or address or cluster_class else None
        if options and (cluster or address or cluster_class):
            given = ", ".join(sorted(options))
            raise ValueError(f"Cannot specify {given} together with `cluster`, `address` or `cluster_class`")
        self._prepare_run()
        super().__init__(
            cluster=cluster,
            address=address,
            cluster_class=cluster_class,
            cluster_kwargs={**(cluster_kwargs or {}), **options},
            adapt_kwargs=adapt_kwargs,
            client_kwargs=client_kwargs,
            performance_report_path=performance_report_path,
        )
        self._started: bool
        self._given_cluster = cluster
        self._lost_cluster = False
        _check_client(self.client_kwargs)
        if not (cluster or address or cluster_class):
            _check(self.cluster_kwargs)
            if "Adaptive" not in self.adapt_kwargs:  # a class of the user's own takes what it takes
                from prefect_coiled.cluster.sizes import check_adaptive

                check_adaptive(self.adapt_kwargs)

    def _prepare_run(self) -> None:
        """Set what belongs to one run of this runner; never compared, duplicated or pickled."""
        self._security: Any = None

    def _configuration(self) -> dict[str, Any]:
        relay = {} if self.api_relay is None else {"api_relay": self.api_relay}
        return {
            **relay,
            "cluster": self._given_cluster,
            "address": self.address,
            "cluster_class": self.cluster_class,
            "cluster_kwargs": self.cluster_kwargs,
            "adapt_kwargs": self.adapt_kwargs,
            "client_kwargs": self._client_kwargs,
            "performance_report_path": self.performance_report_path,
        }

    def duplicate(self) -> Self:
        """A new runner of the same configuration, which makes a cluster of its own."""
        new = type(self)(**self._configuration())
        new._lost_cluster = self._lost_cluster
        return new

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConfiguredRunner):
            return NotImplemented
        return type(self) is type(other) and self._configuration() == other._configuration()

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, Any]:
        """Configuration alone. For a worker not even that: it provisions nothing."""
        if is_shipping():
            return {}
        state = self._configuration()
        state["lost_cluster"] = state.pop("cluster") is not None
        # Certificates and keys stay here.
        state["client_kwargs"] = {k: v for k, v in state["client_kwargs"].items() if k != "security"}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        lost_cluster = state.pop("lost_cluster", False)
        self.__init__(**state)  # type: ignore[misc]
        self._lost_cluster = lost_cluster

    def __repr__(self) -> str:
        name = self.cluster_kwargs.get("name") or self.address or self._given_cluster
        return f"{type(self).__name__}({name or ''})"


def _check_place(cluster: Any, address: Any) -> None:
    """Refuse what is no cluster or no address here, and not in the flow; a blank address launches nothing."""
    if cluster is not None and not hasattr(cluster, "scheduler_address"):
        hint = "An address is given by its name: address=..." if isinstance(cluster, str) else ""
        raise OptionsError(f"cluster {shown(cluster)}", "it has to be a Dask cluster.", hint)
    if address is not None and not (isinstance(address, str) and address.strip()):
        why = "it has to be the address of a scheduler, such as tls://10.0.0.1:8786."
        raise OptionsError(f"address {shown(address)}", why)


def _check(options: Mapping[str, Any]) -> None:
    taken(options, "CoiledTaskRunner", runner=True)


def _check_client(given: Mapping[str, Any]) -> None:
    """Refuse a keyword of `distributed.Client` that would be swallowed where the address is given."""
    known = [name for name in inspect.signature(distributed.Client).parameters if name != "kwargs"]
    check_known(given, known, "client_kwargs", "unexpected keyword {}.")
