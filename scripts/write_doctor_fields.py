"""Write `prefect_coiled/doctor_fields.json` anew: the fields that the sandbox answers with, by action.

    .venv/bin/python scripts/write_doctor_fields.py

`prefect-coiled doctor` compares AWS's answers with them.
"""

from __future__ import annotations

import json
from pathlib import Path

from prefect_coiled.blocks import load_account
from prefect_coiled.doctor import examine, fields_of
from prefect_coiled.events import EVERYWHERE, Event
from prefect_coiled.sandbox import Sandbox, control

TARGET = Path(__file__).parent.parent / "prefect_coiled" / "doctor_fields.json"


def main() -> None:
    """Live through the doctor's examination in a sandbox of its own."""
    found: dict[str, set[str]] = {}

    def note(event: Event) -> None:
        if event.kind == "reply" and event.error is None:
            found.setdefault(event.action, set()).update(fields_of(event.reply))
        elif event.kind == "examination":
            print(event.step, event.text)

    with Sandbox() as sandbox:
        control.ensure_started = lambda: sandbox.info
        EVERYWHERE.subscribe(note)
        examined = examine(load_account(None))
    assert examined.ok, examined
    TARGET.write_text(json.dumps({a: sorted(f) for a, f in sorted(found.items())}, indent=1) + "\n")
    print(f"{len(found)} actions in {TARGET}")


if __name__ == "__main__":
    main()
