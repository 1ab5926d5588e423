"""Write docs/facts.md and docs/img/life.svg: timers, variables and more. A test holds both to the code."""

from __future__ import annotations

from importlib.metadata import metadata, requires
from pathlib import Path
from xml.sax.saxutils import escape

from packaging.requirements import Requirement

from prefect_coiled.install import DISTRIBUTION
from prefect_coiled.node import agent, keeping
from prefect_coiled.node.silence import patience
from prefect_coiled.node.timers import CLIENT_GRACE_S
from prefect_coiled.options.keywords import KEYWORDS, PREFIX
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.quotas import OF_CODES, Quota, of_machines

DOCS = Path(__file__).parent.parent / "docs"
PAGE, PICTURE = DOCS / "facts.md", DOCS / "img" / "life.svg"

# What the library reads of the environment, beside what Prefect, Dask, boto3 and uv read themselves.
VARIABLES = {
    f"{PREFIX}KEYWORD": (
        "a [keyword](keywords.md), in capitals, of the runs of flows with a `CoiledTaskRunner`; see "
        "[Deployments](deployments.md)"
    ),
    "DASK_COILED__ACCOUNT": (
        "a key of [`coiled.yaml`](options.md#four-places), as Dask reads its configuration; here the account"
    ),
    "PREFECT_COILED_SECRET_ACCESS_KEY": "the secret key for `setup aws`, so that no shell keeps it",
    "PREFECT_COILED_REGISTRY_TOKEN": "the token of Docker Hub, likewise",
    "PREFECT_COILED_LOGO_URL": "where Prefect's UI finds the picture of the block types",
    "XDG_STATE_HOME": "where the sandbox in the background keeps its files, and the names for completion; "
    "`~/.local/state` if not set",
    "XDG_CACHE_HOME": "where built packages, hashes and prices are kept; `~/.cache` if not set",
}
_OF_PREFECT = {
    "PREFECT_API_URL": "the Prefect server; without it Prefect starts a temporary one",
    "PREFECT_API_KEY": "the key of Prefect Cloud",
    "PREFECT_API_AUTH_STRING": "user and password of a server of your own",
    "PREFECT_LOGGING_LEVEL": "what Prefect prints; the command line asks for `WARNING`",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "how long its temporary server may take to start",
}


def words(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "never"
    for size, name in ((3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {name}{'' if count == 1 else 's'}"
    return f"{seconds:g} seconds"


def keyword(name: str) -> float | None:
    """The default of a keyword that takes a time, in seconds."""
    one = KEYWORDS[name]
    return None if one.default is None else float(one.take(one.default))


def timers() -> list[tuple[str, str, str]]:
    """What ends by itself: after what, after how long, and the keyword for it."""
    node = NodeConfig.model_fields
    return [
        ("a launch that does not come up", words(keyword("timeout")), "`timeout`"),
        ("a machine that does not come so far as to run Dask", words(node["boot_timeout"].default), ""),
        ("a cluster without tasks", words(keyword("idle_timeout")), "`idle_timeout`"),
        ("a cluster without a client", words(keyword("no_client_timeout")), "`no_client_timeout`"),
        (
            "a cluster that no client ever came to",
            words(CLIENT_GRACE_S + keyword("no_client_timeout")),
            "`no_client_timeout`, from 10 minutes after its scheduler's start on",
        ),
        (
            "a cluster whose client says nothing, not even that it ends: twice that, from its last word",
            words(patience(keyword("no_client_timeout"))),
            "`no_client_timeout`",
        ),
        ("a cluster, whatever it does", words(keyword("cluster_timeout")), "`cluster_timeout`"),
        ("a worker without its scheduler", words(node["scheduler_lost_timeout"].default), ""),
        ("a machine whose Dask process gives no sign of life", words(agent.HANG_S), ""),
        ("looks for AWS's notice that a spot machine is taken back: every", words(agent.SPOT_POLL_S), ""),
        ("a worker's results that move after that notice: at most", words(agent.DRAIN_S), ""),
        ("the first look for a worker that is gone, to replace it", words(keeping.FIRST_LOOK_S), ""),
    ]


def _quota(one: Quota, what: str) -> str:
    return f"| {one.name} | `{one.code}` | {what} |"


def versions() -> list[tuple[str, str]]:
    """What it works with, by the package's own metadata."""
    found = [("Python", metadata(DISTRIBUTION)["Requires-Python"])]
    needs = map(Requirement, requires(DISTRIBUTION) or ())
    found += [(one.name, str(one.specifier)) for one in needs if one.marker is None]
    return [(name, ", ".join(sorted(said.split(","), reverse=True))) for name, said in found]


def page() -> str:
    """The whole page."""
    machines = [_quota(one, "vCPUs of machines") for one in of_machines()]
    others = [_quota(one, f"`{code}`") for code, one in OF_CODES.items()]
    return "\n".join(
        [
            "# Timers, variables, versions, quotas",
            "",
            "As `scripts/write_facts_page.py` writes them from the code. Keywords have",
            "[a page of their own](keywords.md).",
            "",
            "## Timers",
            "",
            "| what ends, or waits | after | keyword |",
            "|---|---|---|",
            *(f"| {what} | {after} | {name} |" for what, after, name in timers()),
            "",
            "## Variables of the environment",
            "",
            "| variable | what it is |",
            "|---|---|",
            *(f"| `{name}` | {what} |" for name, what in VARIABLES.items()),
            "",
            "Of [Prefect's settings](https://docs.prefect.io/v3/api-ref/settings-ref) these matter most:",
            "",
            "| variable | what it is |",
            "|---|---|",
            *(f"| `{name}` | {what} |" for name, what in _OF_PREFECT.items()),
            "",
            "Those of uv, pip, Poetry and PDM are on the page of",
            "[packages](environments.md#where-packages-come-from).",
            "",
            "## Versions",
            "",
            "What it is declared to work with. `make oldest-test` runs a part of the tests with the oldest",
            "of these, `make newest-test` with the newest that are out.",
            "",
            "| package | versions |",
            "|---|---|",
            *(f"| {name} | `{said}` |" for name, said in versions()),
            "",
            "## Quotas of AWS",
            "",
            "What an error may name. `prefect-coiled quotas` shows what holds in your account, what is used,",
            "and where to ask for more; `prefect-coiled check` says how many workers fit.",
            "",
            "| quota | code | what it counts, or the error |",
            "|---|---|---|",
            *machines,
            *others,
            "",
        ]
    )


_WIDTH = 720
_STAGES = (
    ("Cluster(...), or a flow's first task", "options checked, name claimed, set-up if need be", "#5c6bc0"),
    ("launch", "one call for the scheduler, one for all workers; keys by mutual TLS", "#3949ab"),
    ("boot", "each machine installs your packages from the bucket, or starts from an image", "#3949ab"),
    ("work", "tasks run; a worker that ends is replaced; scale and adapt", "#2e7d32"),
    ("close, Ctrl-C, end of the flow run", "machines first, then the rest", "#8d6e63"),
)


def picture() -> str:
    """A cluster's life as SVG, with the timers by which each part of it ends without anybody."""
    boot = words(NodeConfig.model_fields["boot_timeout"].default)
    ends = (
        "",
        f"by itself: given up, and removed, after {words(keyword('timeout'))} (timeout)",
        f"by itself: a machine that does not come so far ends after {boot}",
        f"by itself: {words(keyword('idle_timeout'))} after the last task (idle_timeout), "
        f"{words(keyword('no_client_timeout'))} after the last client (no_client_timeout)",
        "",
    )
    rows: list[str] = []
    y = 12
    for (name, what, color), end in zip(_STAGES, ends, strict=True):
        if rows:
            arrow = f"M64 {y - 14} v10 m-5 -5 l5 5 l5 -5"
            rows.append(f'<path d="{arrow}" stroke="#555" fill="none" stroke-width="2"/>')
        lines = [text for text in (what, end) if text]
        height = 32 + 18 * len(lines)
        rows.append(f'<rect x="24" y="{y}" width="{_WIDTH}" height="{height}" rx="5" fill="{color}"/>')
        rows.append(f'<text x="36" y="{y + 21}" font-weight="bold">{escape(name)}</text>')
        for n, text in enumerate(lines):
            rows.append(f'<text x="36" y="{y + 41 + 18 * n}">{escape(text)}</text>')
        y += height + 18
    body = "\n".join(['<rect width="100%" height="100%" fill="#fff"/>', *rows])
    size = f"0 0 {_WIDTH + 48} {y}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif"'
    return f'{head} font-size="14" fill="#fff">\n{body}\n</svg>\n'


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
