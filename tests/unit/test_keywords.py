"""The one table of keywords: what each takes, from wherever it comes, and what is said of the rest."""

from __future__ import annotations

import inspect
import math
import re
import threading
from pathlib import Path
from typing import Any

import dask.config
import distributed
import numpy as np
import pytest
from distributed.deploy.cluster import Cluster as DaskCluster

from prefect_coiled import (
    Cluster,
    ClusterSettings,
    CoiledTaskRunner,
    Ec2DaskAccount,
    cluster_logs,
    get_notifications,
    iam_policies,
    load_account,
    set_backend_options,
)
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import elsewhere
from prefect_coiled.options.file import cluster_defaults
from prefect_coiled.options.keywords import (
    KEYWORDS,
    ClusterOptions,
    Keyword,
    defaults,
    from_variables,
    taken,
)
from prefect_coiled.saved_accounts import reset_account


class Rude:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("two\nlines")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    __hash__ = None  # type: ignore[assignment]


SECRET = "hunter2"
ANY: list[Any] = [
    None, True, False, 0, 1, -1, 5, 2**70, 0.5, 1.0, 2.5, -0.5, math.nan, math.inf, "", " ", "two", "no",
    "off", "1", "1.10", "None", SECRET, "line\nbreak", "x" * 10_000, b"bytes", [], [1], [4, 8], ["a"], [None],
    (), {}, {"a": "b"}, {"a": 1}, {1: 2}, {"a": SECRET}, {"a": Rude()}, {"x"}, object(), Rude(), print,
    np.int64(1), np.float32(1.0), np.bool_(True), np.str_("a"), np.array([4, 8]), np.float64("nan"),
    Path("x"), threading.Event(),
]  # fmt: skip
TEXTS = ["", "two", "no", "-3", "[1, {]", "[1]", "{}", "null", "NaN", SECRET, '{"a": {"b": 1}}']
TABLE = list(KEYWORDS.values())


def assert_told(error: OptionsError, one: Keyword, name: str) -> None:
    """On one line that names the keyword, and shows no value that may be a secret."""
    line = str(error)
    assert "\n" not in line
    # A backend option is told by its own name.
    assert (name if name != "backend_options" else "option") in line
    assert len(line) < 800
    assert not one.secret or SECRET not in line


def by_name(one: Keyword) -> str:
    return one.name


@pytest.mark.parametrize("one", TABLE, ids=by_name)
def test_a_keyword_takes_any_value_or_says_in_one_line_what_it_is(one: Keyword) -> None:
    for value in ANY:
        try:
            Request({}, **{one.name: value})  # type: ignore[typeddict-item]
        except OptionsError as error:
            assert_told(error, one, one.name)


@pytest.mark.parametrize("one", [k for k in TABLE if k.place], ids=by_name)
def test_a_variable_is_read_or_refused_by_its_name(one: Keyword) -> None:
    for text in TEXTS:
        try:
            held = from_variables({one.variable: text})
        except OptionsError as error:
            assert_told(error, one, one.variable)
        else:
            assert set(held) <= {one.name}
            assert taken(held) == held, "what was read once is meant the same again"


@pytest.mark.parametrize("one", [k for k in TABLE if k.place and not k.option], ids=by_name)
def test_a_file_is_read_or_refused_by_its_place(one: Keyword) -> None:
    for value in ANY:
        inner: Any = value
        for part in reversed(one.place):
            inner = {part.replace("_", "-"): inner}
        try:
            Request({"coiled": inner})
        except OptionsError as error:
            assert_told(error, one, one.name)


FLAGS = [k for k in TABLE if k.kind.words == "true or false"]


@pytest.mark.parametrize("one", FLAGS, ids=by_name)
def test_yes_and_no_are_read_as_prefects_settings_read_them_and_never_by_truthiness(one: Keyword) -> None:
    yes, no = ("true", "1", "yes", "on", "t", "y"), ("false", "0", "no", "off", "f", "n")
    for word, meant in [*((w, True) for w in yes), *((w, False) for w in no)]:
        for text in (word, word.upper(), word.title(), f" {word} "):
            assert one.take(text) is meant
            if one.place:
                assert from_variables({one.variable: text}) == {one.name: meant}
    for other in ("maybe", "2", "nope", "[]", 2, 0.5, [], {}, object()):
        with pytest.raises(OptionsError, match=f"{one.name} .*true or false"):
            one.take(other)


def test_a_text_that_says_no_opens_nothing_and_keeps_the_cluster() -> None:
    request = Request({}, allow_ssh="False", shutdown_on_close="no")  # type: ignore[typeddict-item]
    assert (request.held["allow_ssh"], request.closes) == (False, False)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("memory_limit", 4e9, "4000000000"),
        ("memory_limit", 2**32, "4294967296"),
        ("memory_limit", np.int64(2**32), "4294967296"),
        ("memory_limit", "4GiB", "4294967296"),
        ("memory_limit", 0, "0"),
        ("memory_limit", "0", "0"),
        ("memory_limit", 0.5, "0.5"),
        ("memory_limit", "0.5", "0.5"),
        ("memory_limit", "auto", "auto"),
        ("nthreads", np.int64(2), 2),
        ("n_workers", 2.0, 2),
        ("n_workers", np.float32(2), 2),
        ("worker_cpu", np.array([4, 8]), (4, 8)),
        ("worker_vm_types", np.str_("m6i.large"), ("m6i.large",)),
        ("tags", {"a": np.str_("b")}, {"a": "b"}),
        ("idle_timeout", None, None),
        ("idle_timeout", "never", None),
        ("timeout", "20 minutes", 1200.0),
        ("software", Path("x.txt"), "x.txt"),
        ("wait_for_workers", "yes", True),
        ("wait_for_workers", 1, 1),
    ],
)
def test_a_value_is_taken_as_it_is_meant(name: str, value: Any, meant: Any) -> None:
    found = taken({name: value})[name]
    assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_a_blank_account_is_refused_and_never_the_default_one(blank: str) -> None:
    for ask in (
        lambda: Cluster(account=blank),
        lambda: CoiledTaskRunner(account=blank),
        lambda: load_account(blank),
        lambda: get_notifications(account=blank),
        lambda: set_backend_options(blank),
        lambda: reset_account(blank),
        lambda: cluster_logs("my-cluster", blank),
    ):
        with pytest.raises(OptionsError, match="is blank"):
            ask()


def test_a_blank_text_does_not_stand_for_credentials_or_a_region_that_were_not_given() -> None:
    for name in ("profile", "role_arn", "external_id", "aws_access_key_id", "aws_secret_access_key"):
        with pytest.raises(OptionsError, match=f"{name} '': is blank"):
            set_backend_options("spare", **{name: ""})  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match="region '': is blank"):
        Account("spare").door("")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"host_setup_script_content": "x" * 70_000},
            "(str, not shown): it has 70000 characters, and may have 65536",
        ),
        ({"container": "x" * 600}, "it has 600 characters, and may have 512"),
        ({"host_setup_script_content": "a\0b"}, "(str, not shown): it holds a NUL character"),
        ({"host_setup_script": "a\0b"}, "it holds a NUL character"),
        ({"environ": {"A": f"{SECRET}\0y"}}, "environ (dict, not shown): it holds a NUL character"),
        ({"tags": {"A": "x\0y"}}, "it holds a NUL character"),
        ({"worker_class": "a\0b"}, "it holds a NUL character"),
        ({"cluster_timeout": "1e30 days"}, "it is more than ten years"),
        ({"timeout": 1e12}, "it is more than ten years"),
    ],
)
def test_what_is_wrong_with_a_value_of_the_right_kind_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionsError, match=re.escape(said)) as told:
        taken(given)
    assert SECRET not in str(told.value)


def test_a_nul_character_is_refused_in_a_scripts_file_and_in_a_variable_of_workers(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\necho \0\n")
    with pytest.raises(OptionsError, match=r"host_setup_script .*script\.sh': is no text: it holds a NUL"):
        Request(defaults={}, host_setup_script=str(script))
    with pytest.raises(OptionsError, match=r"environ\['TOKEN'\]: it holds a NUL character") as told:
        Request(defaults={}, worker_options={"env": {"TOKEN": f"{SECRET}\0"}})
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: CoiledTaskRunner(3), "cluster 3: it has to be a Dask cluster."),  # type: ignore[arg-type]
        (lambda: CoiledTaskRunner("tls://a:1"), "An address is given by its name"),  # type: ignore[arg-type]
        (lambda: CoiledTaskRunner(address=3), "address 3: it has to be the address of a scheduler"),  # type: ignore[arg-type]
        (lambda: CoiledTaskRunner(address=""), "address '': it has to be the address of a scheduler"),
        (lambda: cluster_logs(5), "cluster 5: it has to be the name of one"),  # type: ignore[arg-type]
        (lambda: iam_policies(account=5), "account 5: must be of lower-case"),  # type: ignore[arg-type]
        (lambda: iam_policies(aws_account_id=5), "aws_account_id 5: must have 12 digits"),  # type: ignore[arg-type]
        (
            lambda: set_backend_options("a", aws_access_key_id=5),
            "aws_access_key_id (int, not shown): it has to be a",
        ),  # type: ignore[arg-type]
        (
            lambda: set_backend_options("a", registry_access_token=5),
            "registry_access_token (int, not shown): it",
        ),  # type: ignore[arg-type]
        (
            lambda: set_backend_options("a", endpoint_url=5),
            "endpoint_url (int, not shown): it has to be a text",
        ),  # type: ignore[arg-type]
        (lambda: set_backend_options("a", tags=5), "tags 5: it has to be a mapping of texts"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(ask: Any, said: str) -> None:
    with pytest.raises(OptionsError, match=re.escape(said)) as told:
        ask()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [1e9, 10_001, math.inf, -1, 2.5, "many", True])
def test_no_slip_of_the_pen_is_a_number_of_workers(value: Any) -> None:
    with pytest.raises(OptionsError, match=r"n_workers .*it has to be a whole number, from 0 to 10000\."):
        taken({"n_workers": value})


@pytest.mark.parametrize("value", ["nonsense", -1, math.nan, True, [], "4 parsecs"])
def test_a_memory_limit_that_dask_does_not_know_is_refused(value: Any) -> None:
    with pytest.raises(OptionsError, match="memory_limit"):
        taken({"memory_limit": value})


def test_memory_limits_mean_to_dask_what_they_mean_to_a_local_cluster() -> None:
    import logging

    from distributed.worker_memory import parse_memory_limit

    for value in (4e9, 2**32, 0, "4 GiB", "auto", 0.25, "0.25", 1, 1.0, "1", "1.0"):
        meant = taken({"memory_limit": value})["memory_limit"]
        limits = [parse_memory_limit(v, 1, 2, logger=logging.getLogger()) for v in (value, meant)]
        assert limits[0] == limits[1], value


@pytest.mark.parametrize("make", [Cluster, CoiledTaskRunner, ClusterSettings])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [("n_worker", "Did you mean 'n_workers'"), ("idle_timeot", "Did you mean 'idle_timeout'")],
)
def test_a_slip_of_the_pen_is_told_with_the_nearest_keyword(make: Any, wrong: str, said: str) -> None:
    with pytest.raises(OptionsError, match=said):
        make(**{wrong: 1})


_ELSEWHERE = {name: text for table in elsewhere.TABLES.values() for name, text in table.items()}


@pytest.mark.parametrize("name", sorted(_ELSEWHERE))
def test_a_keyword_of_another_tool_is_refused_with_what_to_write_instead(name: str) -> None:
    assert name not in KEYWORDS
    with pytest.raises(OptionsError, match="It is a keyword of") as error:
        Request(**{name: 1})
    assert "\n" not in str(error.value)
    for advised in re.findall(r"`(\w+)[=`]", _ELSEWHERE[name]):
        assert advised in KEYWORDS, advised


def test_a_word_that_is_elsewhere_too_is_a_keyword_here_and_stands_once() -> None:
    assert set(elsewhere.SAME) == set(elsewhere.OTHER) == set(elsewhere.TABLES)
    for tool, names in elsewhere.SAME.items():
        assert not {*names, *elsewhere.OTHER[tool]} - set(KEYWORDS), tool
        assert not set(names) & set(elsewhere.OTHER[tool]), tool


_OF_DASK = {
    "Dask's LocalCluster or SpecCluster": (distributed.LocalCluster, distributed.SpecCluster, DaskCluster),
    "Dask's Nanny or Worker": (distributed.Nanny, distributed.Worker),
    "Dask's Client": (distributed.Client,),
}


@pytest.mark.parametrize("tool", _OF_DASK)
def test_every_keyword_of_the_dask_that_is_installed_is_the_same_another_or_refused(tool: str) -> None:
    judged = {*elsewhere.SAME[tool], *elsewhere.OTHER[tool]}.union(*elsewhere.TABLES.values())
    for made in _OF_DASK[tool]:
        found = inspect.signature(made.__init__).parameters.values()
        names = {p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)} - {"self"}
        assert names - judged == set(), f"keywords of {made.__name__} that nobody has judged"


@pytest.mark.parametrize("make", [Cluster, CoiledTaskRunner])
@pytest.mark.parametrize("name", ["ingress", "firewall", "egress", "network", "registry"])
def test_a_backend_option_that_is_no_keyword_says_where_it_belongs(make: Any, name: str) -> None:
    with pytest.raises(OptionsError, match="Put it into backend_options"):
        make(**{name: "x"})


def test_a_task_runner_takes_every_keyword_that_is_not_of_this_process() -> None:
    CoiledTaskRunner(**dict.fromkeys(ClusterOptions.__annotations__))  # type: ignore[typeddict-item]
    for name in set(KEYWORDS) - set(ClusterOptions.__annotations__):
        with pytest.raises(OptionsError, match="the task runner sets it itself"):
            CoiledTaskRunner(**{name: True})
    with pytest.raises(OptionsError, match="nthreads 'two'"):
        CoiledTaskRunner(nthreads="two")  # type: ignore[typeddict-item]


def test_help_and_signature_show_every_keyword_with_its_default() -> None:
    shown = inspect.signature(Cluster).parameters
    assert list(shown) == list(KEYWORDS)
    assert all(shown[name].default == one.default for name, one in KEYWORDS.items())
    assert all(f"        {name}: " in str(Cluster.__doc__) for name in KEYWORDS)
    assert Request({}).held == dict(defaults())


def test_settings_say_of_a_keyword_what_the_table_says() -> None:
    fields = {n: f for n, f in ClusterSettings.model_fields.items() if n != "more"}
    assert {n: f.description for n, f in fields.items()} == {n: KEYWORDS[n].about for n in fields}


def test_what_a_keyword_has_in_the_account_block_is_a_field_of_it() -> None:
    assert {one.block for one in TABLE if one.block} <= set(Ec2DaskAccount.model_fields)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"acount": "x"}, "Did you mean 'account'"),
        ({"worker": {"memry": "16 GiB"}}, "Did you mean 'memory'"),
        ({"worker-cpu": 4}, "Write cpu below `coiled: worker:`"),
        ({"worker": {"n_workers": 4}}, "Write n_workers below `coiled:`"),
        ({"region": "eu-west-1"}, "Write region below `coiled: backend-options:`"),
        ({"backend-options": {"regoin": "x"}}, "Did you mean 'region'"),
        ({"allow-ssh": "maybe"}, r"coiled.yaml: allow_ssh \(allow_ssh\) 'maybe': it has to be true or false"),
    ],
)
def test_what_a_file_has_in_the_wrong_place_is_told(section: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionsError, match=said):
        Request({"coiled": section})


def test_a_file_may_say_what_a_keyword_says_and_machines_by_name_hide_those_by_size() -> None:
    config = {"coiled": {"n-workers": 7, "worker": {"cpu": 8, "disk-size": 50}, "idle-timeout": "1 hour"}}
    held = Request(config, worker_vm_types=["c6i.large"]).held
    assert (held["n_workers"], held["worker_disk_size"], held["idle_timeout"]) == (7, 50, 3600.0)
    assert (held["worker_cpu"], held["worker_vm_types"]) == (None, ("c6i.large",))
    assert Request(config, n_workers=2, idle_timeout=None).held["idle_timeout"] is None


def test_what_a_hosted_service_keeps_in_the_file_means_nothing() -> None:
    given = {
        "user": "me",
        "token": "t",
        "server": "https://example.com",
        "protocol": "tls",
        "analytics": True,
    }
    assert Request({"coiled": given}).held == dict(defaults())


def test_a_file_in_the_folder_of_a_project_sets_no_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever clones a repository has started nothing of it yet."""
    for name in ("coiled.yaml", "coiled.yml", "dask.yaml", ".coiled.yaml"):
        (tmp_path / name).write_text("coiled:\n  n-workers: 500\n")
    monkeypatch.chdir(tmp_path)
    assert cluster_defaults(dask.config.collect()) == {}
