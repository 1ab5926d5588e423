"""What one flow run says of its cluster, over what the code says: a deployment needs no change of the flow.

From the highest:

1. a parameter of the flow whose value is a `ClusterSettings`: for one run, or by a deployment's `parameters`
2. environment variables `PREFECT_COILED_CLUSTER__KEYWORD`: by a work pool's or a deployment's `job_variables`
3. the keywords of the `CoiledTaskRunner` in the code
4. what `Cluster` itself looks at: `coiled.yaml`, the account block, the defaults

A keyword is taken whole from the highest place that gives it, `backend_options` option by option. What would
contradict it in a lower place (a zone of another region, vm_types beside cpu) falls away with it.
This module imports neither Dask nor AWS, until a variable is to be read.
"""

from __future__ import annotations

import functools
import json
import os
import types
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, field_validator

from prefect_coiled.errors import OptionsError
from prefect_coiled.task_runner.cluster_options import ClusterOptions

__all__ = ["PREFIX", "ClusterSettings", "from_environment", "overlay", "resolve"]

PREFIX = "PREFECT_COILED_CLUSTER__"

# What people write for yes and no.
_YES_NO = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}
# A deployment's parameters are kept and shown as they are.
_NOT_AS_PARAMETER = {"environ"}

_SHORTHANDS = ("region", "zone", "spot", "spot_policy")
# Keywords of which one in a higher place hides the others below it.
_SIZES = ("cpu", "memory", "gpu", "gpu_type")
_HIDES: dict[str, tuple[str, ...]] = {
    "worker_vm_types": tuple(f"worker_{s}" for s in _SIZES),
    "scheduler_vm_types": ("scheduler_cpu", "scheduler_memory"),
    **{f"worker_{s}": ("worker_vm_types",) for s in _SIZES},
    **{f"scheduler_{s}": ("scheduler_vm_types",) for s in ("cpu", "memory")},
}
_SAME = (("region", "region_name"), ("zone", "zone_name"), ("spot", "spot_policy"), ("ingress", "firewall"))


class ClusterSettings(BaseModel):
    """What a flow run wants of its cluster, as a parameter of the flow. What is left empty stays as it was.

    Attributes:
        account: Slug of the account.
        name: Name of the cluster; one that lives is attached to.
        n_workers: Number of workers.
        worker_cpu: vCPUs of a worker.
        worker_memory: Memory of a worker, such as "16 GiB".
        worker_vm_types: Instance types of the workers, in order of preference.
        region: AWS region.
        spot_policy: Which machines the workers are.
        idle_timeout: The cluster ends after so long without tasks, such as "20 minutes".
        cluster_timeout: The cluster ends after so long in any case.
        shutdown_on_close: Whether the cluster goes with the flow run.
        more: Any other keyword of `Cluster`.

    Example:
        ```python
        from prefect import flow
        from prefect_coiled import ClusterSettings, CoiledTaskRunner

        @flow(task_runner=CoiledTaskRunner(n_workers=2))
        def report(day: str, cluster: ClusterSettings = ClusterSettings()):
            ...
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    account: str = Field(default="", description="Slug of the account. Empty: as the flow says.")
    name: str = Field(default="", description="Name of the cluster. One that runs is attached to.")
    n_workers: int | None = Field(default=None, ge=0, description="Number of workers.")
    worker_cpu: int | None = Field(default=None, ge=1, description="vCPUs of a worker.")
    worker_memory: str = Field(default="", description='Memory of a worker, such as "16 GiB".')
    worker_vm_types: list[str] = Field(default_factory=list, description="Instance types, the best first.")
    region: str = Field(default="", description="AWS region, such as eu-west-1.")
    spot_policy: Literal["", "on-demand", "spot", "spot_with_fallback"] = Field(
        default="", description="Which machines the workers are."
    )
    idle_timeout: str = Field(default="", description='Ends after so long without tasks: "20 minutes".')
    cluster_timeout: str = Field(default="", description='Ends after so long in any case: "4 hours".')
    shutdown_on_close: bool | None = Field(
        default=None, description="Whether the cluster goes with the flow run."
    )
    more: dict[str, Any] = Field(default_factory=dict, description="Any other keyword of Cluster, as JSON.")

    @field_validator("more")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for keyword in value:
            _check(keyword, "more")
            if keyword in _NOT_AS_PARAMETER:
                raise OptionsError(
                    f"{keyword!r} as a parameter",
                    "Prefect keeps and shows parameters in plain text.",
                    "Give it to the task runner, from the environment or a block of secrets.",
                )
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

        Args:
            keywords: What the flow's code says.

        Raises:
            OptionsError: A variable of the environment names no keyword.
        """
        return resolve(keywords, {"settings": self})[0]


def from_environment(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The keywords that the environment gives: `PREFECT_COILED_CLUSTER__N_WORKERS=20` and so on.

    Values are read as what the keyword takes: text stays text, whatever it looks like; where a keyword takes
    numbers, lists or mappings they are JSON; yes and no are read in any spelling. Empty ones count as not
    given.

    Raises:
        OptionsError: A variable with the prefix names no keyword, or is neither yes nor no.
    """
    found: dict[str, Any] = {}
    for variable, text in (os.environ if environ is None else environ).items():
        if not variable.upper().startswith(PREFIX) or not text.strip():
            continue
        keyword = variable[len(PREFIX) :].lower()
        _check(keyword, f"environment variable {variable}")
        found[keyword] = _value(variable, keyword, text.strip())
    return found


def overlay(lower: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of two places together; the higher one wins.

    Raises:
        OptionsError: A network of one's own stays behind in another region.
    """
    out, over = _folded(lower), _folded(higher)
    for keyword in over:
        for hidden in _HIDES.get(keyword, ()):
            out.pop(hidden, None)
    options, chosen = dict(out.pop("backend_options", {})), dict(over.pop("backend_options", {}))
    out.update(over)
    _follow_region(options, chosen)
    if "allow_ingress_from" in over:
        options.pop("ingress", None), options.pop("firewall", None)
    for same in _SAME:
        if any(name in chosen for name in same):
            for name in same:
                options.pop(name, None)
    if {"ingress", "firewall"} & set(chosen):
        out = {k: v for k, v in out.items() if k != "allow_ingress_from" or k in over}
    if options or chosen:
        out["backend_options"] = {**options, **chosen}
    return out


def resolve(
    keywords: Mapping[str, Any],
    parameters: Mapping[str, Any] | None,
    environ: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The keywords that hold for a flow run, and where those came from that are not the code's.

    Args:
        keywords: Those of the task runner.
        parameters: The flow run's parameters.
        environ: The environment; by default this process's.

    Raises:
        OptionsError: A variable names no keyword, or two parameters speak of the cluster.
    """
    sources: dict[str, str] = {}
    held = dict(keywords)
    told = from_environment(environ)
    if told:
        held = overlay(held, told)
        sources.update(dict.fromkeys(told, "environment"))
    name, settings = parameter(parameters)
    if settings is not None and (wanted := settings.keywords()):
        held = overlay(held, wanted)
        sources.update(dict.fromkeys(wanted, f"parameter {name!r}"))
    return held, sources


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


def _check(keyword: str, where: str) -> None:
    known = set(ClusterOptions.__annotations__)
    if keyword in known:
        return
    near = get_close_matches(keyword, known, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "See prefect_coiled.cluster.Cluster."
    raise OptionsError(where, f"{keyword!r} is no keyword of a cluster.", hint)


def _value(variable: str, keyword: str, text: str) -> Any:
    """The text of a variable as what its keyword takes."""
    takes = _taken(keyword)
    if bool in takes and (not takes & {int, float} or text.lower() not in ("0", "1")):
        answer = _YES_NO.get(text.lower())
        if answer is not None:
            return answer
        if takes <= {bool, type(None)}:
            raise OptionsError(f"environment variable {variable}", f"{text!r} is neither yes nor no.")
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if takes and isinstance(value, (bool, int, float)) and not takes & {bool, int, float}:
        return text
    return text if takes <= {str, type(None)} and takes else value


@functools.cache
def _taken(keyword: str) -> frozenset[type]:
    """The plain types that a keyword of `Cluster` takes; none where it takes anything."""
    from prefect_coiled.cluster import Cluster
    from prefect_coiled.cluster.request import Request

    hints = {**get_type_hints(Cluster.__init__), **get_type_hints(Request)}
    hint = hints.get(keyword, Any)
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return frozenset(get_origin(part) or part for part in parts if part is not Any)


def _folded(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords with shorthands such as `region` as parts of `backend_options`."""
    out = {k: v for k, v in keywords.items() if k not in _SHORTHANDS}
    short = {k: keywords[k] for k in _SHORTHANDS if keywords.get(k) is not None}
    options = out.get("backend_options")
    if not short:
        return out
    if options is not None and not isinstance(options, Mapping):
        # A `BackendOptions` of the user's: only what was said of it counts.
        options = {name: getattr(options, name) for name in options.model_fields_set}
    for key, value in short.items():
        if (options or {}).get(key, value) != value:
            raise OptionsError(
                f"{key} {value!r} and backend_options[{key!r}] {(options or {})[key]!r}",
                "contradict each other",
            )
    out["backend_options"] = {**(options or {}), **short}
    return out


def _follow_region(options: dict[str, Any], chosen: Mapping[str, Any]) -> None:
    region = chosen.get("region") or chosen.get("region_name")
    before = options.get("region") or options.get("region_name")
    if region is None or region == before:
        return
    if not {"zone", "zone_name"} & set(chosen):
        for name in ("zone", "zone_name"):
            options.pop(name, None)
    if options.get("network") is not None and "network" not in chosen:
        raise OptionsError(
            "network of the task runner",
            f"belongs to another region than {region!r}, which was asked for.",
            "Give a network of that region too.",
        )
