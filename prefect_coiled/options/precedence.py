"""Merges the places a keyword or an option can be given in, and remembers which one won.

From the highest: a flow run's parameter, its environment, the code, `~/.config/dask/coiled.yaml` (through
Dask's configuration, so `DASK_COILED__...` variables count too), the account block, the default. May not read
block documents: the caller brings them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prefect_coiled.errors import OptionsError, sentences
from prefect_coiled.options.base import unset
from prefect_coiled.options.file import FILE, backend_options, cluster_defaults
from prefect_coiled.options.ingress import DEFAULT_PORTS, SSH_PORT, IngressRule, ingress_rules, says_who
from prefect_coiled.options.keywords import KEYWORDS
from prefect_coiled.options.models import OPTIONS, BackendOptions, check_zone

KEYWORD = "keyword"
_ORDER = ("region", "zone", "spot", "ingress", "registry", "egress", "network")


class Row(NamedTuple):
    """One line of the explanation: an option, its value as text, where it came from, and a remark."""

    name: str
    value: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class MergedOptions:
    """The options that hold, and where each came from.

    Attributes:
        notes: Remarks by option, such as a zone that fell away with its region.
    """

    options: BackendOptions
    sources: Mapping[str, str]
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


@dataclass(frozen=True)
class Stack:
    """What holds of what several places say.

    Attributes:
        options: The backend options that hold, by what they are about.
        sources: The place of each of these options.
    """

    keywords: dict[str, Any]
    options: dict[str, dict[str, Any]]
    sources: dict[str, str]
    notes: dict[str, str]

    @property
    def flat(self) -> dict[str, Any]:
        """The backend options by name."""
        return {key: value for given in self.options.values() for key, value in given.items()}


class Place:
    """What one place says: keywords as they are meant, and backend options by what they are about.

    Raises:
        OptionsError: Something is wrong, or contradicts itself. The text names the place.
    """

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self.name, self.given = name, given
        self.keywords = {k: v for k, v in given.items() if not _is_option(k)}
        said = given.get("backend_options")
        where = "" if name == KEYWORD else name
        options = {} if unset(said) else dict(KEYWORDS["backend_options"].take(said, where))
        for key in (k for k in given if KEYWORDS[k].option):
            if not unset(options.get(key)) and options[key] != given[key]:
                raise OptionsError(
                    f"{key} {given[key]!r} and backend_options[{key!r}] {options[key]!r}",
                    "contradict each other",
                )
            options[key] = given[key]
        if "allow_ingress_from" in given:
            if options.get("ingress") is not None or options.get("firewall") is not None:
                raise OptionsError(
                    "allow_ingress_from and backend_options['ingress']", "contradict each other", "Give one."
                )
            options["ingress"] = [_usual_ports(given["allow_ingress_from"])]
        self.options = self._by_subject(options)

    def _by_subject(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        try:
            # A zone can only be judged against the region that holds in the end.
            BackendOptions(**{k: v for k, v in given.items() if _name(k) not in ("zone", "zone_name")})
        except OptionsError as error:
            if self.name == KEYWORD:
                raise
            d = error.diagnosis
            raise OptionsError(f"{d.what} ({self.name})", d.why, d.next_step) from None
        found: dict[str, dict[str, Any]] = {}
        for key, value in given.items():
            if unset(value):
                continue
            name = _name(key)
            group = found.setdefault(OPTIONS[name], {})
            if name.startswith(("zone", "region")) and group:
                raise OptionsError(
                    f"option {OPTIONS[name]!r} ({self.name})", f"was given twice, also as {key!r}."
                )
            group[name] = value
        return found


def file_place(config: Mapping[str, Any] | None = None) -> Place:
    """What `coiled.yaml` says."""
    return Place(FILE, {**cluster_defaults(config), "backend_options": backend_options(config)})


def stacked(places: Sequence[Place], region: str | None = None) -> Stack:
    """What holds where several places speak, the highest of them first.

    A keyword, and each backend option, is taken whole from the highest place that says it. What would
    contradict it in a lower one falls away: machines by size beside machines by name, a zone of another
    region. A network of another region does not: machines elsewhere would be a surprise.

    Args:
        region: The region below all of them, where it is known.

    Raises:
        OptionsError: A network belongs to another region.
    """
    stack = Stack({}, {}, {}, {})
    who = None if region is None else [rule.cidr for rule in BackendOptions().ingress]
    for place in reversed(places):
        for hidden in (h for k in place.keywords for h in KEYWORDS[k].hides):
            stack.keywords.pop(hidden, None)
        stack.keywords.update(place.keywords)
        for subject, given in place.options.items():
            if subject == "ingress":
                # Where a place says only ports, those get in who do by the places below it.
                (value,) = given.values()
                if who is not None or says_who(value):
                    rules = ingress_rules(value, who or ())
                    given, who = {"ingress": rules}, [rule.cidr for rule in rules]
            stack.options[subject] = given
            stack.sources[subject] = place.name
    _follow_region(stack, places, region)
    return stack


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
    return merged([_options(KEYWORD, keyword), file_place(config)], account)


def merged(places: Sequence[Place], account: Mapping[str, Any] | BackendOptions | None) -> MergedOptions:
    """The options that hold where the account block speaks below these places; see `merge`."""
    stack = stacked([*places, _options("account block", account)], BackendOptions().region)
    sources = {**dict.fromkeys(_ORDER, "default"), **stack.sources}
    try:
        check_zone(_only(stack.options.get("zone"), ""), _only(stack.options.get("region"), "us-east-1"))
    except OptionsError as error:
        d = error.diagnosis
        same = sources["zone"] == sources["region"]
        origin = "" if same else f"The region comes from: {sources['region']}."
        place = "" if same and sources["zone"] == "keyword" else f" ({sources['zone']})"
        raise OptionsError(f"{d.what}{place}", d.why, sentences(d.next_step, origin)) from None
    return MergedOptions(BackendOptions(**stack.flat), sources, stack.notes)


def _options(name: str, given: object) -> Place:
    return Place(name, {"backend_options": given})


def _follow_region(stack: Stack, places: Sequence[Place], bottom: str | None) -> None:
    """Drop a zone, and refuse a network, that belonged to a region which a higher place replaced."""
    regions = [_only(place.options.get("region"), None) for place in places]
    saying = [n for n, region in enumerate(regions) if region is not None]
    for subject in ("zone", "network"):
        at = next((n for n, place in enumerate(places) if subject in place.options), None)
        if at is None or not saying or at <= saying[0]:
            continue
        region, its_region = regions[saying[0]], next((regions[n] for n in saying if n >= at), bottom)
        if its_region == region:
            continue
        if subject == "network":
            raise OptionsError(
                f"network ({places[at].name})",
                f"belongs to {its_region or 'another region'}, but region {region!r} "
                f"({places[saying[0]].name}) was asked for.",
                "Give a network of that region too.",
            )
        zone = _only(stack.options.pop("zone"), "")
        stack.notes["zone"] = f"{zone} of the {stack.sources.pop('zone')} is not in {region} and falls away"


def _usual_ports(cidr: str) -> IngressRule:
    try:
        return IngressRule(ports=DEFAULT_PORTS, cidr=cidr)
    except OptionsError as error:
        d = error.diagnosis
        raise OptionsError(d.what.replace("cidr", "allow_ingress_from", 1), d.why, d.next_step) from None


def _only(given: Mapping[str, Any] | None, default: Any) -> Any:
    return next(iter(given.values())) if given else default


def _is_option(name: str) -> bool:
    return KEYWORDS[name].option or name in ("backend_options", "allow_ingress_from")


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
