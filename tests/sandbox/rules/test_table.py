"""The table is whole: each rule has its page and its case, and the documents show it as it is."""

from __future__ import annotations

import runpy
from pathlib import Path

from prefect_coiled.sandbox.rules.table import rows

from . import (
    test_ec2_groups,
    test_ec2_launch,
    test_ec2_lists,
    test_ec2_network,
    test_ec2_routes,
    test_ecr,
    test_iam,
    test_logs,
    test_s3,
    test_ssm,
)
from .here import STORIES

ROOT = Path(__file__).parents[3]
ALL = (
    test_ec2_groups,
    test_ec2_launch,
    test_ec2_lists,
    test_ec2_network,
    test_ec2_routes,
    test_ecr,
    test_iam,
    test_logs,
    test_s3,
    test_ssm,
)


def test_every_rule_has_a_source_and_a_case() -> None:
    told = {case[0] for module in ALL for case in module.CASES} | STORIES
    known = list(rows())
    assert {row.name for row in known if row.when == "always"} == told
    assert all(row.source.startswith("https://docs.aws.amazon.com/") for row in known)


def test_the_page_of_what_was_checked_has_every_call_with_its_rules() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_calls_table.py"))
    page: str = script["page"]()
    assert page == (ROOT / "docs" / "checked.md").read_text(encoding="utf-8"), (
        "run scripts/write_calls_table.py and look at what has changed"
    )


def test_the_page_shows_the_table_as_it_is() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_rules_table.py"))
    page: str = script["page"]()
    assert page == (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8"), (
        "run scripts/write_rules_table.py and look at what has changed"
    )
