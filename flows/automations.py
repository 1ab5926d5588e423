"""An automation: tell me when a cluster runs for longer than four hours, or end it.

    python flows/automations.py --hours 4 --notify slack-webhook/my-slack
    python flows/automations.py --hours 12 --reap "stop cluster/stop-at-night"

Run again, it replaces the automation of the same name. Clusters are told of by events; see
docs/notifications.md. It is one automation for all clusters of all accounts, or of one.
"""

from __future__ import annotations

import argparse
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.events.actions import ActionTypes, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

BEGIN = "prefect-coiled.create_cluster"
# How a cluster ends, and how one is told of that ended by itself.
ENDS = {"prefect-coiled.delete_cluster", "prefect-coiled.sweep_cluster"}


def long_clusters(within: timedelta, actions: list[ActionTypes], account: str = "*") -> AutomationCore:
    """The automation, not saved yet.

    Args:
        within: A cluster may run for so long.
        actions: What happens to one that runs longer.
        account: Slug of the account; all of them by default.
    """
    return AutomationCore(
        name=f"clusters longer than {within}" + ("" if account == "*" else f" ({account})"),
        description="A Dask cluster was created, and its end was not heard of in time.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={BEGIN},
            expect=ENDS,
            # A star stands at the end only.
            match={
                "prefect.resource.id": "prefect-coiled.cluster." + ("*" if account == "*" else f"{account}.*")
            },
            for_each={"prefect.resource.id"},
            threshold=1,
            within=within,
        ),
        actions=actions,
    )


def notify(block: str) -> SendNotification:
    """A notification by one of your blocks, such as a Slack webhook.

    Args:
        block: Its slug, such as "slack-webhook/my-slack".

    Raises:
        SystemExit: There is no notification block of that name.
    """
    return SendNotification(
        block_document_id=_block_id(block),
        subject="A Dask cluster runs for long",
        body=(
            "{{ event.resource['prefect.resource.id'] }} was created and has not ended in time.\n"
            "See `prefect-coiled ls`, and `prefect-coiled stop NAME`."
        ),
    )


def save(automation: AutomationCore) -> UUID:
    """Save an automation in place of the one of that name, if there is one."""
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(automation.name):
            client.delete_automation(old.id)
        return client.create_automation(automation)


def _block_id(name: str) -> UUID:
    kind, _, document = name.partition("/")
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(document, kind, include_secrets=False).id
        except ObjectNotFound:
            raise SystemExit(f"There is no block {name!r}; `prefect block ls` lists yours.") from None


def _deployment_id(name: str) -> UUID:
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(name).id


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--account", default="*", help="slug of an account; all by default")
    parser.add_argument("--notify", metavar="BLOCK", help="slug of a notification block: TYPE/NAME")
    parser.add_argument("--reap", metavar="FLOW/DEPLOYMENT", help="deployment that is run")
    options = parser.parse_args()
    wanted: list[ActionTypes] = []
    if options.notify:
        wanted.append(notify(options.notify))
    if options.reap:
        wanted.append(RunDeployment(deployment_id=_deployment_id(options.reap)))
    if not wanted:
        parser.error("give --notify, --reap or both")
    made = long_clusters(timedelta(hours=options.hours), wanted, options.account)
    print(f"{made.name}: {save(made)}")
