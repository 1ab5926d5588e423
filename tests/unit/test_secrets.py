"""No value of a field that may hold a secret is shown, whatever its shape and wherever it comes from."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect_aws import AwsCredentials
from pydantic import BaseModel, ValidationError

import prefect_coiled
from prefect_coiled import BackendOptions, Ec2DaskAccount, Ec2DaskRegistry
from prefect_coiled.blocks.base import what_is_wrong
from prefect_coiled.blocks.changes import changes_between
from prefect_coiled.blocks.documents import TYPES, read_document
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import OptionsError, PrefectCoiledError
from prefect_coiled.options import RegistryOptions, merge
from prefect_coiled.options.base import may_hold_secret

SECRET = "wJalrXUtnFEMI-canary"
KEYS = {"aws_access_key_id": "AKIA", "aws_secret_access_key": SECRET}
SHAPES: list[Any] = [
    SECRET, f"{{'key': '{SECRET}'}}", json.dumps(KEYS), json.dumps(json.dumps(KEYS)), SECRET.encode(),
    [SECRET], [KEYS], (SECRET,), {SECRET}, {"value": SECRET}, {"aws_secret_access_key": [SECRET]},
    {**KEYS, "region_name": [1]}, {"aws_secret_access_key": {"value": SECRET}}, {"aws_session_token": SECRET},
    {"kind": SECRET}, {"kind": "docker_hub", "access_token": [SECRET]},
    {"kind": "ecr", "access_token": SECRET},
    {"kind": "docker_hub", "username": "me", "access_token": {"a": SECRET}}, {"token": SECRET},
    {"kind": "docker_hub", "username": SECRET, "access_token": "t"}, {"assume_role_kwargs": SECRET},
    {"aws_client_parameters": {"config": SECRET}}, {"block": SECRET},
]  # fmt: skip
_OURS = ("Ec2DaskAccount", "Ec2DaskRegistry")
WHOLE: dict[type[BaseModel], dict[str, Any]] = {
    Ec2DaskAccount: {"region": "us-east-1"},
    Ec2DaskRegistry: {"kind": "docker_hub", "username": "me", "access_token": "t"},
    RegistryOptions: {"kind": "docker_hub", "username": "me", "access_token": "t"},
    BackendOptions: {},
    AwsCredentials: {},
}
FIELDS = [
    (cls, name)
    for cls in WHOLE
    for name, f in cls.model_fields.items()
    if may_hold_secret(name, f.annotation)
]


def test_the_fields_that_may_hold_a_secret_are_found_by_their_names_and_types() -> None:
    found = {f"{cls.__name__}.{name}" for cls, name in FIELDS}
    assert found == {
        "Ec2DaskAccount.aws_credentials",
        "Ec2DaskAccount.registry",
        "Ec2DaskRegistry.access_token",
        "RegistryOptions.access_token",
        "BackendOptions.registry",
        "AwsCredentials.aws_secret_access_key",
        "AwsCredentials.aws_session_token",
        "AwsCredentials.assume_role_kwargs",
    }


def shown(make: Callable[[], object]) -> str:
    """All that a person may see of it: the error with what led to it, or what was made."""
    try:
        return repr(make())
    except PrefectCoiledError as error:
        return "".join(traceback.format_exception(error)) + repr(error)
    except ValidationError as error:
        return str(error) if error.title in _OURS else ""


@pytest.mark.parametrize(("cls", "name"), [f for f in FIELDS if f[0] is not AwsCredentials])
def test_a_secret_of_the_wrong_shape_is_in_no_error(cls: type[BaseModel], name: str) -> None:
    for shape in SHAPES:
        assert SECRET not in shown(lambda s=shape: cls(**{**WHOLE[cls], name: s}))  # type: ignore[misc]


def test_an_error_of_prefects_own_class_is_told_without_the_secret() -> None:
    for shape in SHAPES:
        for name in AwsCredentials.model_fields:
            try:
                AwsCredentials(**{name: shape})
            except Exception as error:
                told = str(what_is_wrong(AwsCredentials, error, {name: shape}))
            else:
                continue
            assert SECRET not in told


@pytest.mark.parametrize("cls", [Ec2DaskAccount, Ec2DaskRegistry])
def test_pydantic_itself_does_not_repeat_what_a_document_of_the_api_says(cls: type[BaseModel]) -> None:
    for shape in SHAPES:
        for given in (shape, *({**WHOLE[cls], name: shape} for one, name in FIELDS if one is cls)):
            assert SECRET not in shown(lambda g=given: cls.model_validate(g))  # type: ignore[misc]


def test_a_secret_of_the_wrong_shape_is_not_shown_from_code_file_or_block() -> None:
    for shape in SHAPES:
        config = {"coiled": {"backend-options": {"registry": shape}, "environ": shape}}
        for make in (
            lambda s=shape: Request({}, backend_options={"registry": s}),
            lambda s=shape: Request({}, backend_options=s),
            lambda s=shape: Request({}, environ=s),
            lambda s=shape: Request({}, worker_options=s),
            lambda s=shape: Request({}, scheduler_options={"security": s}),
            lambda c=config: Request(c),
            lambda s=shape: merge({}, {"registry": s}, config={}),
        ):
            assert SECRET not in shown(make)


@pytest.mark.parametrize(
    "text",
    [
        f"fields:\n  region: us-east-1\n  aws_credentials: '{json.dumps(KEYS)}'\n",
        f"fields:\n  region: us-east-1\n  aws_credentials: [{SECRET}]\n",
        f"fields:\n  region: us-east-1\n  aws_credentials: {{aws_secret_access_key: {SECRET}, }} }}\n",
        f"fields:\n  aws_secret_access_key: {SECRET}\n bad: [\n",
        f"type: ec2-dask-registry\nfields: {{kind: docker_hub, access_token: {{value: {SECRET}}}}}\n",
        f"type: aws-credentials\nfields: {{aws_session_token: {SECRET}}}\n",
    ],
)
def test_a_document_with_a_secret_in_it_is_refused_without_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)

    def made() -> object:
        document = read_document(tmp_path / "a.yaml", {})
        cls: Any = TYPES[document.type]
        return cls(**document.fields)

    with pytest.raises(OptionsError):
        made()
    assert SECRET not in shown(made)


def test_a_change_hides_a_secret_that_is_a_plain_text() -> None:
    (change,) = changes_between({"aws_session_token": "old-canary"}, {"aws_session_token": SECRET})
    assert SECRET not in str(change) + repr(change)
    assert "canary" not in str(change) + repr(change)


# What holds a secret, by its name; what says where one is, or by what something is found, does not.
_HOLDS = re.compile(r"(secret|token|password)(_access_key)?$|^(ca_)?key$|^secret_")
_PLACES = {"Part.key", "Place.key", "_Gate.key", "_Packed.key", "_StandIn.key"}


def _shown_fields() -> Iterator[str]:
    """The fields of all classes of ours that hold a secret, and show it where they are represented."""
    for module in pkgutil.walk_packages(prefect_coiled.__path__, "prefect_coiled."):
        try:
            found = vars(importlib.import_module(module.name))
        except ImportError:  # of a system that is not this one
            continue
        for name, cls in found.items():
            if not inspect.isclass(cls) or cls.__module__ != module.name:
                continue
            if dataclasses.is_dataclass(cls):
                fields = {f.name: str(f.type) for f in dataclasses.fields(cls) if f.repr}
            elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
                fields = {f: str(cls.__annotations__[f]) for f in cls._fields}
            elif issubclass(cls, BaseModel):
                fields = {f: str(i.annotation) for f, i in cls.model_fields.items() if i.repr}
            else:
                continue
            for field, kind in fields.items():
                if _HOLDS.search(field) and "SecretStr" not in kind and "str" in kind:
                    yield f"{name}.{field}"


def test_no_class_shows_a_secret_where_it_is_represented() -> None:
    assert set(_shown_fields()) - _PLACES == set()
