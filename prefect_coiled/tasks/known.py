"""Steps about what is known of an account: begin with it, confirm it before a launch, note it."""

from __future__ import annotations

from prefect_coiled.aws import known
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.known import Known
from prefect_coiled.records import AccountRecord
from prefect_coiled.tasks.names import not_held
from prefect_coiled.tasks.steps import Session, step


def begin(session: Session, spec: ClusterSpec) -> Known | None:
    """What is known of the account, by this process or by its parameter, if it does for this cluster.

    None of it is sure: whoever launches by it has it confirmed, once the cluster has its name.
    """
    if spec.network is not None:
        return None
    found = known.remembered(session.aws)
    if found is None:
        found = look_anew(session, spec)
    if found is None:
        return None
    session.images, session.disk_key = dict(found.images), found.disk_key
    session.version = found.version
    return found if found.serves(spec) else None


def look_anew(session: Session, spec: ClusterSpec) -> Known | None:
    """Read what is known, and which version it is, before anything is looked at."""
    session.images, session.disk_key, session.version = {}, None, None
    seen = known.see(session.aws, spec.name)
    if seen is None:
        return None
    session.version = seen.version
    return None if seen.leased else seen.known


@step("what is known", "what is known of {spec.account}")
def confirm(session: Session, spec: ClusterSpec, found: Known) -> bool:
    """Whether what is known still holds; and see that the cluster has its name.

    Whoever removes what clusters share from now on sees that this one is on its way.

    Raises:
        NameTakenError: If the cluster was removed meanwhile.
    """
    seen = known.see(session.aws, spec.name)
    if seen is None:
        return False
    if seen.holder != spec.uid:
        raise not_held(spec, seen.holder)
    return seen.known == found and not seen.leased


@step("note what is known", "note what is known of {spec.account}")
def note(session: Session, spec: ClusterSpec, account: AccountRecord) -> None:
    """Keep what was looked at, for launches to come. What cannot be kept they look at again."""
    if spec.network is not None or session.version is None:
        return
    aws = session.aws
    found = Known(
        version=session.version + 1,
        wants=known.wants(aws),
        account=account,
        images=session.images,
        disk_key=session.disk_key or "",
    )
    try:
        known.note(aws, found)
    except AwsError:
        session.version = None


def forget(aws: Aws) -> None:
    """After a launch that failed by what was known: the next one looks."""
    try:
        known.forget(aws)
    except AwsError:
        return  # the first cause is told; what is known is too old in an hour
