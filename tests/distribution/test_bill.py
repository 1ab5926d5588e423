"""What is shipped is told, and what is locked is compared with advisories, without the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        env={**os.environ, "ADVISORIES": "", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def locked(name: str) -> str:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{name}=="))


def advisory(name: str, events: list[dict[str, str]], **told: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": "PyPI", "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    return {"id": "TEST-1", "aliases": ["CVE-1"], "summary": "It opens.", "affected": [affected], **told}


def test_the_bill_names_all_that_is_needed_with_hashes_licences_and_what_needs_what(tmp_path: Path) -> None:
    done = run("write_sbom.py", str(tmp_path / "bill.json"))
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "bill.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    parts = {one["name"]: one for one in bill["components"]}
    assert parts["boto3"]["version"] == locked("boto3")
    assert parts["boto3"]["purl"] == f"pkg:pypi/boto3@{locked('boto3')}"
    assert all(one["hashes"] for one in parts.values())
    assert parts["boto3"]["licenses"]
    # Of the extras too, and nothing of what only developers need.
    assert {"moto", "pyarrow", "prefect", "distributed"} <= set(parts)
    assert not {"pytest", "ruff", "mypy", "cyclonedx-python-lib"} & set(parts)
    direct = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    root = bill["metadata"]["component"]
    assert root["name"] == "prefect-dask-ec2"
    assert parts["boto3"]["bom-ref"] in direct[root["bom-ref"]]
    assert parts["botocore"]["bom-ref"] in direct[parts["boto3"]["bom-ref"]]


@pytest.mark.parametrize(
    ("name", "events", "told", "found"),
    [
        ("boto3", [{"introduced": "0"}], {}, True),
        ("Boto3", [{"introduced": "0"}, {"fixed": "1.0"}], {}, False),
        ("boto3", [{"introduced": "0"}, {"fixed": "999"}], {}, True),
        ("boto3", [{"introduced": "0"}, {"fixed": "0.1"}, {"introduced": "1.2"}], {}, True),
        ("boto3", [{"introduced": "0"}, {"last_affected": "1.2"}], {}, False),
        ("boto3", [{"introduced": "0"}], {"withdrawn": "2026-01-01T00:00:00Z"}, False),
        ("not-in-the-lock", [{"introduced": "0"}], {}, False),
    ],
)
def test_an_advisory_about_a_locked_version_is_found(
    tmp_path: Path, name: str, events: list[dict[str, str]], told: dict[str, Any], found: bool
) -> None:
    record = advisory(name, events, **told)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.yaml").write_text(yaml.safe_dump(record))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("TEST-1.json", json.dumps(record))
    for place in ("folder", "all.zip"):
        done = run("scan_lock.py", ADVISORIES=str(tmp_path / place))
        assert done.returncode == int(found), done.stderr
        assert (f"boto3 {locked('boto3')}: TEST-1 CVE-1 It opens." in done.stdout) is found


def test_without_a_database_nothing_is_scanned_and_that_is_said() -> None:
    done = run("scan_lock.py")
    assert (done.returncode, "not scanned" in done.stdout) == (0, True)
    missing = run("scan_lock.py", ADVISORIES="/nowhere/at/all")
    assert missing.returncode == 1
    assert "there is no /nowhere/at/all" in missing.stderr
