"""Tags: what EC2 takes, and what is made of it for services that take less."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import botocore.session
import pytest

from prefect_coiled.aws import instances
from prefect_coiled.aws.kinds import KINDS, find
from prefect_coiled.aws.tagged import find_tagged
from prefect_coiled.errors import OptionsError
from prefect_coiled.plan import tags
from prefect_coiled.plan.kinds import Scope

# What EC2 takes, and some other services do not.
ODD = {
    "team": "R&D",
    "cost (center)": "42",
    "cost [center]": "43",
    "mail": "Jane Doe <jane@example.org>, CFO; 100% #1 'x' \"y\"",
    "umlaut Ü": "naïve ½ Ⅷ 東京",
    "e\u0301": "combined e\u0301",
    "emoji 🚀": "🚀",
    "tab\t": "line\nline",
    "empty": "",
    "k" * 127: "v" * 256,
    " ": " ",
}


class Unasked:
    """A door by which nothing may be asked."""

    account, region = "team", "us-east-1"

    def call(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("AWS was asked")

    pages = call


@pytest.mark.parametrize("name", ["*", "?", "a*", "a?c", "\\*", "", " ", "a/b", "../other", "a\n"])
def test_a_name_that_would_mean_several_clusters_is_refused_before_anything_is_asked(name: str) -> None:
    door: Any = Unasked()
    for look in (
        lambda: list(instances.find_instances(door, name)),
        lambda: list(find_tagged(door, "ec2:DescribeVolumes", "Volumes", Scope(name))),
        lambda: list(find(door, KINDS["parameter"], Scope(name))),
    ):
        with pytest.raises(OptionsError, match="is no name of one cluster"):
            look()


def taken(service: str, shape: str, text: str) -> bool:
    """Whether botocore's model of a service says that it takes a key or a value."""
    wanted = botocore.session.get_session().get_service_model(service).shape_for(shape).metadata
    # Python's `re` knows no Unicode categories; the models use these three alone.
    assert set(re.findall(r"\\p\{(\w)\}", wanted["pattern"])) == {"L", "Z", "N"}
    rest = re.sub(r"\\p\{\w\}", "", wanted["pattern"])
    assert re.search(r"\[_\.:/=\+\\-@\]", rest)
    fits = all(c in "_.:/=+-@" or unicodedata.category(c)[0] in "LZN" for c in text)
    return fits and wanted.get("min", 0) <= len(text) <= wanted["max"]


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("ssm", "TagKey", "TagValue"), ("logs", "TagKey", "TagValue"), ("iam", "tagKeyType", "tagValueType")],
)
def test_what_ec2_takes_becomes_what_the_others_take(service: str, key: str, value: str) -> None:
    made = tags.plain(tags.check_user_tags(ODD))
    assert all(taken(service, key, k) and taken(service, value, v) for k, v in made.items())


def test_a_tag_that_everybody_takes_stays_as_it_is() -> None:
    labels = tags.named(tags.account_tags("team", cluster="a", creator="jane@example.org"), "coiled-a")
    assert tags.plain(labels | {"Kosten stelle": "a/b=c+1"}) == labels | {"Kosten stelle": "a/b=c+1"}


def test_no_tag_takes_the_place_of_another() -> None:
    assert tags.plain({"a&b": "1", "a_b": "2", "a#b": "3"}) == {"a_b": "2"}
    assert tags.plain({"coiled-account": "team", "coiled-account!": "x"})["coiled-account"] == "team"


@pytest.mark.parametrize("text", ["\0", "\x1b[0m", "\x7f\x01", "\ud800", "\ufffe"])
def test_what_no_answer_of_ec2_could_hold_is_refused(text: str) -> None:
    for given in ({"a" + text: "b"}, {"a": "b" + text}):
        with pytest.raises(OptionsError, match="printed"):
            tags.check_user_tags(given)


@pytest.mark.parametrize("key", ["owner", "Coiled-Account", "coiled-Cluster-UID", "aws:x", "AWS:x", "Name"])
def test_a_key_that_policies_take_for_one_of_ours_is_refused(key: str) -> None:
    with pytest.raises(OptionsError, match="reserved"):
        tags.check_user_tags({key: "alice"})
    theirs = {"name": "a", "Owner": "b"}
    assert tags.check_user_tags(theirs) == theirs
