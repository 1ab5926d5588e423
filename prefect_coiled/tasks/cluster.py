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
from prefect_coiled.aws.price_list import find_prices
from prefect_coiled.aws.waits import PUBLIC_ADDRESS, VISIBLE_SOON, wait_for
from prefect_coiled.errors import (
    AccessDeniedError,
    NameTakenError,
    OptionsError,
    ProvisionError,
)
from prefect_coiled.internals.python import side_by_side
from prefect_coiled.plan import cluster as planning
from prefect_coiled.plan.certificates import WEEK_S, ClusterCertificates
from prefect_coiled.plan.cluster import ClusterSpec
from prefect_coiled.plan.kept import MOST_WAYS, keep_of
from prefect_coiled.plan.kinds import Scope
from prefect_coiled.plan.node_config import ClientSecrets, NodeSecrets
from prefect_coiled.plan.policies import key_statements
from prefect_coiled.plan.prices import Prices
from prefect_coiled.plan.user_data import Place, token_parameter, user_data
from prefect_coiled.records import InstanceRecord, MachineImage, OwnNetwork, Record, Role
from prefect_coiled.tasks.steps import Session, step


@step("claim name", "claim name {spec.name}")
def claim_name(aws: Aws, spec: ClusterSpec) -> None:
    """Write the cluster's intent under its name, before anything else exists of it.

    Raises:
        NameTakenError: If the name is taken by another cluster of this account and region.
    """
    name = parameters.intent_of(spec.account, spec.name)
    labels = planning.cluster_tags(spec)
    if parameters.claim(aws, name, spec.encode(), labels):
        return
    if read_holder(aws, spec.name) == spec.uid:  # our own claim, whose reply was lost
        return
    raise NameTakenError(
        f"naming the cluster {spec.name!r}",
        f"account {spec.account!r} has a cluster of that name in {spec.region}",
        "Attach to it with Cluster(name=...), choose another name, or run `prefect-coiled sweep`.",
    )


def read_intent(aws: Aws, name: str) -> ClusterSpec | None:
    """The spec of the cluster that holds the name, as it was planned, if one does."""
    text = parameters.read_parameter(aws, parameters.intent_of(aws.account, name))
    return None if text is None else ClusterSpec.decode(text)


def read_holder(aws: Aws, name: str) -> str | None:
    """The uid of the cluster that holds the name, whatever version of this library wrote it; None if free."""
    text = parameters.read_parameter(aws, parameters.intent_of(aws.account, name))
    return None if text is None else planning.uid_of(text)


def read_plan(aws: Aws, name: str) -> ClusterSpec | None:
    """The spec of the cluster that holds the name, with what was changed since, if one does."""
    spec = read_intent(aws, name)
    if spec is None:
        return None
    changed = parameters.read_parameter(aws, _changed(spec))
    return spec if changed is None else ClusterSpec.decode(changed)


@step("write changed plan", "write changed plan of {spec.name}")
def write_plan(aws: Aws, spec: ClusterSpec) -> None:
    """Write the changed plan of a cluster beside its intent, whose age is that of the cluster."""
    parameters.write(aws, _changed(spec), spec.encode(), planning.cluster_tags(spec))


def forget_plan(aws: Aws, spec: ClusterSpec) -> None:
    """Take a changed plan back if the cluster was removed meanwhile: who removed it has not seen this one."""
    if read_holder(aws, spec.name) != spec.uid:
        parameters.delete_parameters(aws, [_changed(spec)])


def _changed(spec: ClusterSpec) -> str:
    return f"{parameters.cluster_path(spec.account, spec.name, spec.uid)}plan"


@step("check name", "check name {spec.name}")
def check_held(aws: Aws, spec: ClusterSpec) -> None:
    """See that the cluster still has its name: just before machines are made for it.

    Raises:
        NameTakenError: If it was removed meanwhile, or the name is another cluster's by now.
    """
    holder = read_holder(aws, spec.name)
    if holder != spec.uid:
        raise not_held(spec, holder)


def not_held(spec: ClusterSpec, holder: str | None) -> NameTakenError:
    """The error of a cluster that does not have its name any more."""
    whose = "nobody's" if holder is None else "another cluster's"
    return NameTakenError(
        f"launching machines of cluster {spec.name!r}",
        f"it was removed meanwhile, and the name is {whose} by now",
        "Make a new cluster.",
    )


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
    lifetime = WEEK_S + (spec.scheduler_node.cluster_timeout or 0.0)
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


def launch_data(
    spec: ClusterSpec,
    role: Role,
    image: MachineImage,
    profile: str,
    scheduler_host: str = "",
    environment: Place | None = None,
    ways: int = MOST_WAYS,
    prices: Prices | None = None,
) -> dict[str, Any]:
    """What a launch says of the machines of a role; that of workers names the scheduler's address.

    Args:
        ways: By how many templates a scheduler may launch workers.
        prices: What a scheduler counts with.
    """
    script = role_user_data(spec, role, scheduler_host, environment, ways, prices)
    return planning.launch_template(spec, role, image=image, profile=profile, user_data=script)


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


def prices_of(aws: Aws, spec: ClusterSpec) -> Prices:
    """What the machines of a cluster cost, of all types that it may get."""
    spot = () if spec.spot_policy == "on-demand" else spec.worker_types
    return find_prices(aws, {*spec.scheduler_types, *spec.worker_types}, spot=spot)


# As long as the longest address of a lock there can be, for a check before any is known.
_SOMEWHERE = Place("b" * 63, f"wheels/environments/{'0' * 16}/pylock.toml", "3.10.10")


def check_sizes(spec: ClusterSpec, prices: Prices) -> None:
    """See that the plan and the user data of both roles can be written, before anything is made.

    Raises:
        OptionsError: If the plan is too large for a parameter, or as `role_user_data` does.
    """
    parameters.check_size(spec.encode())
    for role in ("scheduler", "worker"):
        place = _SOMEWHERE if spec.installs else None
        role_user_data(spec, role, "255.255.255.255", place, prices=prices)


def role_user_data(
    spec: ClusterSpec,
    role: Role,
    scheduler_host: str = "",
    environment: Place | None = None,
    ways: int = MOST_WAYS,
    prices: Prices | None = None,
) -> str:
    """The user data of a role, with where to install from unless the image holds everything.

    Raises:
        OptionsError: If it does not fit.
    """
    node = spec.node(role)
    if role == "worker":
        node = node.model_copy(update={"scheduler_host": scheduler_host})
    else:
        billed = planning.billed_of(spec, prices)
        node = node.model_copy(update={"keep": keep_of(spec, ways), "billed": billed})
    return user_data(node, environment, container=spec.container)


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
        if found.state not in ("pending", "running"):
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
