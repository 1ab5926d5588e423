"""From what is asked for to a cluster that runs: attach to the one of that name, or launch it.

`Cluster` runs this in a thread of its own. Nothing here knows of an event loop.
"""

from __future__ import annotations

import os
import threading
import time

from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL

from prefect_coiled import events
from prefect_coiled.aws import ecr, instances, parameters
from prefect_coiled.aws.caller import known_caller, own_cidr
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.lending import Lender
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.aws.price_list import find_prices
from prefect_coiled.aws.waits import CONSISTENCY, wait_for
from prefect_coiled.blocks import load_account
from prefect_coiled.blocks.asking import api_failures, ensure_api
from prefect_coiled.cluster.launched import ENDED, Launched
from prefect_coiled.cluster.request import Request
from prefect_coiled.errors import NameTakenError, OptionsError, ProvisionError, UnavailableError
from prefect_coiled.events.spans import Client
from prefect_coiled.plan import machines
from prefect_coiled.plan.cluster import ClusterSpec, uid_of
from prefect_coiled.plan.node_config import ClientSecrets
from prefect_coiled.provision import create_cluster, remove_cluster
from prefect_coiled.provision.budget import hold_to_budget
from prefect_coiled.provision.clusters import find_cluster, give_back
from prefect_coiled.provision.slots import Slot, take_slot
from prefect_coiled.subscribers.notifications import Notifications
from prefect_coiled.subscribers.story import Story
from prefect_coiled.tasks.cluster import client_parameter
from prefect_coiled.tasks.environment import PATIENCE, prepare
from prefect_coiled.tasks.machine_data import check_sizes, prices_of
from prefect_coiled.tasks.steps import Session, use_session

# Seconds from a name's being claimed until its scheduler is there, and to wait for machines that are going.
_SOMEBODY_STARTS, _SHORTLY = 180.0, 30.0
# Seconds of waiting for a slot after which what was known of the account's budget is old.
_A_WHILE = 30.0


def launch(request: Request, stop: threading.Event, modules: dict[str, bytes] | None = None) -> Launched:
    """Attach to the cluster of the requested name if it lives; launch a new one if not.

    What is told of the cluster from now on, in this context's stream, is kept and shown in Prefect.

    Args:
        modules: The program's own modules, for machines that install their own environment.

    Raises:
        OptionsError: If an option is wrong; nothing was made.
        AccountError: If the account is not known or its credentials do not work; nothing was made.
        PrefectCoiledError: If the launch failed; nothing is left running.
    """
    account = load_account(request.held["account"])
    aws = account.door(request.merged(account).options.region, stop)
    stream, heard = events.here(), Client()
    stream.subscribe(heard)
    caller = known_caller(aws)
    place = account.place(caller.aws_account_id, aws.region)
    stream.subscribe(Notifications(aws))
    events.step(f"account {account.slug}", place)
    wanted = {*request.worker_types(), *request.scheduler_types()}
    unknown = sorted(t for t in wanted if not machines.known(t))
    if unknown:
        instances.check_instance_types(aws, unknown)
    lender = Lender(aws) if request.lends else None
    if lender is not None:
        lender.lend()  # where there is nothing to lend, nothing is launched
    if request.held["name"] is not None and (found := _find_or_await(aws, request.held["name"])):
        return _attached(found, account, place, lender, request)
    image = request.container_image(account, caller.aws_account_id)
    if image is not None:
        ecr.check_image(aws, image, machines.architecture(request.worker_types()))
    on_demand = request.merged(account).options.spot_policy == "on-demand"
    prices = find_prices(aws, wanted, spot=() if on_demand else request.worker_types())
    spec = request.spec(
        account,
        caller.name,
        own_cidr=lambda: own_cidr(aws),
        ports=_ports(account, request.held["scheduler_port"]),
        container=image,
        flow=_flow(),
        prices=prices,
    )

    def hold() -> None:
        if account.monthly_budget is not None:
            what = f"launching cluster {spec.name!r}"
            hold_to_budget(aws, account.monthly_budget, what, request.usd_per_hour(account, prices))

    hold()
    check_sizes(spec, prices)  # what does not fit is said before anything is made
    token = request.merged(account).options.registry.access_token
    story = Story(spec, sandbox=account.is_sandbox)
    stream.subscribe(story)
    dask_config, left = request.dask_config()
    if left:
        names = ", ".join(f"{name} ({why})" for name, why in left.items())
        events.step("dask config", f"not on the machines: {names}")
    session = Session(
        aws,
        request.environ,
        dask_config,
        registry_token=token,
        host_setup_script=request.host_setup_script,
        cluster=spec.name,
        role_arn=account.credentials.role_arn,
    )
    session.prices = prices
    slot: Slot | None = None
    try:
        if spec.installs:
            session.locked = prepare(spec)
            session.locked.add_modules(modules or {})
            if spec.egress != "none" and spec.network is None and not account.is_sandbox:
                # In a network of one's own nobody knows of a way out; a sandbox's bucket is on this machine.
                session.patience = PATIENCE
        if not PREFECT_API_URL.value():
            # Here first of all the API is asked: a temporary server has its time, and is told of.
            ensure_api()
        with use_session(session), api_failures(f"launching cluster {spec.name!r}"):
            slot = take_slot(account.slug, lambda: _running(aws), stop=stop)
            if slot is not None and slot.waited > _A_WHILE:
                hold()  # those that it waited for have spent since
            record = create_cluster(spec)
    except BaseException as error:
        if session.launched:  # the flow's end could not be recorded: the Prefect API may be down by now
            give_back(session, spec)
        if slot is not None:
            slot.release()
        # Somebody else was a moment faster with the name.
        if isinstance(error, NameTakenError) and (found := _find_or_await(aws, spec.name)):
            stream.unsubscribe(story)
            story.close(hurried=True)
            return _attached(found, account, place, lender, request)
        aws.tell("failed", cluster=spec.name, uid=spec.uid, error=error)
        story.close(hurried=True)
        raise
    finally:
        if session.locked is not None:
            session.locked.discard()
    assert session.client_secrets is not None
    launched = Launched(aws, spec, record, session.client_secrets, attached=False, since=session.launched_at)
    launched.slot, launched.place, launched.heard = slot, place, heard
    launched.lender, launched.monthly_budget = lender, account.monthly_budget
    return launched


def _flow() -> str:
    """The name of the flow in whose run this is; empty outside of one."""
    context = FlowRunContext.get()
    return context.flow.name if context is not None and context.flow is not None else ""


def _attached(
    found: Launched, account: Account, place: str, lender: Lender | None, request: Request
) -> Launched:
    told = f"attaching to {found.spec.name}"
    if without := request.of_a_launch():
        verb = "changes" if len(without) == 1 else "change"
        told += f", which stays as it was launched: {', '.join(without)} {verb} nothing"
    events.step("cluster", told)
    if lender is not None and not found.spec.worker_node.lends:
        raise OptionsError(
            'credentials="local"',
            f"cluster {found.spec.name!r} was launched without it: its tasks work with the machines' role.",
            "Leave it out, or choose another name.",
        )
    found.place, found.lender, found.monthly_budget = place, lender, account.monthly_budget
    prices_of(found.aws, found.spec)
    events.here().subscribe(Story(found.spec, sandbox=found.aws.in_sandbox))
    found.tell("attached", record=found.record)
    return found


def _running(aws: Aws) -> int:
    found = instances.find_instances(aws, states=instances.RUNS)
    return len({(m.cluster, m.cluster_uid) for m in found if m.role == "scheduler"})


def find_launched(aws: Aws, name: str) -> Launched | None:
    """The cluster of that name if it is alive, with the keys that a client needs. Reads only.

    Raises:
        ProvisionError: It is being removed.
    """
    found = find_cluster(aws, name)
    if found is None:
        return None
    keys = _client_keys(aws, found[0])
    if keys is None:
        raise _without_keys(name)
    return Launched(aws, *found, keys, attached=True)


def _find_or_await(aws: Aws, name: str) -> Launched | None:
    """The cluster of that name; one that another program has just asked for is waited for.

    So flow runs that start at the same minute share one cluster instead of refusing each other. What is left
    of a cluster of that name that has ended by itself is removed, so that the name is free.

    Raises:
        ProvisionError: It has no keys for clients, and gets none.
        StoppedError: If a stop is asked for.
    """
    intent = parameters.intent_of(aws.account, name)
    end = time.monotonic() + _SOMEBODY_STARTS
    missing = dict[str, float]()  # since when AWS has listed no scheduler of an old claim, by its uid

    def look() -> tuple[Launched | None] | None:
        claimed = parameters.read_with_age(aws, intent)
        if claimed is None:
            return (None,)
        found = find_cluster(aws, name)
        if found is not None:
            missing.clear()
            # Its keys come last, and go before its name does.
            spec, record = found
            keys = _client_keys(aws, spec)
            if keys is None and time.monotonic() > end:
                raise _without_keys(name)
            if keys is None or (record.use_public_ip and not record.scheduler.public_ip):
                return None
            return (Launched(aws, spec, record, keys, attached=True),)
        uid = uid_of(claimed[0])
        ended = instances.find_instances(aws, name, uid=uid, states=ENDED)
        now, old = time.monotonic(), claimed[1] > parameters.STARTING
        # A list that lacks a scheduler is no proof that it has ended: AWS's may be incomplete for a while.
        missed = old and now - missing.setdefault(uid, now) > CONSISTENCY
        if missed or any(m.role == "scheduler" for m in ended):
            events.step("cluster", f"removing what an earlier {name} left")
            removal = remove_cluster(aws, name, uid, patience=_SHORTLY)
            # As long as something is left the name is taken.
            return (None,) if removal.is_done or time.monotonic() > end else None
        if old:
            events.step("cluster", f"seeing whether an earlier {name} has ended")
            return None
        events.step("cluster", f"waiting for {name}, which is coming up")
        # Nobody is at it any more if it takes longer; claiming the name says so.
        return (None,) if time.monotonic() > end else None

    def look_again() -> tuple[Launched | None] | None:
        try:
            return look()
        except UnavailableError:
            if time.monotonic() > end:
                raise
            missing.clear()
            return None  # the next look may be answered

    what = f"waiting for cluster ({name}), which somebody else starts"
    (found,) = wait_for(aws, what, look_again, timeout=2 * _SOMEBODY_STARTS, interval=2.0)
    return found


def _ports(account: Account, shared: int | None) -> tuple[int, int, int | None]:
    """Ports of scheduler and dashboard, and one for both if the user named one.

    They are Dask's own and the user's, unless the sandbox has one address for all machines. Its machines are
    processes of the user's, whom most systems give no port below 1024.
    """
    if account.sandbox is None:
        return 8786, 8787, shared
    free = account.sandbox.free_port
    many = account.sandbox.addresses == "many"
    if shared and not (many and (shared >= 1024 or getattr(os, "geteuid", lambda: 1)() == 0)):
        shared = free()
    return (8786, 8787, shared) if many else (free(), free(), shared)


def _client_keys(aws: Aws, spec: ClusterSpec) -> ClientSecrets | None:
    text = parameters.read_parameter(aws, client_parameter(spec))
    return None if text is None else ClientSecrets.decode(text)


def _without_keys(name: str) -> ProvisionError:
    return ProvisionError(
        f"attaching to cluster {name!r}",
        "its keys are gone, so it is being removed",
        "Choose another name, or wait until it is gone.",
    )
