"""Change who may reach the scheduler of a running cluster."""

from __future__ import annotations

from prefect import flow

from prefect_coiled.aws import security_groups
from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError, OptionsError, ProvisionError, UnavailableError
from prefect_coiled.options import IngressRule
from prefect_coiled.options.ingress import check_ssh, held_rules
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kinds import Scope
from prefect_coiled.provision.sessions import session_for
from prefect_coiled.tasks import cluster as steps
from prefect_coiled.tasks import names


@flow(name="change ingress", flow_run_name="change ingress of {name}", persist_result=False)
def change_ingress(
    account: str,
    region: str,
    name: str,
    ingress: list[IngressRule],
    allow_ssh: bool | None = None,
    uid: str | None = None,
) -> list[IngressRule]:
    """Replace the rules of a cluster's scheduler: what is new is opened, what is no longer said is closed.

    Args:
        account: The account's slug.
        region: The AWS region.
        name: The cluster's name.
        ingress: The rules; every CIDR is concrete. An empty list closes all ports.
        allow_ssh: Whether port 22 may be opened without a key pair; None leaves that as it is.
        uid: Only this cluster of that name; None for the one that has the name.

    Returns:
        The rules that hold.

    Raises:
        ProvisionError: If no cluster of that name lives, or it has no security group yet.
        OptionsError: If its security group is the user's own, or port 22 is named and there is no key.
    """
    with session_for(account, region) as session:
        aws = session.aws
        spec = names.read_plan(aws, name)
        what = f"changing the ingress of cluster {name!r}"
        if spec is None or uid not in (None, spec.uid):
            why = f"account {account} has no cluster of that name in {region}"
            if spec is not None:
                why = "it is gone, and another cluster has its name by now"
            raise ProvisionError(what, why, "See `prefect-coiled ls`.")
        if spec.network is not None and spec.network.scheduler_firewall_id:
            raise OptionsError(
                f"ingress of cluster {name!r}",
                f"its security group {spec.network.scheduler_firewall_id} is your own, and is never changed.",
                "Change it in the AWS console.",
            )
        groups = list(security_groups.SECURITY_GROUP.find(aws, Scope(name, spec.uid)))
        if not groups:
            raise ProvisionError(
                what, "it is starting or being removed, and has no security group", "Try again in a minute."
            )
        update = {"ingress": tuple(ingress), "allow_ssh": spec.allow_ssh if allow_ssh is None else allow_ssh}
        changed = spec.model_copy(update=update)
        check_ssh(changed.ingress, ssh=changed.ssh)
        # What is written down first: workers that are added later see to the same rules.
        names.write_plan(aws, changed)
        try:
            _open_as_planned(aws, changed, str(groups[0]["VpcId"]))
        except UnavailableError:
            raise  # whether it changed is not known: who adds workers sees to what was asked for
        except AwsError:
            names.take_back(aws, changed, spec)
            raise
        finally:
            names.forget_plan(aws, changed)
        aws.tell("change_ingress", f"changed who may reach {name}", cluster=name, uid=spec.uid)
        return list(held_rules(changed.ingress, ssh=changed.ssh))


def _open_as_planned(aws: Aws, spec: ClusterSpec, vpc_id: str) -> None:
    """Open and close what the plan says; where another program has written a plan meanwhile, what that says.

    Of two at once each has read the rules before the other opened his. The one whose plan does not hold any
    more closes what both have left.
    """
    while True:
        steps.open_security_groups(aws, spec, steps.find_security_groups(aws, spec, vpc_id))
        held = names.read_plan(aws, spec.name)
        if held is None or held.uid != spec.uid or held.ingress == spec.ingress:
            return
        spec = held
