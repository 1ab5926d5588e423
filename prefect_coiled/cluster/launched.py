"""The blocking half of a cluster: what talks to AWS and to Prefect, in the order of a cluster's life.

`Cluster` runs these in a thread of its own and keeps to Dask's side. Nothing here knows of an event loop.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timezone
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect_coiled import events
from prefect_coiled.aws import instances, log_events, security_groups
from prefect_coiled.aws.caller import own_cidr
from prefect_coiled.aws.door import Aws
from prefect_coiled.aws.lending import Lender
from prefect_coiled.aws.price_list import find_prices, seen_prices
from prefect_coiled.aws.waits import persistently
from prefect_coiled.blocks import load_account
from prefect_coiled.blocks.asking import api_failures
from prefect_coiled.costs import CostEstimate, MachineUse, estimate
from prefect_coiled.errors import (
    CredentialsError,
    PrefectCoiledError,
)
from prefect_coiled.events import Watch
from prefect_coiled.events.spans import Client, Span, timeline
from prefect_coiled.options import IngressRule
from prefect_coiled.options.ingress import by_one_port, check_ssh, held_rules
from prefect_coiled.plan.cluster import ClusterSpec, Held, group_name, rules_of
from prefect_coiled.plan.lid import worker_rate
from prefect_coiled.plan.node_config import ClientSecrets
from prefect_coiled.provision import (
    add_workers,
    change_ingress,
    delete_cluster,
    remove_cluster,
)
from prefect_coiled.provision.budget import hold_to_budget
from prefect_coiled.provision.cluster_removal import terminate, told
from prefect_coiled.provision.slots import Slot
from prefect_coiled.provision.timeline import find_timeline, of_machines
from prefect_coiled.records import ClusterRecord, InstanceRecord, Removal
from prefect_coiled.tasks.known import forget
from prefect_coiled.tasks.steps import Session, use_session

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

# Of machines that run no more, or are about to.
ENDED = ("shutting-down", "terminated", "stopping", "stopped")


def _by_present_keys(do: Callable[Concatenate[Launched, P], T]) -> Callable[Concatenate[Launched, P], T]:
    """Do something; where AWS takes the keys no more, again by those that the account has by now.

    Keys of a user are replaced while clusters run, and the old ones deleted.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/id-credentials-access-keys-update.html
    """

    @wraps(do)
    def by_present_keys(self: Launched, /, *args: P.args, **keywords: P.kwargs) -> T:
        try:
            return do(self, *args, **keywords)
        except CredentialsError as error:
            try:
                fresh = load_account(self.record.account).door(self.record.region)
            except PrefectCoiledError:
                raise error from None
            if fresh.session is self.aws.session:
                raise
            name = self.record.name
            logger.info("AWS does not take the keys of cluster %s any more: they are read again", name)
            self.aws = fresh.without_stop()
        return do(self, *args, **keywords)

    return by_present_keys


class Launched:
    """A cluster that was launched or attached to.

    Attributes:
        aws: The door; deaf to the stop event, because what is launched must also be removed.
        slot: Its slot of the account's concurrency limit, if there is such a limit.
        since: When its machines were launched, or were found, by `time.monotonic`.
        heard: What this program did to bring it up; None if another one did.
        monthly_budget: What all clusters of its account may cost in a calendar month, in US dollars.
    """

    slot: Slot | None = None
    place: str = ""
    heard: Client | None = None
    lender: Lender | None = None
    monthly_budget: float | None = None

    def __init__(
        self,
        aws: Aws,
        spec: ClusterSpec,
        record: ClusterRecord,
        keys: ClientSecrets,
        *,
        attached: bool,
        since: float | None = None,
    ) -> None:
        self.since = time.monotonic() if since is None else since
        self.aws = aws.without_stop()
        self.spec = spec
        self.record = record
        self.keys = keys
        self.attached = attached
        # Every machine that there was, and until when, if it is not there any more.
        self._ran: dict[str, tuple[InstanceRecord, datetime | None]] = {
            w.instance_id: (w, None) for w in record.workers
        }

        # When the last worker of a machine had gone, as this program saw it.
        self._left: dict[str, datetime] = {}

    @property
    def shared(self) -> str:
        """The scheduler's machine, if it has workers too; empty if not."""
        return self.record.scheduler.instance_id if self.spec.works else ""

    @property
    def workers(self) -> tuple[InstanceRecord, ...]:
        """The machines with workers, as it was launched."""
        return (*((self.record.scheduler,) if self.shared else ()), *self.record.workers)

    @property
    def address(self) -> str:
        """Where clients reach the scheduler."""
        return f"tls://{self.record.scheduler_host}:{self.record.scheduler_port}"

    @property
    def dashboard_link(self) -> str:
        """Where the dashboard is, with the token that opens it."""
        token = self.keys.dashboard_token.get_secret_value()
        return f"https://{self.record.scheduler_host}:{self.record.dashboard_port}/status?token={token}"

    @property
    def waited(self) -> float:
        """Seconds that were waited for a slot, before anything was launched."""
        return self.slot.waited if self.slot is not None else 0.0

    def let_go(self) -> None:
        """Give the slot back. A cluster that stays counts as what AWS shows of it."""
        if self.slot is not None:
            self.slot.release()

    def tell(self, kind: str, text: str = "", **fields: Any) -> None:
        """Tell something of this cluster, to whoever hears what is told in this context."""
        self.aws.tell(kind, text, cluster=self.record.name, uid=self.record.uid, **fields)

    def add(self, count: int) -> list[InstanceRecord]:
        """Launch more workers.

        Raises:
            OptionsError: The account's monthly budget leaves no room for them.
        """
        made = self._add(count, secrets.token_hex(4))
        self._ran.update({w.instance_id: (w, None) for w in made})
        return made

    @_by_present_keys
    def _add(self, count: int, token: str) -> list[InstanceRecord]:
        """Launch them; sent again with its token, it launches nothing twice."""
        if self.monthly_budget is not None:
            more = f"{count} more worker{'s' if count != 1 else ''} for cluster {self.record.name!r}"
            rate = worker_rate(self.spec, find_prices(self.aws, self.spec.worker_types))
            hold_to_budget(self.aws, self.monthly_budget, more, count * rate)
        events.step("workers", f"launching {count} more")
        what = f"scaling cluster {self.record.name!r}"
        with use_session(Session(self.aws, cluster=self.record.name)), api_failures(what):
            return add_workers(self.spec, self.record, count, token)

    @_by_present_keys
    def set_ingress(self, ingress: Collection[IngressRule]) -> tuple[IngressRule, ...]:
        """Replace the rules of the scheduler's security group; returns those that hold."""
        known = by_one_port(tuple(ingress), self.spec.scheduler_node.one_port)
        rules = [r.model_copy(update={"cidr": own_cidr(self.aws)}) if r.cidr == "me" else r for r in known]
        check_ssh(rules, ssh=self.spec.ssh)
        record = self.record
        what = f"changing who may reach cluster {record.name!r}"
        with use_session(Session(self.aws, cluster=record.name)), api_failures(what):
            change_ingress(record.account, record.region, record.name, rules, uid=record.uid)
        self.spec = self.spec.model_copy(update={"ingress": tuple(rules)})
        return held_rules(rules, ssh=self.spec.ssh)

    @_by_present_keys
    def held_ingress(self) -> tuple[Held, ...]:
        """Who may reach the scheduler: the rules of its security group, as AWS has them."""
        own = self.spec.network.scheduler_firewall_id if self.spec.network is not None else ""
        name = "" if own else group_name(self.spec, "scheduler")
        return rules_of(security_groups.read_permissions(self.aws, group_id=own, name=name))

    @_by_present_keys
    def timeline(self) -> tuple[Span, ...]:
        """How it came up: what the client did, and by their logs what its machines did."""
        heard, record = self.heard, self.record
        if heard is None:
            return find_timeline(self.aws, record.name, record.uid)
        until = datetime.now(timezone.utc)
        return timeline((*heard.spans, *of_machines(self.aws, heard.machines, until)))

    def left(self, machine: str) -> None:
        """A machine has no worker any more, and ends by itself; what it costs is counted until now."""
        self._left[machine] = datetime.now(timezone.utc)

    def came(self, machines: Iterable[str]) -> None:
        """These have a worker."""
        for machine in machines:
            self._left.pop(machine, None)

    def doubt(self) -> None:
        """What is known of the account is looked at again by the next launch: this one's machines failed."""
        forget(self.aws)

    @_by_present_keys
    def terminate_workers(self, ids: Collection[str]) -> None:
        """Terminate some of the workers."""
        listed = sorted(ids)
        what = f"terminating {len(listed)} workers"
        unknown = persistently(self.aws, what, lambda: instances.terminate_instances(self.aws, listed))
        if unknown:  # a list tells those that are gone from those that AWS does not know yet
            instances.wait_terminated(self.aws, unknown)
        self.tell("scale", f"removed {len(listed)} workers from {self.record.name}", ids=tuple(listed))
        now = datetime.now(timezone.utc)
        self._ran.update({one: (self._ran[one][0], now) for one in listed if one in self._ran})

    @_by_present_keys
    def terminate(self, workers: Collection[str]) -> list[str]:
        """Terminate every machine of the cluster; returns the ids of those that had not ended before."""
        known = (self.record.scheduler.instance_id, *workers)
        over: set[str] = set()
        ended = terminate(self.aws, self.record.name, self.record.uid, known, over)
        return [one for one in ended if one not in over]

    @_by_present_keys
    def remove(self, ended: Collection[str], patience: float) -> Removal:
        """Remove the cluster as a flow that the UI shows, or without one where Prefect does not answer."""
        record, ids = self.record, tuple(ended)
        try:
            with use_session(Session(self.aws, cluster=record.name)):
                return delete_cluster(record.account, record.region, record.name, record.uid, ids, patience)
        except PrefectCoiledError:
            raise
        except BaseException as error:
            # The Prefect API may be down, or going down with this process; or the flow run that the cluster
            # was for is suspended, which is no Exception. The cluster goes all the same.
            known = isinstance(error, Exception)
            why = "" if known else f": the flow run takes no further step ({type(error).__name__})"
            text = "Cluster %s is removed without a record in Prefect%s"
            logger.log(logging.WARNING if known else logging.INFO, text, record.name, why, exc_info=known)
            return self.remove_plainly(ids, patience)

    def remove_plainly(self, ids: Iterable[str], patience: float, *, threads: bool = True) -> Removal:
        """Remove the cluster with nothing but AWS calls, and tell of it as the flow does."""
        record, watch = self.record, Watch()
        with use_session(Session(self.aws, cluster=record.name), threads=threads):
            removal = remove_cluster(self.aws, record.name, record.uid, ids=tuple(ids), patience=patience)
            told(self.aws, record.name, (record.uid,), removal, watch)
        return removal

    @_by_present_keys
    def machines(self, states: Iterable[str]) -> list[InstanceRecord]:
        """The cluster's machines that are in one of the states."""
        return instances.find_instances(self.aws, self.record.name, uid=self.record.uid, states=states)

    def listed_workers(self) -> list[InstanceRecord]:
        """The machines with workers, in any state, that AWS lists, whoever launched them."""
        listed = self.machines((*instances.LIVE, *ENDED))
        found = [m for m in listed if m.role == "worker" or m.instance_id == self.shared]
        now = datetime.now(timezone.utc)
        for machine in (m for m in found if m.instance_id != self.shared):
            name = machine.instance_id
            known, gone = self._ran.get(name, (machine, None))
            if machine.state in ENDED:
                gone = gone or self._left.get(name, now)
            elif name in self._left:
                self._left[name] = now  # it runs all the same
            self._ran[name] = (known, gone)
        return found

    @_by_present_keys
    def log(self, instance_id: str, tail: int | None = None) -> str:
        """A machine's log; its console if it never shipped one."""
        ((_, lines),) = log_events.said(self.aws, [instance_id], tail=tail)
        return "\n".join(lines)

    @_by_present_keys
    def logs(self, ids: Collection[str]) -> dict[str, str]:
        """The logs of any number of machines, whole; its console for one that never shipped any."""
        found = log_events.said(self.aws, ids, since=self.record.created_at - log_events.EARLIER)
        return {one: "\n".join(lines) for one, lines in found}

    def cost(self, until: datetime | None = None) -> CostEstimate:
        """What the cluster costs by AWS's list prices from its launch on, in which nothing is waited for."""
        record, spec = self.record, self.spec
        end = until or datetime.now(timezone.utc)
        launched_at = record.scheduler.launched_at or record.created_at
        # The one is AWS's clock, the other this machine's, which may be behind.
        hours = max((end - launched_at).total_seconds(), 0.0) / 3600
        uses = [
            MachineUse(
                vm_type=record.scheduler.instance_type,
                hours=hours,
                disk_gb=spec.scheduler_disk,
                public_ip=spec.has_public_address("scheduler"),
                label="scheduler",
            )
        ]
        ran: dict[tuple[str, bool], list[float]] = {}
        for name, (worker, ended) in self._ran.items():
            gone = ended or self._left.get(name)
            begun = worker.launched_at or record.created_at
            seconds = max((min(gone or end, end) - begun).total_seconds(), 0.0)
            ran.setdefault((worker.instance_type, worker.spot), []).append(seconds / 3600)
        for (kind, spot), times in ran.items():
            uses.append(
                MachineUse(
                    vm_type=kind,
                    count=len(times),
                    hours=sum(times) / len(times),
                    spot=spot,
                    disk_gb=spec.worker_disk,
                    throughput=spec.worker_disk_throughput,
                    public_ip=spec.has_public_address("worker"),
                    label="workers",
                )
            )
        nat = hours if spec.egress == "nat" and spec.network is None else 0.0
        return estimate(uses, nat_gateway_hours=nat, region=record.region, prices=seen_prices(self.aws))
