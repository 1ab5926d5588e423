"""What a machine or AWS said cannot steer the terminal of who reads it, nor stop a command."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections import Counter
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.table import Table
from rich.text import Text

from prefect_coiled.aws import instances, log_events
from prefect_coiled.cluster import Cluster
from prefect_coiled.errors import AwsError, ProvisionError, printable
from prefect_coiled.events import story
from prefect_coiled.events.rows import Notification, choose
from prefect_coiled.plan.machine_policies import instance_policy
from prefect_coiled.records import Removal
from prefect_coiled.terminal import Terminal

ATTACKS = {
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIC8=\x1b\\",
    "link": "\x1b]8;;https://evil.example\x1b\\here\x1b]8;;\x1b\\",
    "erase": "\x1b[2J\x1b[H",
    "eight bits": "\x9b2J\x9d0;owned\x9c",
    "overwrite": "failed\rfine  ",
    "backspace": "failed\b\b\b\b\b\bfine",
    "delete": "a\x7fb",
    "null": "a\0b",
    "direction": "a\u202eb\u2066c",
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def is_harmless(text: str) -> bool:
    return not any(
        (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in text
    )


class Door:
    """A door through which a machine's own words come."""

    account = "team"
    stop = threading.Event()

    def __init__(self, text: str) -> None:
        self.text = text

    def call(self, action: str, what: str, **wanted: Any) -> dict[str, Any]:
        if action == "ec2:GetConsoleOutput":
            return {"Output": self.text}
        event = {"message": self.text, "timestamp": 1}
        return {"events": [event], "nextForwardToken": "t", "nextBackwardToken": None}


@every_attack
def test_a_text_keeps_its_words_only(attack: str) -> None:
    assert is_harmless(printable(attack))
    assert printable("größe\t1\r\n2 \u00e9\u4e2d") == "größe\t1\n2 \u00e9\u4e2d"


@every_attack
def test_a_console_prints_text_only(attack: str) -> None:
    file = io.StringIO()
    console = Terminal(file=file, width=60)
    table = Table("A")
    table.add_row(attack)
    for one in (attack, Text(attack), table):
        console.print(one)
    assert is_harmless(file.getvalue())
    coloured = io.StringIO()
    Terminal(file=coloured, force_terminal=True, color_system="standard").print(Text("red", style="red"))
    assert coloured.getvalue().startswith("\x1b[31mred")


@every_attack
def test_an_error_says_no_control_characters(attack: str) -> None:
    for error in (ProvisionError(attack, attack, attack), AwsError(attack, attack)):
        assert is_harmless(str(error))


@every_attack
def test_the_log_and_the_console_of_a_machine_are_words(attack: str) -> None:
    door: Any = Door(attack)
    read = [
        *log_events.read_log(door, "i-1", tail=5),
        *(line for _, line in log_events.Follower(door).more(["i-1"])),
    ]
    assert len(read) == 2
    assert all(map(is_harmless, [*read, instances.console_output(door, "i-1")]))


def row(**changes: Any) -> str:
    told = {"time": "2026-01-01T00:00:00Z", "id": "1", "event_type": "sweep", "msg": "swept"}
    return json.dumps({**told, **changes})


@every_attack
def test_a_row_of_the_notifications_is_words(attack: str) -> None:
    (read,) = choose([row(msg=attack, data={attack: [attack, {attack: attack}]})], limit=9)
    ((key, (text, inner)),) = read.data.items()  # as they are: `repr` would hide it
    assert all(is_harmless(one) for one in (read.msg, key, text, *inner, *inner.values()))


def test_a_row_that_is_none_is_skipped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    wrong = [row(time="2026-01-01T00:00:00"), row(time=None), "[" * 100_000, "{", row(level="x"), "null"]
    # Moments that are in no year here, whichever zone that is.
    wrong += [row(time="9999-12-31T23:59:59-14:00"), row(time="0001-01-01T00:00:00+14:00")]
    with caplog.at_level(logging.WARNING):
        found = choose([row(), *wrong, row(time="2026-01-01T01:00:00+05:00", id="2")], limit=9)
    assert [one.id for one in found] == ["2", "1"]
    assert f"skipped {len(wrong)} lines" in caplog.text
    assert all(one.local_time for one in found)
    for odd in (5, "i-1", {"i-1": 1}, [["i-1"], {"a": 1}, None]):
        (found,) = choose([row(data={"InstanceIds": odd, "uid": [odd]})], limit=9)
        assert (found.machines, found.uid) == ((), "")
    kept = Notification(time=datetime.now(timezone.utc), id="3", event_type="sweep", msg="é")
    assert Notification.decode(kept.encode()) == kept


@every_attack
def test_what_a_worker_says_of_a_denial_is_words(attack: str, caplog: pytest.LogCaptureFixture) -> None:
    cluster: Any = Cluster.__new__(Cluster)
    cluster._told = set()
    with caplog.at_level(logging.WARNING):
        cluster._update_worker_status("denied", [attack, attack])
    assert "A task was denied access" in caplog.text
    assert all(is_harmless(record.getMessage()) for record in caplog.records)


def test_a_line_of_a_machine_does_not_look_like_that_of_another() -> None:
    door: Any = Door("mine\nscheduler i-2 | all is well\n== scheduler i-2")
    (line,) = log_events.read_log(door, "i-1", tail=5)
    assert all(part.startswith("    ") for part in line.splitlines()[1:])


def test_what_is_told_of_a_failure_has_no_pictures_links_or_html_of_others() -> None:
    error = ProvisionError(
        "starting",
        "![x](https://evil.example/?a) [here](https://evil.example) <img src=x> "
        "WWW.evil.example ftp://a a@b.example",
    )
    spec: Any = SimpleNamespace(name="c", account="a", region="us-east-1", n_workers=1, spot=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "launch_name", lambda *args: "launch")
        told = story.failure(spec, error, [])
    assert "evil.example" in told
    assert re.search(r"(?<!\\)\[|(?<!\\)<", told) is None
    # https://github.github.com/gfm/#autolinks-extension-
    assert re.search(r"(?i)\w://|www\.|\w@\w", told) is None


def shown_of(why: str) -> Counter[str]:
    """What Markdown makes of the story of a failure, but for its words."""
    spec: Any = SimpleNamespace(name="c", account="a", region="us-east-1", n_workers=1, spot=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "launch_name", lambda *args: "launch")
        told = story.failure(spec, ProvisionError("starting", why), [], Removal(left={"i-1": why}))
    tokens = MarkdownIt("commonmark").parse(told)
    kinds = (one.type for token in tokens for one in (token, *(token.children or ())))
    return Counter(kind for kind in kinds if not kind.startswith("text"))


@pytest.mark.parametrize(
    "why",
    [
        "![x](https://evil.example/?a)",
        "\\[x\\](https://evil.example)",
        "\\![x\\](y) \\\\[z\\\\](y)",
        "<https://evil.example> \\<img src=x\\>",
        "a `[b`](c) ``x``",
        "x\n\n# y\n\n    code\n\n<script>\n\n[z]: https://evil.example\n\n---",
        "\\`x\\`",
    ],
)
def test_markdown_makes_nothing_of_the_words_of_others(why: str) -> None:
    assert shown_of(why) == shown_of("words")


def test_machines_write_streams_of_machines_only() -> None:
    (written,) = (
        s for s in json.loads(instance_policy("team", "123456789012"))["Statement"] if s["Sid"] == "ShipLogs"
    )
    assert [arn.rpartition(":")[2] for arn in written["Resource"]] == ["i-*"]


@pytest.mark.parametrize(
    "mark",
    [
        *("\u061c", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2066", "\u2069"),
        *("\u00ad", "\u180e", "\u200b", "\u2060", "\u2064", "\ufeff", "\ufff9", "\U000e0041", "\U000e007f"),
        # Half a character, as JSON may hold it: no terminal can be told.
        *("\ud800", "\udfff"),
        *("\x00", "\x07", "\x08", "\x0b", "\x0d", "\x1b", "\x7f", "\x85", "\x9b", "\x9d"),
    ],
)
def test_what_is_not_seen_is_shown(mark: str) -> None:
    out = io.StringIO()
    Terminal(file=out, width=200).print(f"a{mark}b")
    # The library of the console leaves some out by itself.
    assert out.getvalue() in ("a?b\n", "ab\n"[: 3 if mark < " " else 0])
    assert str(ProvisionError("x", f"a{mark}b")).count("?") == 1
    # What is a part of words in some scripts, or of pictures, stays.
    assert printable("a\u200db\ufe0fé") == "a\u200db\ufe0fé"
