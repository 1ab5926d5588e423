"""Merges the four places an option can be given in, and remembers which one won.

From the highest: a keyword argument, `~/.config/dask/coiled.yaml` (through Dask's configuration,
so `DASK_COILED__...` variables count too), the account block, the default. Each option is taken
whole from the highest place that gives it. May not read block documents: the caller brings them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from prefect_coiled.errors import OptionsError
from prefect_coiled.options.base import unset
from prefect_coiled.options.ingress import SSH_PORT, IngressRule, ingress_rules
from prefect_coiled.options.models import BackendOptions, check_zone

Source = Literal["keyword", "coiled.yaml", "account block", "default"]

# Names that stand for one option: giving one of them at a higher place hides the others below it.
_GROUPS = {
    "region": "region",
    "region_name": "region",
    "zone": "zone",
    "zone_name": "zone",
    "spot": "spot",
    "spot_policy": "spot",
    "firewall": "ingress",
    "ingress": "ingress",
    "registry": "registry",
    "egress": "egress",
    "network": "network",
}
_ORDER = ("region", "zone", "spot", "ingress", "registry", "egress", "network")


class Row(NamedTuple):
    """One line of the explanation: an option, its value as text, where it came from, and a remark."""

    name: str
    value: str
    source: Source
    note: str = ""


@dataclass(frozen=True)
class MergedOptions:
    """The options that hold, and where each came from.

    Attributes:
        options: The validated options.
        sources: The source of each option.
        notes: Remarks by option, such as a zone that fell away with its region.
    """

    options: BackendOptions
    sources: Mapping[str, Source]
    notes: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> tuple[Row, ...]:
        """The explanation as a table; secrets are never in it."""
        return tuple(
            Row(name, _shown(self.options, name), self.sources[name], self.notes.get(name, ""))
            for name in _ORDER
        )

    def explain(self) -> str:
        """The explanation as text, one option a line: name, value, source, remark."""
        rows = self.rows()
        wide = max(len(row.value) for row in rows)
        return "\n".join(
            f"{r.name:<9} {r.value:<{wide}}  {r.source}{f' ({r.note})' if r.note else ''}" for r in rows
        )


def merge(
    keyword: Mapping[str, Any] | BackendOptions | None = None,
    account: Mapping[str, Any] | BackendOptions | None = None,
    *,
    config: Mapping[str, Any] | None = None,
) -> MergedOptions:
    """Merge and validate the options.

    Args:
        keyword: What the caller gave in Python; None and "" count as not given.
        account: What the account block says.
        config: Dask's configuration; by default the one that is loaded.

    Returns:
        The options that hold, with their sources.

    Raises:
        OptionsError: Something is wrong, at whichever place. The text names the place.
    """
    levels: list[tuple[Source, dict[str, dict[str, Any]]]] = [
        ("keyword", _grouped("keyword", keyword)),
        ("coiled.yaml", _grouped("coiled.yaml", _section(config).get("backend_options"))),
        ("account block", _grouped("account block", account)),
    ]
    chosen: dict[str, Any] = {}
    sources: dict[str, Source] = dict.fromkeys(_ORDER, "default")
    _keep_those_who_get_in(levels)
    for source, groups in reversed(levels):
        for name, given in groups.items():
            chosen[name] = given
            sources[name] = source
    notes = _follow_region(chosen, sources, levels)
    flat = {key: value for given in chosen.values() for key, value in given.items()}
    try:
        check_zone(_only(chosen.get("zone"), ""), _only(chosen.get("region"), "us-east-1"))
    except OptionsError as error:
        d = error.diagnosis
        same = sources["zone"] == sources["region"]
        next_step = d.next_step if same else f"{d.next_step} The region comes from: {sources['region']}."
        place = "" if same and sources["zone"] == "keyword" else f" ({sources['zone']})"
        raise OptionsError(f"{d.what}{place}", d.why, next_step.strip()) from None
    return MergedOptions(BackendOptions(**flat), sources, notes)


def _keep_those_who_get_in(levels: list[tuple[Source, dict[str, dict[str, Any]]]]) -> None:
    """Where a place says only ports, those get in who do by the places below it."""
    before = [rule.cidr for rule in BackendOptions().ingress]
    for _, groups in reversed(levels):
        if "ingress" in groups:
            (given,) = groups["ingress"].values()
            rules = ingress_rules(given, before)
            groups["ingress"] = {"ingress": rules}
            before = [rule.cidr for rule in rules]


def _follow_region(
    chosen: dict[str, Any],
    sources: dict[str, Source],
    levels: list[tuple[Source, dict[str, dict[str, Any]]]],
) -> dict[str, str]:
    """Drop a zone, and refuse a network, that belonged to a region which a higher place replaced."""
    rank = {source: n for n, (source, _) in enumerate(levels)}
    region = _only(chosen.get("region"), "us-east-1")
    notes: dict[str, str] = {}
    for name in ("zone", "network"):
        if name not in chosen or rank[sources[name]] <= rank.get(sources["region"], len(levels)):
            continue
        below = [g["region"] for s, g in levels if rank[s] >= rank[sources[name]] and "region" in g]
        its_region = _only(below[0] if below else None, "us-east-1")
        if its_region == region:
            continue
        if name == "network":
            raise OptionsError(
                f"network ({sources[name]})",
                f"belongs to {its_region}, but region {region!r} ({sources['region']}) was asked for.",
                "Give a network of that region too.",
            )
        notes["zone"] = (
            f"{_only(chosen.pop('zone'), '')} of the {sources['zone']} is not in {region} and falls away"
        )
        sources["zone"] = "default"
    return notes


def _only(given: Mapping[str, Any] | None, default: str) -> Any:
    return next(iter(given.values())) if given else default


def _grouped(source: Source, given: Any) -> dict[str, dict[str, Any]]:
    """What one place gives, by option; checked on its own, so that an error names the place."""
    if given is None:
        return {}
    if isinstance(given, BackendOptions):
        given = {name: getattr(given, name) for name in given.model_fields_set}
    if not isinstance(given, Mapping):
        raise OptionsError(f"backend options of {source}", "must be a mapping of names to values.")
    try:
        # A zone can only be judged against the region that holds in the end.
        BackendOptions(**{str(k): v for k, v in given.items() if _name(k) not in ("zone", "zone_name")})
    except OptionsError as error:
        if source == "keyword":
            raise
        d = error.diagnosis
        raise OptionsError(f"{d.what} ({source})", d.why, d.next_step) from None
    groups: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        if unset(value):
            continue
        name = _name(key)
        group = groups.setdefault(_GROUPS[name], {})
        if name.startswith(("zone", "region")) and group:
            raise OptionsError(f"option {_GROUPS[name]!r} ({source})", f"was given twice, also as {key!r}.")
        group[name] = value
    return groups


def _name(key: object) -> str:
    return str(key).replace("-", "_")


def _shown(options: BackendOptions, name: str) -> str:
    if name == "ingress":
        return "; ".join(_rule(rule) for rule in options.ingress) or "nothing"
    if name == "zone":
        return options.default_zone
    if name == "spot":
        return options.spot_policy
    if name == "network" and options.network is None:
        return "made by the set-up"
    return str(getattr(options, name))


def _rule(rule: IngressRule) -> str:
    ports = (f"{p} (with a key)" if p == SSH_PORT else str(p) for p in rule.ports)
    return f"{','.join(ports)} from {rule.cidr}"


# coiled.yaml's keys and the keywords of `Cluster` they stand for. "user", "token", "server" and
# "protocol" belong to a hosted service and mean nothing here.
_KEYWORDS = {
    ("account",): "account",
    ("name",): "name",
    ("software",): "software",
    ("package_sync_ignore",): "package_sync_ignore",
    ("package_sync_strict",): "package_sync_strict",
    ("tags",): "tags",
    ("wait_for_workers",): "wait_for_workers",
    ("shutdown_on_close",): "shutdown_on_close",
    ("use_scheduler_public_ip",): "use_scheduler_public_ip",
    ("scheduler_options",): "scheduler_options",
    ("worker_options",): "worker_options",
    ("worker", "cpu"): "worker_cpu",
    ("worker", "memory"): "worker_memory",
    ("worker", "gpu"): "worker_gpu",
    ("worker", "gpu_types"): "worker_gpu_type",
    ("worker", "class"): "worker_class",
    ("worker", "vm_types"): "worker_vm_types",
    ("scheduler", "cpu"): "scheduler_cpu",
    ("scheduler", "memory"): "scheduler_memory",
    ("scheduler", "vm_types"): "scheduler_vm_types",
}


def cluster_defaults(config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keywords of `Cluster` that `coiled.yaml` sets, with their values.

    Args:
        config: Dask's configuration; by default the one that is loaded.

    Raises:
        OptionsError: A part of the file has the wrong shape.
    """
    section = _section(config)
    out: dict[str, Any] = {}
    for path, keyword in _KEYWORDS.items():
        value: Any = section
        for part in path:
            value = _mapping(value, path[0]).get(part)
        if unset(value) or value == {} or value == []:
            continue
        if keyword == "worker_gpu_type" and isinstance(value, (list, tuple)):
            if len(value) > 1:
                raise OptionsError(f"worker.gpu-types {value!r} (coiled.yaml)", "may name one type only.")
            value = value[0]
        out[keyword] = value
    return out


def _section(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The `coiled` part of Dask's configuration, with "_" in every name of its own."""
    if config is None:
        import dask.config

        _refuse_loose_keys(dask.config.paths)
        config = dask.config.config
    return _mapping(config.get("coiled"), "coiled")


def _refuse_loose_keys(places: Iterable[str]) -> None:
    """Refuse a `coiled.yaml` whose keys lack the ones above them: Dask reads it, and nobody asks for them."""
    for place in places:
        path = Path(place) if str(place).endswith((".yaml", ".yml")) else Path(place) / "coiled.yaml"
        if path.name != "coiled.yaml":
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue  # not there, or Dask has said what is wrong with it
        for key in content if isinstance(content, Mapping) else ():
            name = _name(key)
            above = None
            if name in _GROUPS:
                above = "coiled: backend-options:"
            elif name == "backend_options" or name in {path[0] for path in _KEYWORDS}:
                above = "coiled:"
            if above is not None:
                raise OptionsError(
                    f"{key} ({path})",
                    "stands by itself, where nothing reads it.",
                    f"Write it below `{above}`.",
                )


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if unset(value):
        return {}
    if not isinstance(value, Mapping):
        raise OptionsError(f"{where} (coiled.yaml)", f"must be a mapping, not {value!r}.")
    return {_name(key): inner for key, inner in value.items()}
