"""A sandbox in which machines run without processes: enough for what provisioning asks of AWS."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import prefect.events.utilities
import pytest
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from pydantic import SecretStr

from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster.request import Request
from prefect_coiled.environment import Lock, Locked
from prefect_coiled.environment.build import wheel_of
from prefect_coiled.environment.modules_wheel import write_wheel
from prefect_coiled.events import EVERYWHERE, Event, hearing
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.launching import Missing
from prefect_coiled.sandbox import Sandbox
from prefect_coiled.tasks import launch as launching
from prefect_coiled.tasks.steps import Session, use_session
from tests.provision.laid import Lay, lay_over

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def unseen_steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps are Prefect's, and what the API hears of each is left out: it costs more than the step.

    A test that asks the API of them has the marker `steps_are_seen`.
    """
    if request.node.get_closest_marker("steps_are_seen"):
        yield
        return
    monkeypatch.setattr(prefect.events.utilities, "should_emit_events", lambda: False)
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}):
        yield


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    with Sandbox({"boot": "none"}) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def nothing_is_left(shared_sandbox: Sandbox) -> Iterator[None]:
    """The shared sandbox is empty before a file and after it."""
    shared_sandbox.reset()
    shared_sandbox.set(boot="none")
    yield
    shared_sandbox.reset()


@pytest.fixture(autouse=True)
def own_stream() -> Iterator[None]:
    """Whoever subscribes in a test hears nothing of the tests after it."""
    with hearing():
        yield


@pytest.fixture
def sandbox(shared_sandbox: Sandbox, prefect_server: None) -> Iterator[Sandbox]:
    """The shared sandbox; its faults and limits are taken back at the end, and what was learned of them."""
    yield shared_sandbox
    launching._missing = Missing()
    shared_sandbox.faults([])
    shared_sandbox.set(capacity=[])


@pytest.fixture
def account(sandbox: Sandbox) -> Account:
    keys = CredentialSource("sandbox", SecretStr(sandbox.info.secret_access_key))
    return Account("team", credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)


@pytest.fixture
def aws(account: Account) -> Aws:
    return account.door("us-east-1")


@pytest.fixture
def calls() -> Iterator[Counter[str]]:
    """How often each call was made, but for those that keep notifications."""
    made: Counter[str] = Counter()

    def count(event: Event) -> None:
        if event.kind == "call" and threading.current_thread().name != "notifications":
            made[event.action] += 1

    EVERYWHERE.subscribe(count)
    yield made
    EVERYWHERE.unsubscribe(count)


@pytest.fixture
def lay(monkeypatch: pytest.MonkeyPatch) -> Lay:
    """Lay a rule of AWS over every call of this process."""
    return lay_over(monkeypatch)


@pytest.fixture
def session(aws: Aws) -> Iterator[Session]:
    """The session that provisioning flows find in this context."""
    with use_session(Session(aws)) as opened:
        yield opened


@pytest.fixture
def spec(account: Account) -> Callable[..., ClusterSpec]:
    """Plan a cluster from the keywords of `Cluster`; each has another name unless one is given."""

    def make(**keywords: Any) -> ClusterSpec:
        keywords.setdefault("name", f"c{next(_numbers)}")
        request = Request({}, **{"n_workers": 2, **keywords})
        return request.spec(
            account, "tester", own_cidr=lambda: "192.0.2.7/32", now=datetime.now(timezone.utc)
        )

    return make


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Locked:
    """A lock of two wheels that are made here."""
    made, built = [], {}
    for name in ("one", "uv"):
        path = write_wheel({f"{name}.py": b""}, tmp_path_factory.mktemp(name))
        assert path is not None
        made.append(wheel_of(path))
        built[made[-1].sha256] = path
    return Locked(Lock(python="3.11.9", architecture="x86_64", wheels=(made[0],), uv=made[1]), built)


@pytest.fixture
def nothing_there(sandbox: Sandbox) -> Iterator[None]:
    """A sandbox as it is at first, before and after, whose machines do not boot."""
    sandbox.reset()
    sandbox.set(boot="none")
    yield
    sandbox.reset()
