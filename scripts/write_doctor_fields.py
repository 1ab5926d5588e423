"""Write `prefect_coiled/doctor_fields.json` anew: the fields that the sandbox answers with, by action.

    .venv/bin/python scripts/write_doctor_fields.py

`prefect-coiled doctor` compares AWS's answers with them.
"""

from __future__ import annotations

import json
from pathlib import Path

from prefect_coiled.aws.door import Report, watch_calls
from prefect_coiled.blocks import load_account
from prefect_coiled.doctor import examine, fields_of
from prefect_coiled.sandbox import Sandbox, control

TARGET = Path(__file__).parent.parent / "prefect_coiled" / "doctor_fields.json"


def main() -> None:
    """Live through the doctor's examination in a sandbox of its own."""
    found: dict[str, set[str]] = {}

    def note(report: Report) -> None:
        if report.error is None:
            found.setdefault(report.action, set()).update(fields_of(report.reply))

    with Sandbox() as sandbox:
        control.ensure_started = lambda: sandbox.info
        with watch_calls(note):
            examined = examine(load_account(None), tell=print)
    assert examined.ok, examined
    TARGET.write_text(json.dumps({a: sorted(f) for a, f in sorted(found.items())}, indent=1) + "\n")
    print(f"{len(found)} actions in {TARGET}")


if __name__ == "__main__":
    main()
