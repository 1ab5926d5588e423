"""What a person is shown of a cluster in Prefect: its time line, resources, links, summary, and what failed.

Pure: from records and seconds to the text of artifacts. Nothing here holds a secret: the dashboard's token is
no part of any link.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape

from prefect_coiled.errors import AwsError, Diagnosis, PrefectCoiledError
from prefect_coiled.events.spans import Span, critical_words, named, rows_of
from prefect_coiled.events.stream import Event
from prefect_coiled.plan.cluster import ClusterSpec, group_name, launch_attempts, template_name
from prefect_coiled.records import AccountRecord, ClusterRecord, InstanceRecord, Record, Removal, Role

# The tag of every flow run of ours.
TAG = "coiled"

# What is told of a cluster as it comes up, and the phase that it belongs to.
PHASES = {
    "network": "account",
    "role": "account",
    "log group": "account",
    "image": "preparation",
    "instances": "launch",
    "log streams": "launch",
    "scheduler": "scheduler boots",
    "workers": "workers boot",
    "removed": "removal",
}
WORK, REMOVAL = "work", "removal"
# Booting begins when the machines are launched, not when the first of them is heard of.
_AFTER_LAUNCH = ("scheduler boots", "workers boot")


class Phase(Record):
    """A part of a cluster's life.

    Attributes:
        begin: Seconds since the cluster was asked for.
    """

    name: str
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Timeline:
    """Makes phases of what is told as a cluster comes up and goes. Takes seconds, has no clock."""

    def __init__(self) -> None:
        self._phases: dict[str, Phase] = {}
        self._ready: float | None = None

    def hear(self, event: Event, at: float) -> None:
        """Note what was told so many seconds after the cluster was asked for."""
        if event.kind == "cluster_ready":
            # What is told of workers from now on is part of the work.
            self._ready = at
            self._phases[WORK] = Phase(name=WORK, begin=at, end=at)
        elif event.kind == "leaving":
            if self._ready is not None:
                self._phases[WORK] = Phase(name=WORK, begin=self._ready, end=at)
            self._phases[REMOVAL] = Phase(name=REMOVAL, begin=at, end=at)
        elif event.kind == "step":
            self._step(event.step, at)

    def _step(self, step: str, at: float) -> None:
        name = PHASES.get(step)
        if name is None or (self._ready is not None and name != REMOVAL):
            return
        begin = at
        if name == "account":
            begin = 0.0
        elif name in _AFTER_LAUNCH and "launch" in self._phases:
            begin = self._phases["launch"].end
        known = self._phases.get(name)
        self._phases[name] = Phase(name=name, begin=known.begin if known else begin, end=at)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in the order in which they began."""
        return tuple(sorted(self._phases.values(), key=lambda p: (p.begin, p.end)))


_ROW, _LEFT, _BAR, _RIGHT = 24, 130, 420, 90
_COLORS = {WORK: "#2e7d32", REMOVAL: "#8d6e63"}
_BLUE, _CRITICAL = "#3949ab", "#c62828"
_MOST_WORKERS = 8


def picture(phases: Sequence[Phase]) -> str:
    """The time line as SVG, on a ground of its own, so that it can be read in light and in dark."""
    return _bars([(p.name, p.begin, p.end, _COLORS.get(p.name, _BLUE)) for p in phases], _LEFT)


def launch_picture(spans: Sequence[Span]) -> str:
    """How a cluster came up, as SVG: a bar for each span, of another colour on the critical path."""
    start = min(span.begin for span in spans)
    bars = [
        (
            named(span),
            (span.begin - start).total_seconds(),
            (span.end - start).total_seconds(),
            _CRITICAL if span.critical else _BLUE,
        )
        for span in spans
    ]
    return _bars(bars, 2 * _LEFT)


def _bars(bars: Sequence[tuple[str, float, float, str]], left: int) -> str:
    """Name, begin, end and colour of each bar, as SVG."""
    whole = max((end for _, _, end, _ in bars), default=0.0) or 1.0
    width, height = left + _BAR + _RIGHT, _ROW * len(bars) + 12
    rows = []
    for n, (name, begin, end, color) in enumerate(bars):
        y = 6 + n * _ROW
        x = left + _BAR * begin / whole
        length = max(_BAR * (end - begin) / whole, 2.0)
        rows.append(
            f'<text x="8" y="{y + 16}">{escape(name)}</text>'
            f'<rect x="{x:.1f}" y="{y + 4}" width="{length:.1f}" height="16" rx="2" fill="{color}"/>'
            f'<text x="{x + length + 6:.1f}" y="{y + 16}">{_duration(end - begin)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="13" fill="#222">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(rows)}</svg>'
    )


def launch(spans: Sequence[Span]) -> str:
    """How a cluster came up, as Markdown: the critical path in words, a picture, and a table.

    Of many workers, those whose spans were over last.
    """
    last: dict[str, float] = {}
    for span in spans:
        if span.role == "worker":
            last[span.of] = max(last.get(span.of, 0.0), span.end.timestamp())
    shown = sorted(last, key=lambda one: -last[one])[:_MOST_WORKERS]
    some = [span for span in spans if span.role != "worker" or span.of in shown or span.critical]
    rows = rows_of(some)
    table = [
        f"| {_plain(row['what'])} | {_plain(row['of'])} | {row['from']} | {row['to']} | {row['seconds']} "
        f"| {row['critical']} |"
        for row in rows
    ]
    more = len(last) - len(shown)
    return "\n".join(
        [
            f"The rest waited for: {_plain(critical_words(spans))}.",
            "",
            f"![how it came up]({as_data_uri(launch_picture(some))})",
            "",
            "| what | of | from second | to second | took | critical |",
            "|---|---|---:|---:|---:|---|",
            *table,
            *(["", f"And {more} workers more, which were there before these."] if more > 0 else []),
        ]
    )


def as_data_uri(svg: str) -> str:
    """A picture as an address that holds it: Prefect keeps addresses of images, not images."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def tags_of(account: str, cluster: str = "") -> tuple[str, ...]:
    """The tags of flow runs that provision for an account, and for one of its clusters."""
    return tuple(t for t in (TAG, account, cluster) if t)


def launch_name(spec: ClusterSpec, role: Role, count: int) -> str:
    """What a launch is called: "20 x m6i.large spot". It is the first way that is tried."""
    first = launch_attempts(spec, role, (spec.zone,), spec.zone)[0]
    machine = f"{first.instance_type} {'spot' if first.spot else 'on demand'}"
    return f"scheduler {machine}" if role == "scheduler" else f"{count} x {machine}"


def resource_rows(
    spec: ClusterSpec,
    account: AccountRecord,
    *,
    image_ids: Mapping[Role, str],
    groups: Mapping[Role, Sequence[str]],
    templates: Mapping[Role, str],
    machines: Iterable[InstanceRecord],
) -> list[dict[str, str]]:
    """What a cluster consists of and what it shares, a row each: kind, id, zone, note."""

    def row(kind: str, id_: str, note: str, zone: str = "") -> dict[str, str]:
        return {"kind": kind, "id": id_, "zone": zone, "note": note}

    own = spec.network
    rows = []
    for machine in machines:
        market = "spot" if machine.spot else "on demand"
        note = f"{machine.instance_type} {market}, {machine.public_ip or machine.private_ip}"
        rows.append(row(machine.role, machine.instance_id, note, machine.zone))
    of_scheduler, shared = groups["scheduler"]
    names = {of_scheduler: group_name(spec, "scheduler"), shared: group_name(spec, "cluster")}
    rows += [row("security group", id_, "yours" if own else name) for id_, name in names.items()]
    rows += [row("launch template", id_, template_name(spec, role)) for role, id_ in templates.items()]
    for id_ in dict.fromkeys(image_ids.values()):
        roles = ", ".join(role for role, one in image_ids.items() if one == id_)
        rows.append(row("image", id_, f"{spec.architecture}, {roles}"))
    if spec.container is not None:
        rows.append(row("container image", str(spec.container), "of every node"))
    if own is not None:
        rows.append(row("network", own.network_id, "yours"))
    elif account.network is not None:
        note = "shared by the account's clusters"
        rows.append(row("network", account.network.vpc_id, f"{account.network.cidr}, {note}"))
        for zone, nat in account.network.nat_gateways.items():
            rows.append(row("NAT gateway", nat, f"{note}; costs money until it is swept", zone))
    rows.append(row("IAM role", account.role_arn.rpartition("/")[2], "of the machines, shared"))
    rows.append(row("log group", account.log_group, "kept for 30 days, shared"))
    return rows


def dashboard_address(record: ClusterRecord) -> str:
    """Where the dashboard is. Its token is not in it: everybody who sees Prefect would have it."""
    return f"https://{record.scheduler_host}:{record.dashboard_port}/status"


def command(verb: str, account: str, region: str, name: str = "") -> str:
    """A command line of ours about a cluster, to be pasted."""
    words = ["prefect-coiled", verb, name, "--account", account, "--region", region]
    return " ".join(w for w in words if w)


def summary(
    spec: ClusterSpec,
    record: ClusterRecord,
    phases: Sequence[Phase],
    *,
    joined: int,
    cost: str,
    removal: Removal | None,
) -> str:
    """What became of a cluster, as Markdown: workers, time line, cost, what was removed."""
    kinds = Counter(f"{w.instance_type}{' spot' if w.spot else ''}" for w in record.workers)
    workers = ", ".join(f"{n} x {kind}" for kind, n in kinds.items()) or "none at the start"
    whole = max((p.end for p in phases), default=0.0)
    return "\n".join(
        [
            f"# Cluster {record.name}",
            "",
            "| | |",
            "|---|---|",
            f"| account | {record.account}, {record.region} |",
            f"| asked for by | {record.creator} |",
            f"| scheduler | {record.scheduler.instance_type} in {record.scheduler.zone} |",
            f"| workers | {workers} |",
            f"| asked for | {spec.n_workers} workers |",
            f"| joined | {joined} of {len(record.workers)} |",
            f"| from asking to the end | {_duration(whole)} |",
            "",
            "## Time line",
            "",
            f"![time line]({as_data_uri(picture(phases))})",
            "",
            *_phase_table(phases),
            "",
            "## Cost",
            "",
            *_cost_lines(cost),
            "",
            "## Removed",
            "",
            *_removal_lines(removal),
            "",
            f"Its logs stay for 30 days: `{command('logs', record.account, record.region, record.name)}`.",
        ]
    )


def failure(
    spec: ClusterSpec, error: BaseException, phases: Sequence[Phase], removal: Removal | None = None
) -> str:
    """What failed, why, and what to do next, as Markdown for one screen."""
    d = diagnosis_of(error)
    lines = [
        f"# Cluster {spec.name} did not come up",
        "",
        f"**What failed:** {d.what}",
        "",
        f"**Why:** {_plain(d.why) or 'no cause was given'}",
        "",
        f"**What to do next:** {d.next_step or 'Read the log of this run, then run it again.'}",
        "",
    ]
    if isinstance(error, AwsError) and error.operation:
        parts = [error.operation, error.code, f"request {error.request_id}" if error.request_id else ""]
        lines += [f"AWS's answer: {', '.join(p for p in parts if p)}", ""]
    account, region = spec.account, spec.region
    lines += [
        f"Account {account} in {region}; {launch_name(spec, 'scheduler', 1)}, "
        f"{launch_name(spec, 'worker', spec.n_workers)}.",
        "",
        *(["## Removed again", "", *_removal_lines(removal), ""] if removal is not None else []),
        *(["## How far it came", "", *_phase_table(phases), ""] if phases else []),
        f"More: `{command('logs', account, region, spec.name)}`, "
        f"`{command('notifications', account, region)}`.",
    ]
    return "\n".join(lines)


def diagnosis_of(error: BaseException) -> Diagnosis:
    """The diagnosis that an error carries, or one made of its class and text."""
    if isinstance(error, PrefectCoiledError):
        return error.diagnosis
    text = " ".join(str(error).split())
    return Diagnosis("provisioning", f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _plain(text: str) -> str:
    """What AWS or a machine said, as words of Markdown: no links, pictures or HTML of theirs.

    Bare addresses become links too: https://github.github.com/gfm/#autolinks-extension-
    """
    escaped = re.sub(r"([\\\[\]<>|`@])", r"\\\1", " ".join(text.split()))
    return re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", escaped, flags=re.IGNORECASE)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _phase_table(phases: Sequence[Phase]) -> list[str]:
    rows = [f"| {p.name} | {p.begin:.1f} | {p.end:.1f} | {_duration(p.seconds)} |" for p in phases]
    return ["| phase | from second | to second | took |", "|---|---:|---:|---:|", *rows]


def _cost_lines(cost: str) -> list[str]:
    *items, basis = cost.splitlines()
    return [*(f"- {item}" for item in items), "", basis]


def _removal_lines(removal: Removal | None) -> list[str]:
    if removal is None:
        return ["Nothing: the cluster was left running."]
    lines = [f"- {kind}: {', '.join(ids)}" for kind, ids in removal.removed.items() if ids]
    lines += [
        f"- left for `prefect-coiled sweep`: {id_} ({_plain(why)})" for id_, why in removal.left.items()
    ]
    return lines or ["- nothing was there"]
