"""Steps that launch a cluster's machines and make what they need."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from prefect_coiled import events
from prefect_coiled.aws import (
    caller,
    images,
    instances,
    launch_templates,
    own_network,
    parameters,
    security_groups,
)
from prefect_coiled.aws.disk_key import find_disk_key
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.foresight import may_use_key
from prefect_coiled.aws.waits import PUBLIC_ADDRESS, VISIBLE_SOON, wait_for
from prefect_coiled.errors import (
    AccessDeniedError,
    OptionsError,
    ProvisionError,
)
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.certificates import WEEK_S, YEAR_S, ClusterCertificates
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kinds import Scope
from prefect_coiled.plan.node_config import ClientSecrets, NodeSecrets
from prefect_coiled.plan.policies import key_statements
from prefect_coiled.plan.user_data import token_parameter
from prefect_coiled.records import InstanceRecord, MachineImage, OwnNetwork, Record, Role
from prefect_coiled.tasks.steps import Session, step


@step("own network")
def check_own_network(aws: Aws, spec: ClusterSpec) -> OwnNetwork | None:
    """The zones of a network of the user's own; None if the account's is used.

    Raises:
        OptionsError: If it is not fit for a cluster.
    """
    if spec.network is None:
        return None
    return own_network.check_own_network(
        aws,
        spec.network,
        public_scheduler=spec.use_public_ip,
        egress=spec.egress,
        port=spec.scheduler_node.one_port or spec.scheduler_node.scheduler_port,
    )


@step("disk key")
def check_disk_key(session: Session, spec: ClusterSpec) -> None:
    """See that machines can have encrypted disks, before anything is made.

    Raises:
        AccessDeniedError: If the AWS account encrypts disks with a KMS key of its own, and the policies of
            the credentials do not permit its use. EC2 would start each machine and end it at once.
    """
    aws = session.aws
    if session.disk_key is None:
        session.disk_key = find_disk_key(aws)
    key = session.disk_key
    if not key:
        return
    may = may_use_key(aws, caller.known_caller(aws), key, session.role_arn)
    events.step("disk key", key if may else f"{key}; whether it may be used cannot be told beforehand")
    if may is not False:
        return
    statements = tuple(key_statements(key, aws.region))
    raise AccessDeniedError(
        f"starting machines in {aws.region}",
        f"the AWS account encrypts disks with a KMS key of its own ({key}), and the credentials' policies do "
        "not permit its use",
        f"Attach what `prefect-coiled policies ongoing --account {aws.account} --kms-key {key}` prints, or "
        f"add these statements: {json.dumps(statements)}",
        operation="ec2:RunInstances",
        action="kms:CreateGrant",
        resource=key,
        statements=statements,
    )


class Groups(Record):
    """The two security groups of a cluster.

    Attributes:
        inside: The id of that in which all machines are.
        clients: The id of that of the scheduler.
        there: The `IpPermissions` that each of the cluster's own has, by its id.
    """

    inside: str
    clients: str
    there: dict[str, list[dict[str, Any]]] = {}

    def of(self, role: Role) -> list[str]:
        """The groups of a machine of that role."""
        return [self.clients, self.inside] if role == "scheduler" else [self.inside]


@step("security groups", "security groups of {spec.name}")
def ensure_security_groups(aws: Aws, spec: ClusterSpec, vpc_id: str) -> Groups:
    """Make the two groups, which let nobody in until `open_security_groups`; or find them."""

    def ensure(which: str, labels: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
        who = "clients to the scheduler" if which == "scheduler" else "its machines among themselves"
        name, description = planning.group_name(spec, which), f"Dask cluster {spec.name}: {who}"
        return security_groups.ensure_security_group(aws, name, description, vpc_id, labels)

    return _groups(spec, ensure)


@step("find security groups", "find security groups of {spec.name}")
def find_security_groups(aws: Aws, spec: ClusterSpec, vpc_id: str) -> Groups:
    """The two groups of a cluster that runs.

    Raises:
        ProvisionError: They are not there, so the cluster is being removed.
    """

    def find(which: str, labels: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
        return security_groups.find_security_group(aws, planning.group_name(spec, which), vpc_id, labels)

    return _groups(spec, find)


@step("firewall rules", "firewall rules of {spec.name}")
def open_security_groups(aws: Aws, spec: ClusterSpec, groups: Groups) -> None:
    """Let in what the plan says, and no more. Groups of the user's own stay as they are."""
    rules = {
        groups.inside: ("cluster", planning.cluster_permissions()),
        groups.clients: ("scheduler", planning.scheduler_permissions(spec.ingress, ssh=spec.ssh)),
    }

    def open_(group_id: str) -> None:
        which, wanted = rules[group_id]
        name = planning.group_name(spec, which)
        security_groups.change_rules(aws, name, group_id, groups.there[group_id], wanted)

    side_by_side(open_, list(groups.there))


def _groups(
    spec: ClusterSpec, get: Callable[[str, dict[str, str]], tuple[str, list[dict[str, Any]]]]
) -> Groups:
    own = spec.network
    given = {"cluster": own.firewall_id, "scheduler": own.scheduler_firewall_id} if own is not None else {}
    labels = {
        "cluster": planning.cluster_tags(spec, name=f"coiled-{spec.name}-cluster"),
        "scheduler": planning.cluster_tags(spec, "scheduler"),
    }
    lacking = [which for which in labels if not given.get(which)]
    found = dict(zip(lacking, side_by_side(lambda which: get(which, labels[which]), lacking), strict=True))
    ids = {which: given.get(which) or found[which][0] for which in labels}
    return Groups(inside=ids["cluster"], clients=ids["scheduler"], there=dict(found.values()))


@step("image", "image {architecture}")
def find_image(aws: Aws, architecture: str) -> MachineImage:
    """A plain machine image, which holds nothing yet."""
    return images.find_image(aws, architecture)


@step("TLS keys")
def make_keys(session: Session, spec: ClusterSpec) -> None:
    """A CA for this cluster alone, and a certificate for each role, into SSM as SecureStrings.

    The CA's key is dropped at once. What a client needs stays in the session; machines may read their own
    role's parameter only.
    """
    # A cluster without a bound, such as one for many flows, works for as long as somebody may want it.
    lifetime = WEEK_S + (spec.scheduler_node.cluster_timeout or YEAR_S)
    made = ClusterCertificates.make(spec.name, datetime.now(timezone.utc), lifetime)
    token = secrets.token_urlsafe(32)
    shared = {
        "environ": dict(session.environ),
        "dask_config": dict(session.dask_config),
        "host_setup_script": session.host_setup_script,
    }
    labels = planning.cluster_tags(spec)
    values = {
        spec.scheduler_node.secrets_parameter: NodeSecrets(
            ca=made.ca, cert=made.scheduler.cert, key=made.scheduler.key, dashboard_token=token, **shared
        ).encode(),
        spec.worker_node.secrets_parameter: NodeSecrets(
            ca=made.ca, cert=made.worker.cert, key=made.worker.key, **shared
        ).encode(),
    }
    client = ClientSecrets(ca=made.ca, cert=made.client.cert, key=made.client.key, dashboard_token=token)
    if spec.container is not None and spec.container.login == "token":
        values[token_parameter(spec.worker_node)] = _registry_token(session, spec)
    side_by_side(lambda name: parameters.put_secret(session.aws, name, values[name], labels), list(values))
    session.client_secrets = client


@step("TLS keys of clients")
def keep_client_keys(session: Session, spec: ClusterSpec) -> None:
    """What a client that attaches later needs, into SSM. No machine waits for it, nor may read it."""
    assert session.client_secrets is not None
    value, labels = session.client_secrets.encode(), planning.cluster_tags(spec)
    parameters.put_secret(session.aws, client_parameter(spec), value, labels)


def client_parameter(spec: ClusterSpec) -> str:
    """Name of the parameter with what a client needs to connect."""
    return f"{parameters.cluster_path(spec.account, spec.name, spec.uid)}client"


def _registry_token(session: Session, spec: ClusterSpec) -> str:
    if session.registry_token is None:
        raise OptionsError(
            f"container {str(spec.container)!r}",
            "needs the access token of the account's registry, and the account has none any more.",
            f'Save it in the registry of account "{spec.account}".',
        )
    return session.registry_token.get_secret_value()


@step("launch template", "launch template {role}")
def ensure_launch_template(
    aws: Aws, spec: ClusterSpec, role: Role, data: dict[str, Any], scheduler_host: str = ""
) -> str:
    """The launch template of a role, for launches to come: nobody waits for EC2 to know it."""
    name = planning.template_name(spec, role)
    token = planning.client_token(spec.uid, "template", role, scheduler_host)
    labels = planning.cluster_tags(spec, role)
    return launch_templates.ensure_launch_template(aws, name, data, labels, token, wait=False)


@step("find launch template", "find launch template {role}")
def find_launch_template(aws: Aws, spec: ClusterSpec, role: Role) -> str:
    """The launch template that was made with the cluster.

    Raises:
        ProvisionError: If it is gone, so that the cluster is being removed.
    """
    name = planning.template_name(spec, role)
    for found in launch_templates.LAUNCH_TEMPLATE.find(aws, Scope(spec.name)):
        if found["LaunchTemplateName"] == name:
            return str(found["LaunchTemplateId"])
    raise ProvisionError(
        f"finding launch template ({name})",
        "it is gone, so the cluster is being removed",
        "Make a new cluster.",
    )


@step("scheduler address")
def wait_for_address(aws: Aws, scheduler: InstanceRecord, public: bool) -> InstanceRecord:
    """Wait until the scheduler's addresses are known, the public one if it has one; it may be pending still.

    Raises:
        ProvisionError: If the machine ended before.
    """

    def ready() -> InstanceRecord | None:
        found = instances.find_by_id(aws, scheduler.instance_id)
        if found is None:
            return None
        if found.state not in instances.RUNS:
            raise ProvisionError(
                f"starting the scheduler ({scheduler.instance_id})",
                f"the machine is {found.state}: {found.state_reason.rstrip('. ')}.",
                "Its console says why: `prefect-coiled logs`.",
            )
        # A list may lack what the launch's reply had:
        # https://github.com/aws/aws-parallelcluster/issues/7265
        return found if found.private_ip and (found.public_ip or not public) else None

    what = f"waiting for the address of the scheduler ({scheduler.instance_id})"
    return wait_for(aws, what, ready, timeout=PUBLIC_ADDRESS, interval=2.0, first=VISIBLE_SOON)
