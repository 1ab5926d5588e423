"""How a provisioning step is a Prefect task: what is retried, how failures surface, what it may hold on to.

Nothing that a task returns is persisted or cached: a replayed result would be a machine that is long gone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect import Task, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from pydantic import SecretStr

from prefect_coiled.aws.door import Aws
from prefect_coiled.environment import Locked
from prefect_coiled.errors import StoppedError, is_retryable
from prefect_coiled.events import hearing, here
from prefect_coiled.events.story import tags_of
from prefect_coiled.plan.node_config import ClientSecrets
from prefect_coiled.plan.prices import Prices
from prefect_coiled.records import MachineImage
from prefect_coiled.subscribers.notifications import Notifications

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [1.0, 4.0, 15.0]

# A template of a run's name, or what makes the name from the run's parameters.
RunName = str | Callable[..., str]


class Session:
    """What a provisioning flow needs besides its parameters, which Prefect records and shows.

    A plain class on purpose: Prefect looks into dataclasses and models among a task's parameters and copies
    them.

    Args:
        aws: The door, with the stop event of this run.
        registry_token: The access token with which machines log in to the account's registry.
        cluster: The cluster that it is about; a tag of the runs in Prefect.
        role_arn: The role that is worked as, if the account says one.

    Attributes:
        launched: Ids of machines, noted as they are made: return values are lost when a sibling fails.
        client_secrets: What a client needs to connect; set by the flow that makes the keys.
        locked: What the machines install; set before a cluster is made, unless the image holds it.
        patience: Seconds for putting into the bucket what the machines could fetch from an index themselves;
            without an end where they could not.
        launched_at: When the first machine was launched, by `time.monotonic`; None before.
        images: Plain images that are known, by `image_key`.
        prices: What machines cost; None as long as nobody has asked.
        disk_key: The customer's key that encrypts disks; None as long as nobody has looked.
        version: The number of what is known of the account, as it was before anything was looked at; None
            where it may not be read.
    """

    def __init__(
        self,
        aws: Aws,
        environ: Mapping[str, str] | None = None,
        dask_config: Mapping[str, Any] | None = None,
        *,
        registry_token: SecretStr | None = None,
        host_setup_script: SecretStr | None = None,
        cluster: str = "",
        role_arn: str = "",
    ) -> None:
        self.aws = aws
        self.environ = environ or {}
        self.dask_config = dask_config or {}
        self.registry_token = registry_token
        self.host_setup_script = host_setup_script or SecretStr("")
        self.cluster = cluster
        self.role_arn = role_arn
        self.launched: list[str] = []
        self.client_secrets: ClientSecrets | None = None
        self.locked: Locked | None = None
        self.patience = math.inf
        self.launched_at: float | None = None
        self.images: dict[str, MachineImage] = {}
        self.disk_key: str | None = None
        self.prices: Prices | None = None
        self.version: int | None = None
        self.lock = threading.Lock()

    def __reduce__(self) -> Any:
        raise TypeError("a provisioning session holds live handles and is not pickled")


_current: ContextVar[Session | None] = ContextVar("prefect_coiled_session", default=None)


@contextmanager
def use_session(session: Session, *, threads: bool = True) -> Iterator[Session]:
    """Make `session` the one that provisioning flows in this context use; their flow runs get its tags.

    What happens inside is kept among the account's notifications.

    Args:
        threads: Whether threads can be started; not while the interpreter ends.
    """
    aws = session.aws
    place = (aws.account, aws.region, aws.known_number)
    heard = [one for one in here().everybody if isinstance(one, Notifications) and one.are_of(*place)]
    notifications = heard[0] if heard else Notifications(aws)
    notifications.threads = notifications.threads and threads
    token = _current.set(session)
    try:
        with hearing(*([] if heard else [notifications])), tagged(session):
            yield session
    finally:
        _current.reset(token)
        if not heard:  # else by whoever hears them
            notifications.close()
        if session.locked is not None:
            session.locked.discard()


@contextmanager
def tagged(session: Session) -> Iterator[None]:
    """Give the flow runs that are begun here the tags of a session."""
    with tags(*tags_of(session.aws.account, session.cluster)):
        yield


@contextmanager
def untagged() -> Iterator[None]:
    """Give no tags to the task runs that are begun here.

    For a task run with tags Prefect asks its API for a slot of each, and the step fails if it cannot: that
    would slow every step down, and let a launch fail with the API.
    """
    with TagsContext(current_tags=set()):
        yield


def current_session() -> Session | None:
    """The session of this context, if one was opened around the flow."""
    return _current.get()


def _may_retry(_task: Task[..., Any], _run: Any, state: State[Any]) -> bool:
    error = failure_of(state)
    return error is not None and not isinstance(error, StoppedError) and is_retryable(error)


def failure_of(state: State[Any]) -> BaseException | None:
    """The exception behind a failed, crashed or cancelled state; None for others."""
    if not (state.is_failed() or state.is_crashed() or state.is_cancelled()):
        return None
    found = state.data
    if hasattr(found, "result"):  # a result record
        found = found.result
    return found if isinstance(found, BaseException) else RuntimeError(state.message or state.name)


def step(name: str, run_name: RunName | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a provisioning step: a task that is retried when its error is one that passes.

    Args:
        name: Task name, in the words of the AWS console.
        run_name: Template of the run's name, filled with the task's parameters, or a function of these.
    """
    # Prefect's protocol of such a function is one that no function has.
    named: Any = run_name or name

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        made = task(
            name=name,
            task_run_name=named,
            retries=len(RETRY_DELAYS),
            retry_delay_seconds=RETRY_DELAYS,
            retry_jitter_factor=0.3,
            retry_condition_fn=_may_retry,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(function)
        return made

    return decorate


def settle(futures: Iterable[PrefectFuture[Any]]) -> None:
    """Wait for all of them, then raise the first real cause if any failed.

    What depends on a failed task fails only with "unfinished run"; that is never the cause that is raised
    while there is another.
    """
    listed = list(futures)
    for future in listed:
        future.wait()
    errors = [error for f in listed if (error := failure_of(f.state)) is not None]
    unfinished = [f for f in listed if not f.state.is_completed()]
    causes = [e for e in errors if not isinstance(e, UnfinishedRun)]
    if causes or errors:
        raise (causes or errors)[0]
    if unfinished:
        raise RuntimeError(f"a provisioning step ended as {unfinished[0].state.name}")
