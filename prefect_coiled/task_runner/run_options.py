"""What one flow run says of its cluster, over what the code says: a deployment needs no change of the flow.

From the highest:

1. a parameter of the flow whose value is a `ClusterSettings`: for one run, or by a deployment's `parameters`
2. environment variables `PREFECT_COILED_CLUSTER__KEYWORD`: by a work pool's or a deployment's `job_variables`
3. the keywords of the `CoiledTaskRunner` in the code
4. what `Cluster` itself looks at: `coiled.yaml`, the account block, the defaults

A keyword is taken whole from the highest place that gives it, `backend_options` option by option. What would
contradict it in a lower place (a zone of another region, vm_types beside cpu) falls away with it.
This module imports neither Dask nor AWS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import OptionsModel
from prefect_coiled.options.keywords import KEYWORDS, from_variables, taken
from prefect_coiled.options.precedence import Place, stacked

# A deployment's parameters are kept and shown as they are.
_NOT_AS_PARAMETER = (
    ("environ",),
    ("worker_options", "env"),
    ("registry", "access_token"),
    ("backend_options", "registry", "access_token"),
)


def _part(value: Any, path: Sequence[str]) -> Any:
    """What a mapping has at a place below; None for nothing."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _field(name: str, default: Any = "", **more: Any) -> Any:
    return Field(default=default, description=KEYWORDS[name].about, **more)


class ClusterSettings(OptionsModel):
    """What a flow run wants of its cluster, as a parameter of the flow. What is left empty stays as it was.

    Its fields are the keywords of `Cluster` that are changed most; `more` takes any other.

    Example:
        ```python
        from prefect import flow
        from prefect_coiled import ClusterSettings, CoiledTaskRunner

        @flow(task_runner=CoiledTaskRunner(n_workers=2))
        def report(day: str, cluster: ClusterSettings = ClusterSettings()):
            ...
        ```
    """

    model_config = ConfigDict(strict=False)

    account: str = _field("account")
    name: str = _field("name")
    n_workers: int | None = _field("n_workers", None, ge=0)
    worker_cpu: int | None = _field("worker_cpu", None, ge=1)
    worker_memory: str = _field("worker_memory")
    worker_vm_types: list[str] = Field(default_factory=list, description=KEYWORDS["worker_vm_types"].about)
    region: str = _field("region")
    spot_policy: Literal["", "on-demand", "spot", "spot_with_fallback"] = _field("spot_policy")
    idle_timeout: str = _field("idle_timeout")
    cluster_timeout: str = _field("cluster_timeout")
    shutdown_on_close: bool | None = _field("shutdown_on_close", None)
    more: dict[str, Any] = Field(default_factory=dict, description="Any other keyword of Cluster, as JSON.")

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name == "more":
            return value
        if value in (None, "", []):
            return value
        meant = KEYWORDS[str(info.field_name)].take(value)
        return meant if isinstance(meant, (bool, int)) else value

    @field_validator("more")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for path in _NOT_AS_PARAMETER:
            if _part(value, path) not in (None, ""):
                raise OptionsError(
                    f"{'.'.join(path)!r} as a parameter",
                    "Prefect keeps and shows parameters in plain text.",
                    "Give it to the task runner, from the environment or a block of secrets.",
                )
        taken(value, "more", runner=True)
        return value

    def keywords(self) -> dict[str, Any]:
        """The keywords of `Cluster` that are given."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name != "more"}
        given = {name: value for name, value in own.items() if value not in (None, "", [])}
        if both := sorted(set(given) & set(self.more)):
            raise OptionsError(f"{both[0]!r}", "was given twice, once in `more`.")
        return {**given, **self.more}

    def over(self, **keywords: Any) -> dict[str, Any]:
        """The keywords for a `Cluster` that a flow makes itself: the environment's and these over its own.

        Raises:
            OptionsError: A variable of the environment names no keyword.
        """
        return resolve(keywords, {"settings": self})[0]


def resolve(
    keywords: Mapping[str, Any],
    parameters: Mapping[str, Any] | None,
    environ: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The keywords that hold for a flow run, and where those came from that are not the code's.

    Args:
        environ: The environment; by default this process's.

    Raises:
        OptionsError: A variable names no keyword, or two parameters speak of the cluster.
    """
    places = [Place("task runner", taken(keywords, "CoiledTaskRunner"))]
    if told := from_variables(os.environ if environ is None else environ):
        places.append(Place("environment", told))
    name, settings = parameter(parameters)
    if settings is not None and (wanted := settings.keywords()):
        places.append(Place(f"parameter {name!r}", taken(wanted, f"parameter {name!r}", runner=True)))
    if len(places) == 1:
        return dict(keywords), {}
    stack = stacked(places[::-1])
    held = {**stack.keywords, **({"backend_options": stack.flat} if stack.options else {})}
    return held, {keyword: place.name for place in places[1:] for keyword in place.given}


def parameter(parameters: Mapping[str, Any] | None) -> tuple[str, ClusterSettings | None]:
    """The flow parameter that speaks of the cluster, by name and value; `("", None)` if there is none.

    Raises:
        OptionsError: There are two.
    """
    found = [(k, v) for k, v in (parameters or {}).items() if isinstance(v, ClusterSettings)]
    if len(found) > 1:
        names = " and ".join(repr(name) for name, _ in found)
        raise OptionsError(f"parameters {names}", "both are ClusterSettings.", "A flow can have one.")
    return found[0] if found else ("", None)
