"""Opens the door to AWS for a provisioning flow: the caller's session, else one from the account's name.

A flow's parameters are recorded and shown by Prefect, so handles and secrets travel beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.blocks import load_account
from prefect_coiled.options import merge
from prefect_coiled.tasks.steps import Session, current_session, untagged, use_session


def open_door(account: Account, region: str, stop: threading.Event | None = None) -> Aws:
    """`account.door(...)` by the name that scripts around the provisioning flows know."""
    return account.door(region, stop)


@contextmanager
def session_for(account: str, region: str, cluster: str = "") -> Iterator[Session]:
    """The session that was opened around this flow, or a new one (a deployment's run, a direct call)."""
    session = current_session()
    if session is not None and (session.aws.account, session.aws.region) == (account, region):
        with untagged():
            yield session
        return
    loaded = load_account(account)
    token = merge(None, loaded.options).options.registry.access_token
    session = Session(loaded.door(region), registry_token=token, cluster=cluster)
    with use_session(session), untagged():
        yield session
