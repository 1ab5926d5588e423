"""Steps that launch a cluster's machines and make what they need."""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timezone

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
from prefect_coiled.aws.waits import PUBLIC_ADDRESS, wait_for
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
from prefect_coiled.plan.user_data import Place, token_parameter, user_data
from prefect_coiled.records import InstanceRecord, MachineImage, OwnNetwork, Role
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
        whose = "nobody's" if holder is None else "another cluster's"
        raise NameTakenError(
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
    key = find_disk_key(aws)
    if not key:
        return
    may = may_use_key(aws, caller.find_caller(aws), key, session.role_arn)
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


@step("security groups", "security groups of {spec.name}")
def ensure_security_groups(
    aws: Aws, spec: ClusterSpec, vpc_id: str, *, make: bool = True
) -> dict[Role, list[str]]:
    """The two groups; returns which of them a machine of each role gets.

    Args:
        make: Whether they are made where they are not there.

    Raises:
        ProvisionError: They are not there and are not to be made, so the cluster is being removed.
    """
    own = spec.network

    def inside() -> str:
        return security_groups.ensure_security_group(
            aws,
            planning.group_name(spec, "cluster"),
            f"Dask cluster {spec.name}: its machines among themselves",
            vpc_id,
            planning.cluster_tags(spec, name=f"coiled-{spec.name}-cluster"),
            planning.cluster_permissions(),
            make=make,
        )

    def clients() -> str:
        return security_groups.ensure_security_group(
            aws,
            planning.group_name(spec, "scheduler"),
            f"Dask cluster {spec.name}: clients to the scheduler",
            vpc_id,
            planning.cluster_tags(spec, "scheduler"),
            planning.scheduler_permissions(spec.ingress, ssh=spec.ssh),
            make=make,
        )

    given = (own.firewall_id, own.scheduler_firewall_id) if own is not None else ("", "")
    # EC2 knows a new group after a moment, which both wait for together.
    pairs = zip(given, (inside, clients), strict=True)
    among, entry = side_by_side(lambda pair: pair[0] or pair[1](), pairs)
    return {"scheduler": [entry, among], "worker": [among]}


@step("image", "image {architecture}")
def find_image(aws: Aws, architecture: str) -> MachineImage:
    """A plain machine image, which holds nothing yet."""
    return images.find_image(aws, architecture)


@step("TLS keys")
def make_keys(session: Session, spec: ClusterSpec) -> None:
    """A CA for this cluster alone, and a certificate for each role, into SSM as SecureStrings.

    The CA's key is dropped at once. What a client needs stays in the session, and in SSM for clients that
    attach later; machines may read their own role's parameter only.
    """
    lifetime = WEEK_S + (spec.scheduler_node.cluster_timeout or 0.0)
    made = ClusterCertificates.make(spec.name, datetime.now(timezone.utc), lifetime)
    token = secrets.token_urlsafe(32)
    shared = {
        "environ": dict(session.environ),
        "dask_config": dict(session.dask_config),
        "host_setup_script": session.host_setup_script,
    }
    values = {
        spec.scheduler_node.secrets_parameter: NodeSecrets(
            ca=made.ca, cert=made.scheduler.cert, key=made.scheduler.key, dashboard_token=token, **shared
        ).encode(),
        spec.worker_node.secrets_parameter: NodeSecrets(
            ca=made.ca, cert=made.worker.cert, key=made.worker.key, **shared
        ).encode(),
    }
    client = ClientSecrets(ca=made.ca, cert=made.client.cert, key=made.client.key, dashboard_token=token)
    values[client_parameter(spec)] = client.encode()
    if spec.container is not None and spec.container.login == "token":
        values[token_parameter(spec.worker_node)] = _registry_token(session, spec)
    for name, value in values.items():
        parameters.put_secret(session.aws, name, value, planning.cluster_tags(spec))
    session.client_secrets = client


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
    aws: Aws,
    spec: ClusterSpec,
    role: Role,
    image: MachineImage,
    profile: str,
    scheduler_host: str = "",
    environment: Place | None = None,
    ways: int = MOST_WAYS,
) -> str:
    """The launch template of a role; that of the workers names the scheduler's address.

    Args:
        ways: By how many templates a scheduler may launch workers.
    """
    script = role_user_data(spec, role, scheduler_host, environment, ways)
    data = planning.launch_template(spec, role, image=image, profile=profile, user_data=script)
    name = planning.template_name(spec, role)
    token = planning.client_token(spec.uid, "template", role, scheduler_host)
    return launch_templates.ensure_launch_template(aws, name, data, planning.cluster_tags(spec, role), token)


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


# As long as the longest address of a lock there can be, for a check before any is known.
_SOMEWHERE = Place("b" * 63, f"wheels/environments/{'0' * 16}/pylock.toml", "3.10.10")


def check_sizes(spec: ClusterSpec) -> None:
    """See that the plan and the user data of both roles can be written, before anything is made.

    Raises:
        OptionsError: If the plan is too large for a parameter, or as `role_user_data` does.
    """
    parameters.check_size(spec.encode())
    for role in ("scheduler", "worker"):
        role_user_data(spec, role, "255.255.255.255", _SOMEWHERE if spec.installs else None)


def role_user_data(
    spec: ClusterSpec,
    role: Role,
    scheduler_host: str = "",
    environment: Place | None = None,
    ways: int = MOST_WAYS,
) -> str:
    """The user data of a role, with where to install from unless the image holds everything.

    Raises:
        OptionsError: If it does not fit.
    """
    node = spec.node(role)
    if role == "worker":
        node = node.model_copy(update={"scheduler_host": scheduler_host})
    else:
        node = node.model_copy(update={"keep": keep_of(spec, ways)})
    return user_data(node, environment, container=spec.container)


@step("scheduler address")
def wait_for_address(aws: Aws, scheduler: InstanceRecord, public: bool) -> InstanceRecord:
    """Wait until the scheduler runs and its addresses are known, the public one if it has one.

    Raises:
        ProvisionError: If the machine ended before.
    """

    def ready() -> InstanceRecord | None:
        found = instances.find_by_id(aws, scheduler.instance_id)
        if found is None or found.state == "pending":
            return None
        if found.state != "running":
            raise ProvisionError(
                f"starting the scheduler ({scheduler.instance_id})",
                f"the machine is {found.state}: {found.state_reason.rstrip('. ')}.",
                "Its console says why: `prefect-coiled logs`.",
            )
        # A list may lack what the launch's reply had:
        # https://github.com/aws/aws-parallelcluster/issues/7265
        return found if found.private_ip and (found.public_ip or not public) else None

    what = f"waiting for the address of the scheduler ({scheduler.instance_id})"
    return wait_for(aws, what, ready, timeout=PUBLIC_ADDRESS)
