"""What AWS refuses, as a table: each rule with its code and the page that it comes from.

    table        the rows
    asked        a call in the API's own parameters, from the wire by botocore's model
    models       what the models hold: required members, lengths, ranges, patterns, enumerations
    ec2_lists, ec2_launch, ec2_network, ec2_routes, ec2_groups, ec2_templates     what no model holds of EC2's
    iam, logs, ssm, ecr, s3     what no model holds of the others'
    fresh        what an account may not have yet: spot's role, vCPUs, types, a region
    times        what needs time on AWS
    rates        how often a call may be made
    judge        the place of all this in the chain

`docs/sandbox.md` shows the table. A new rule is a function with `@rule` in one of the modules, and a case in
`tests/sandbox/rules`; a test holds that each has one.
"""

from __future__ import annotations

import importlib

__all__ = ["load"]

_MODULES = (
    "models",
    "ec2_lists",
    "ec2_launch",
    "ec2_network",
    "ec2_routes",
    "ec2_groups",
    "ec2_templates",
    "iam",
    "logs",
    "ssm",
    "ecr",
    "s3",
    "fresh",
    "times",
    "rates",
)


def load() -> None:
    """Import all modules that put rows into the table."""
    for name in _MODULES:
        importlib.import_module(f"{__name__}.{name}")
