"""What is told of a cluster in Prefect, as texts."""

import base64
import xml.etree.ElementTree as ET
from datetime import datetime, timezone

import pytest
from pydantic import SecretStr

from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import NoCapacityError, ProvisionError
from prefect_coiled.events import Event, story
from prefect_coiled.events.links import log_group_url
from prefect_coiled.records import ClusterRecord, InstanceRecord, Removal


def plan(**keywords):
    account = Account("team", credentials=CredentialSource("a", SecretStr("b")))
    request = Request({}, **{"n_workers": 20, "name": "c", **keywords})
    return request.spec(account, "tester", own_cidr=lambda: "192.0.2.7/32")


def record(**changes):
    scheduler = InstanceRecord(
        instance_id="i-0",
        role="scheduler",
        instance_type="m6i.xlarge",
        zone="us-east-1a",
        public_ip="192.0.2.1",
    )
    worker = InstanceRecord(
        instance_id="i-1", role="worker", instance_type="m6i.large", zone="us-east-1a", spot=True
    )
    fields = {
        "name": "c",
        "uid": "u",
        "account": "team",
        "region": "us-east-1",
        "zone": "us-east-1a",
        "created_at": datetime(2026, 1, 31, tzinfo=timezone.utc),
        "creator": "tester",
        "scheduler": scheduler,
        "workers": (worker,),
        "scheduler_port": 8786,
        "dashboard_port": 8787,
        "use_public_ip": True,
        "log_group": "team",
    }
    return ClusterRecord(**{**fields, **changes})


def line():
    made = story.Timeline()
    told = [("network", 0.5), ("role", 2.0), ("image", 2.1), ("instances", 3.0), ("log streams", 4.0)]
    for step, at in [*told, ("scheduler", 9.0), ("workers", 9.5), ("workers", 12.0)]:
        made.hear(Event("step", step=step), at)
    return made


def test_a_launch_is_named_by_count_type_and_market():
    assert story.launch_name(plan(worker_vm_types="m6i.large", spot=True), "worker", 20) == (
        "20 x m6i.large spot"
    )
    assert story.launch_name(plan(worker_vm_types="m6i.large"), "worker", 3) == "3 x m6i.large on demand"
    assert story.launch_name(plan(scheduler_vm_types="m6i.large", spot=True), "scheduler", 1) == (
        "scheduler m6i.large on demand"
    )


def test_phases_follow_from_what_is_told():
    made = line()
    for kind, step, at in [
        ("cluster_ready", "", 12.5),
        ("step", "workers", 40.0),  # one that joins later is part of the work
        ("leaving", "", 100.0),
        ("step", "removed", 104.0),
    ]:
        made.hear(Event(kind, step=step), at)
    assert [(p.name, p.begin, p.end) for p in made.phases] == [
        ("account", 0.0, 2.0),
        ("preparation", 2.1, 2.1),
        ("launch", 3.0, 4.0),
        ("scheduler boots", 4.0, 9.0),
        ("workers boot", 4.0, 12.0),
        ("work", 12.5, 100.0),
        ("removal", 100.0, 104.0),
    ]


def test_the_picture_is_svg_with_a_bar_and_a_label_a_phase():
    phases = line().phases
    root = ET.fromstring(story.picture(phases))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {p.name for p in phases} <= set(texts)
    assert "8.0 s" in texts
    uri = story.as_data_uri(story.picture(phases))
    assert ET.fromstring(base64.b64decode(uri.partition("base64,")[2])).tag == root.tag
    assert len(uri) < 5_000
    assert ET.fromstring(story.picture(())).tag == root.tag


def test_a_failure_says_what_failed_why_and_what_to_do_next():
    error = NoCapacityError(
        "launching 20 workers", "0 came up", "Allow more zones.", operation="ec2:RunInstances", code="ICE"
    )
    text = story.failure(plan(), error, line().phases, Removal(removed={"instance": ("i-0",)}))
    for part in (
        "# Cluster c did not come up",
        "**What failed:** launching 20 workers",
        "**Why:** 0 came up",
        "**What to do next:** Allow more zones.",
        "ec2:RunInstances, ICE",
        "## Removed again\n\n- instance: i-0",
        "prefect-coiled logs c --account team --region us-east-1",
        "| scheduler boots |",
    ):
        assert part in text
    other = story.failure(plan(), ValueError("two\nlines"), ())
    assert "**Why:** ValueError: two lines" in other
    assert "**What to do next:** Read the log" in other


@pytest.mark.parametrize(
    ("removal", "said"),
    [
        (Removal(removed={"instance": ("i-0", "i-1")}, left={"sg-1": "in use"}), "- instance: i-0, i-1"),
        (Removal(left={"sg-1": "in use"}), "- left for `prefect-coiled sweep`: sg-1 (in use)"),
        (None, "left running"),
    ],
)
def test_the_summary_has_workers_time_line_cost_and_what_was_removed(removal, said):
    text = story.summary(
        plan(),
        record(),
        line().phases,
        joined=1,
        cost="a: $1.00\nTotal: $1.00\nList prices.",
        removal=removal,
    )
    for part in ("1 x m6i.large spot", "| joined | 1 of 1 |", "| launch |", "- Total: $1.00", said):
        assert part in text


def test_links_hold_no_token_and_name_the_log_group():
    assert story.dashboard_address(record()) == "https://192.0.2.1:8787/status"
    link = log_group_url("eu-west-1", "/my/team")
    assert link.startswith("https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#")
    assert link.endswith("/log-group/$252Fmy$252Fteam")


def test_an_errors_own_diagnosis_is_taken_as_it_is():
    error = ProvisionError("naming", "taken", "Choose another.")
    assert story.diagnosis_of(error) == error.diagnosis
