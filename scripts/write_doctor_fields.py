"""Write `prefect_coiled/doctor_fields.json` anew: the fields that the sandbox answers with, by action.

    .venv/bin/python scripts/write_doctor_fields.py

`prefect-coiled doctor` compares AWS's answers with them. It lives in an account in use, in one with a NAT
gateway, in a new one with AWS's times, and in one whose region is not validated yet, where no machine comes:
"always" is what each of these is answered with, "at_times" what some are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect_coiled.blocks import load_account
from prefect_coiled.doctor import examine, fields_of
from prefect_coiled.events import EVERYWHERE, Event
from prefect_coiled.provision import set_up_account
from prefect_coiled.sandbox import Sandbox, control
from prefect_coiled.tasks.steps import Session, use_session

TARGET = Path(__file__).parent.parent / "prefect_coiled" / "doctor_fields.json"
_NEW = {"profile": "realistic", "account": "fresh"}
# An account whose clusters before had a NAT gateway.
_WITH_NAT: dict[str, Any] = {"nat_pending": 0.1}
# By whether a cluster comes up there.
LIVES: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    (_WITH_NAT, True),
    ({**_NEW, "validation": 0.0}, True),
    ({**_NEW, "validation": 3600.0}, False),
]


def main() -> None:
    """Live through the doctor's examination in a sandbox of its own for each kind of account."""
    lives = [_live(settings, comes_up) for settings, comes_up in LIVES]
    found: dict[str, dict[str, list[str]]] = {}
    for action in sorted({action for life in lives for action in life}):
        answers = [life[action] for life in lives if action in life]
        some = set.union(*answers)
        # A list that was empty says nothing of what it would hold.
        parents = {one.rpartition(".")[0] for one in some}
        shown = {
            parent: [a for a in answers if not parent or any(one.rpartition(".")[0] == parent for one in a)]
            for parent in parents
        }
        always = {one for one in some if all(one in a for a in shown[one.rpartition(".")[0]])}
        found[action] = {"always": sorted(always), "at_times": sorted(some - always)}
    TARGET.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} actions in {TARGET}")


def _live(settings: dict[str, Any], comes_up: bool) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}

    def note(event: Event) -> None:
        if event.kind == "reply" and event.error is None:
            found.setdefault(event.action, set()).update(fields_of(event.reply))
        elif event.kind == "examination":
            print(event.step, event.text)

    with Sandbox(settings) as sandbox:
        control.ensure_started = lambda: sandbox.info
        if settings is _WITH_NAT:
            account = load_account(None)
            with use_session(Session(account.door("us-east-1"))):
                set_up_account(account.slug, "us-east-1", every_zone=False)
        EVERYWHERE.subscribe(note)
        try:
            examined = examine(load_account(None))
        finally:
            EVERYWHERE.unsubscribe(note)
    assert examined.ok is comes_up, examined
    return found


if __name__ == "__main__":
    main()
