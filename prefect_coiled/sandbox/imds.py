"""The instance metadata service, version 2 (and 1 where HttpTokens is "optional").

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html. An instance finds it
at AWS_EC2_METADATA_SERVICE_ENDPOINT: the loopback cannot own 169.254.169.254.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from prefect_coiled.sandbox.plane import Machine

__all__ = ["answer"]

# Clients may ask for the data as of a date; cloud-init does.
_VERSION = re.compile(r"^\d{4}-\d\d-\d\d/")
_CREDENTIAL_SECONDS = 6 * 3600
_LONGEST_TOKEN_SECONDS = 21600


def answer(
    machine: Machine, instance: Any, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, str | bytes]:
    """Answer one request.

    Args:
        machine: The machine that asks.
        instance: Its instance in moto.
        method: The HTTP method.
        path: The path, such as "latest/meta-data/instance-id".
        headers: The WSGI environment.

    Returns:
        Status and body.
    """
    now = time.time()
    path = _VERSION.sub("latest/", path, count=1)
    if instance.metadata_options.http_endpoint == "disabled":
        return 403, ""
    if path == "latest/api/token":
        return _new_token(machine, method, headers, now)
    token = headers.get("HTTP_X_AWS_EC2_METADATA_TOKEN")
    if token is None and instance.metadata_options.http_tokens == "required":
        return 401, ""
    if token is not None and machine.tokens.get(token, 0.0) < now:
        return 401, ""
    if method not in ("GET", "HEAD"):
        return 405, ""
    if path == "latest/user-data":
        return (200, base64.b64decode(str(instance.user_data))) if instance.user_data else (404, "")
    if path == "latest/dynamic/instance-identity":
        return 200, "document"
    if path == "latest/dynamic/instance-identity/document":
        return 200, json.dumps(_identity(machine, instance))
    if path.startswith("latest/meta-data"):
        return _metadata(machine, instance, path.removeprefix("latest/meta-data").strip("/"))
    return 404, ""


def _new_token(machine: Machine, method: str, headers: Mapping[str, str], now: float) -> tuple[int, str]:
    if method != "PUT":
        return 405, ""
    asked = headers.get("HTTP_X_AWS_EC2_METADATA_TOKEN_TTL_SECONDS", "")
    # A request that went through a proxy gets no token; nor does one without a valid lifetime.
    if "HTTP_X_FORWARDED_FOR" in headers:
        return 403, ""
    if not asked.isdigit() or not 1 <= int(asked) <= _LONGEST_TOKEN_SECONDS:
        return 400, ""
    token = secrets.token_urlsafe(40)
    machine.tokens[token] = now + int(asked)
    return 200, token


def _metadata(machine: Machine, instance: Any, key: str) -> tuple[int, str]:
    values = _values(machine, instance)
    if key == "iam" and instance.iam_instance_profile:
        return 200, "info\nsecurity-credentials/"
    if key.startswith("iam/"):
        return _iam(instance, key)
    if key in values:
        return 200, values[key]
    prefix = f"{key}/" if key else ""
    below = [name.removeprefix(prefix) for name in values if name.startswith(prefix)]
    if not below:
        return 404, ""
    if instance.iam_instance_profile and not key:
        below.append("iam/")
    entries = {name.split("/")[0] + ("/" if "/" in name else "") for name in below}
    return 200, "\n".join(sorted(entries))


def _values(machine: Machine, instance: Any) -> dict[str, str]:
    zone = str(instance.placement.zone)
    values = {
        "ami-id": instance.image_id,
        "ami-launch-index": str(instance.ami_launch_index),
        "hostname": instance.private_dns_name,
        "instance-id": instance.id,
        "instance-life-cycle": "spot" if instance.lifecycle == "spot" else "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": machine.address,
        "mac": instance.nics[0].mac_address,
        "placement/availability-zone": zone,
        "placement/region": instance.region_name,
        "reservation-id": instance.reservation_id or "",
        "security-groups": "\n".join(group.name for group in instance.nics[0].group_set),
        "services/domain": "amazonaws.com",
    }
    card = instance.nics[0]
    values |= {
        f"network/interfaces/macs/{card.mac_address}/{name}": value
        for name, value in (
            ("device-number", "0"),
            ("interface-id", card.id),
            ("local-hostname", instance.private_dns_name),
            ("local-ipv4s", machine.address),
            ("mac", card.mac_address),
            ("owner-id", instance.owner_id),
            ("subnet-id", card.subnet.id),
            ("subnet-ipv4-cidr-block", card.subnet.cidr_block),
            ("vpc-id", card.subnet.vpc_id),
        )
    }
    if instance.nics[0].public_ip:
        values["public-ipv4"] = instance.nics[0].public_ip
    if machine.interrupt_at is not None:
        moment = _iso(datetime.fromtimestamp(machine.interrupt_at, timezone.utc))
        values["spot/instance-action"] = json.dumps({"action": "terminate", "time": moment})
        values["spot/termination-time"] = moment
    if instance.metadata_options.instance_metadata_tags == "enabled":
        for tag in instance.get_tags():
            values[f"tags/instance/{tag['key']}"] = tag["value"]
    return values


def _identity(machine: Machine, instance: Any) -> dict[str, str]:
    return {
        "accountId": instance.owner_id,
        "architecture": instance.architecture,
        "availabilityZone": str(instance.placement.zone),
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "privateIp": machine.address,
        "region": instance.region_name,
        "version": "2017-09-30",
    }


def _iam(instance: Any, key: str) -> tuple[int, str]:
    from moto.iam.models import iam_backends
    from moto.sts.models import sts_backends

    attached = instance.iam_instance_profile
    if not attached:
        return 404, ""
    if key == "iam/info":
        return 200, json.dumps({"Code": "Success", "InstanceProfileArn": attached["Arn"]})
    account = instance.owner_id
    profiles = iam_backends[account]["aws"].get_instance_profiles()
    roles = [role for profile in profiles if profile.arn == attached["Arn"] for role in profile.roles]
    if not roles:
        return 404, ""
    role = roles[0]
    if key == "iam/security-credentials":
        return 200, str(role.name)
    if key != f"iam/security-credentials/{role.name}":
        return 404, ""
    given = sts_backends[account]["aws"].assume_role(
        region_name=instance.region_name,
        role_session_name=instance.id,
        role_arn=role.arn,
        policy="",
        duration=_CREDENTIAL_SECONDS,
        external_id="",
    )
    # AWS tells with each request from which machine its credentials are.
    given.source_instance = f"arn:aws:ec2:{instance.region_name}:{account}:instance/{instance.id}"
    document = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": _iso(datetime.now(timezone.utc)),
        "AccessKeyId": given.access_key_id,
        "SecretAccessKey": given.secret_access_key,
        "Token": given.session_token,
        "Expiration": _iso(given.expiration),
    }
    return 200, json.dumps(document)


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
