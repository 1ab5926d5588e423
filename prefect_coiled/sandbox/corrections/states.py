"""Couples moto's instances to the machines of the supervisor, so that states are real.

moto says running and terminated at once, starts terminated instances again and forgets who ended them.
Here an instance is pending until its first process is there, and shutting-down or stopping until its last
one is gone; a public address shows once it is running.
"""

from __future__ import annotations

import base64
import copy
import threading
from typing import Any

from moto.core.responses import ActionResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.responses import EC2Response

from prefect_coiled.sandbox.corrections.errors import ec2_error
from prefect_coiled.sandbox.plane import By, Ending
from prefect_coiled.sandbox.supervisor import Supervisor

__all__ = ["Instances", "install"]

_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
_REASONS = {
    "instance": ("Client.InstanceInitiatedShutdown", "Instance initiated shutdown"),
    "spot": ("Server.SpotInstanceTermination", "Spot instance termination"),
    "server": ("Server.InternalError", "Internal error on launch"),
    "user": ("Client.UserInitiatedShutdown", "User initiated shutdown"),
}
# What is said of a machine whose disk could not be encrypted or read.
_UNREADABLE = ("Client.InternalError", "Client error on launch")
_IMPAIRED = {"Details": [{"Name": "reachability", "Status": "failed"}], "Status": "impaired"}


def _set_state(instance: Any, name: str) -> None:
    instance._state.name, instance._state.code = name, _CODES[name]


class Instances:
    """All instances by id, and what the supervisor tells about them (its `Events`)."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._known: dict[str, Any] = {}
        self._wants_public: set[str] = set()
        self._moto_terminate = Instance.terminate
        self._moto_stop = Instance.stop

    def add(self, instance: Any, address: str) -> None:
        """A new instance: pending, at an address that really answers, without its public one."""
        self._known[instance.id] = instance
        nic = instance.nics[0]
        nic.private_ip_address = address
        nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": address}]
        if nic.public_ip:
            self._wants_public.add(instance.id)
            nic.public_ip = None
        _set_state(instance, "pending")

    def get(self, instance_id: str) -> Any:
        """The instance, or None."""
        return self._known.get(instance_id)

    def live(self) -> list[Any]:
        """All but those that are terminated."""
        return [instance for instance in self._known.values() if instance.state != "terminated"]

    def ended_any(self, instance_ids: set[str]) -> bool:
        """Whether one of them is shutting down or terminated."""
        with self._lock:
            found = [self._known[name] for name in instance_ids if name in self._known]
            return any(instance.state in ("shutting-down", "terminated") for instance in found)

    def describe(self) -> dict[str, Any]:
        """Id, region and state of each, for the admin interface."""
        return {
            name: {"state": instance.state, "region": instance.region_name}
            for name, instance in self._known.items()
        }

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._wants_public.clear()

    def ending(self, instance_id: str, how: Ending) -> None:
        """See `Events`."""
        states = {"terminate": "shutting-down", "stop": "stopping", "reboot": "running"}
        _set_state(self._known[instance_id], states[how])

    def running(self, instance_id: str, public_address: str) -> None:
        """See `Events`."""
        instance = self._known[instance_id]
        if instance_id in self._wants_public:
            instance.nics[0].public_ip = public_address
        _set_state(instance, "running")

    def ended(self, instance_id: str, how: Ending, by: By) -> None:
        """See `Events`."""
        instance = self._known[instance_id]
        if how == "terminate":
            # moto's own bookkeeping: interfaces, volumes, fleets, profile.
            self._moto_terminate(instance)
            subnet = instance.ec2_backend.get_subnet(instance.subnet_id)
            for address in instance._private_ips:
                subnet.del_subnet_ip(address)
            instance._private_ips.clear()
            _set_state(instance, "terminated")
        else:
            self._moto_stop(instance)
            _set_state(instance, "stopped")
        code, message = _UNREADABLE if getattr(instance, "unreadable", False) else _REASONS[by]
        instance.state_reason.code, instance.state_reason.message = code, f"{code}: {message}"

    def shutdown_behavior(self, instance_id: str) -> Ending:
        """See `Events`."""
        asked = self._known[instance_id].instance_initiated_shutdown_behavior
        return "terminate" if asked == "terminate" else "stop"


def install(supervisor: Supervisor, instances: Instances) -> None:
    """Let moto's launches, stops and starts move the supervisor's machines."""
    moto_run, moto_start = InstanceBackend.run_instances, Instance.start

    def run_instances(self: Any, *args: Any, **kwargs: Any) -> Any:
        reservation = moto_run(self, *args, **kwargs)
        new = []
        for instance in reservation.instances:
            address = supervisor.address(instance.id, instance.nics[0].private_ip_address)
            instances.add(instance, address.private)
            user_data = base64.b64decode(str(instance.user_data)) if instance.user_data else b""
            new.append((instance.id, address, user_data, str(instance.image_id)))
        supervisor.launch(new)
        return reservation

    def terminate(self: Any) -> Any:
        before = copy.copy(self._state)
        if self.state not in ("shutting-down", "terminated"):
            supervisor.end(self.id, "terminate")
        return before

    def stop(self: Any) -> Any:
        before = copy.copy(self._state)
        if self.state in ("shutting-down", "terminated", "pending"):
            raise _wrong_state(self, "stopped")
        if self.lifecycle == "spot":
            message = f"You can't stop the Spot Instance '{self.id}' because its request is one-time."
            raise ec2_error("UnsupportedOperation", message)
        if self.state == "running":
            supervisor.end(self.id, "stop")
        return before

    def start(self: Any) -> Any:
        before = copy.copy(self._state)
        if self.state in ("pending", "running"):
            return before
        if self.state != "stopped":
            raise _wrong_state(self, "started")
        moto_start(self)
        self.nics[0].public_ip = None
        _set_state(self, "pending")
        supervisor.start(self.id)
        return before

    def reboot(self: Any) -> None:
        if self.state != "running":
            raise _wrong_state(self, "rebooted")
        supervisor.end(self.id, "reboot")

    def terminate_instances(self: Any) -> Any:
        ids = self._get_param("InstanceIds", [])
        known = self.ec2_backend.get_multi_instances_by_id(ids)
        protected = [instance for instance in known if instance.disable_api_termination is True]
        if protected:  # it keeps those in its zone
            zones = {instance._placement.zone for instance in protected}
            for instance in known:
                if instance._placement.zone not in zones:
                    instance.terminate()
            message = (
                f"The instance '{protected[0].id}' may not be terminated. Modify its "
                "'disableApiTermination' instance attribute and try again."
            )
            raise ec2_error("OperationNotPermitted", message)
        changes = self.ec2_backend.terminate_instances(ids)
        result = []
        for instance, before in changes:
            name = "terminated" if before.name == "terminated" else "shutting-down"
            current = {"Code": _CODES[name], "Name": name}
            result.append({"InstanceId": instance.id, "CurrentState": current, "PreviousState": before})
        return ActionResult({"TerminatingInstances": result})

    def get_console_output(self: Any) -> Any:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        text = supervisor.console(instance.id).decode("utf-8", "replace")
        output = Base64EncodedString.from_raw_string(text)
        return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})

    moto_status = Instance.instance_status

    def instance_status(self: Any) -> Any:
        machine = supervisor.machines.get(self.id)
        ill = self.state == "running" and machine is not None and (machine.crashed or machine.unplugged)
        return _IMPAIRED if ill else moto_status.fget(self)

    InstanceBackend.run_instances = run_instances
    Instance.terminate, Instance.stop, Instance.start, Instance.reboot = terminate, stop, start, reboot
    Instance.instance_status = property(instance_status)
    EC2Response.terminate_instances = terminate_instances
    EC2Response.get_console_output = get_console_output


def _wrong_state(instance: Any, wanted: str) -> Any:
    message = f"The instance '{instance.id}' is not in a state from which it can be {wanted}."
    return ec2_error("IncorrectInstanceState", message)
