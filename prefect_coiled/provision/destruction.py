"""Take an account down in a region: everything that its set-up made, and what clusters left.

    nothing runs? ─▶ under the set-up's lease: plan ─▶ dead clusters ─▶ each kind after those that wait for it

Each run looks at what is there, so that one that was interrupted is run again, and goes on.
"""

from __future__ import annotations

from functools import partial

from prefect import flow

from prefect_coiled.aws.kinds import KINDS
from prefect_coiled.aws.known import changing
from prefect_coiled.errors import AwsError, CredentialsError
from prefect_coiled.plan.changes import Plan
from prefect_coiled.plan.kinds import There
from prefect_coiled.plan.prices import priced
from prefect_coiled.provision.planning import (
    destruction_everywhere,
    destruction_here,
    refuse_while_clusters_live,
)
from prefect_coiled.provision.removal import leaving
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.provision.sweeping import not_shown, remove_shared, said, sweep_clusters
from prefect_coiled.records import Removal
from prefect_coiled.tasks import changes as steps


def _everywhere(there: There, why: str) -> dict[str, str]:
    """What all regions share, as what is left."""
    shared = ((KINDS[row], item) for row, items in there.items() if KINDS[row].everywhere for item in items)
    return {f"{kind.prefix}{kind.id_of(item)}": priced(why, 0.0) for kind, item in shared}


@flow(name="destroy account", flow_run_name="destroy {account} in {region}", persist_result=False)
def destroy_account(account: str, region: str, plan: Plan | None = None) -> Removal:
    """Remove everything that an account has in a region. Its Prefect block stays.

    Args:
        account: The account's slug.
        region: The AWS region.
        plan: What `plan_destruction` said: what came since then is left, and said. All goes by default.

    Returns:
        What was removed. `left` names the role, if another region needs it and its instance profile, or if
        AWS did not say whether one does.

    Raises:
        ProvisionError: If a cluster of the account runs or is starting; nothing was removed.
        PrefectCoiledError: With the first cause, and `left`: what is left. Run it again: it goes on where it
            stopped.
    """
    with session_for(account, region) as session:
        aws = session.aws
        refuse_while_clusters_live(aws, steps.look_around(aws)[0])
        with changing(aws, ends=True):
            there, unseen = steps.look_around(aws)
            refuse_while_clusters_live(aws, there)  # one may have started while the lease was waited for
            here = destruction_here(aws, there)
            wanted = here.agreed(plan) if plan is not None else here
            with leaving(partial(_everywhere, there)):
                total, kept, failed = sweep_clusters(session, wanted)
            if kept:  # its machines use the network
                kept[0].left = total.left
                raise kept[0]
            with leaving(lambda why: {**total.left, **said(wanted).left, **_everywhere(there, why)}):
                removal, refused = remove_shared(aws, wanted, there, unseen, total.left)
            total += removal + said(wanted)
            try:
                # Minutes have gone by, in which another region may have been set up.
                with leaving(lambda why: {**total.left, **_everywhere(there, why)}):
                    everywhere = destruction_everywhere(aws, there)
                wanted = everywhere.agreed(plan) if plan is not None else everywhere
                with leaving(lambda why: {**total.left, **said(wanted).left}):
                    removal, more = remove_shared(aws, wanted, there, unseen, total.left)
                removal += said(wanted)
            except CredentialsError:
                raise
            except AwsError as error:
                removal, more = Removal(left=dict(error.left)), [error]
            errors = [*failed, *refused, *more, *unseen.values()]
            total += removal + not_shown(unseen, errors[0] if errors else None)
        if errors:
            errors[0].left = total.left
            raise errors[0]
        return total
