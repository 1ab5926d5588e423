"""What of a VPC keeps its machines from reaching anything, though no call is refused: ACLs and name servers.

Reads only. Where AWS does not show it, nothing is known, and nothing said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError, CredentialsError

_EVERYWHERE = "0.0.0.0/0"
# Where Linux begins a connection, and so where answers come in.
_ANSWERS = (32768, 60999)
_HTTPS = (443, 443)
_TCP = ("-1", "6")


def closed_ways(aws: Aws, vpc: Mapping[str, Any], subnets: Iterable[str], port: int = 0) -> Iterator[str]:
    """What is closed, each in a line with what to do.

    Args:
        port: Of the scheduler, which has to be reached in the first of the subnets; 0 for none.
    """
    listed = list(dict.fromkeys(subnets))
    of_vpc = [{"Name": "vpc-id", "Values": [vpc["VpcId"]]}]
    for acl in _shown(aws, "ec2:DescribeNetworkAcls", "NetworkAcls", Filters=of_vpc):
        of = {str(a["SubnetId"]) for a in acl.get("Associations", ())}
        wanted = [(True, _HTTPS, "lets nothing out to port 443"), (False, _ANSWERS, "lets no answers in")]
        if port and listed and listed[0] in of:
            wanted.append((False, (port, port), f"lets nobody in at port {port}"))
            wanted.append((True, _ANSWERS, "lets no answers out"))
        closed = [words for out, ports, words in wanted if not _is_open(acl["Entries"], out, ports)]
        for subnet in (one for one in listed if one in of and closed):
            yield (
                f"the network ACL {acl['NetworkAclId']} of subnet {subnet} {' and '.join(closed)} "
                "(VPC console > Network ACLs)"
            )
    yield from _name_servers(aws, vpc)


def _is_open(entries: Iterable[Mapping[str, Any]], out: bool, ports: tuple[int, int]) -> bool:
    """Whether some TCP of some of the ports passes; the first rule that is about it decides.

    https://docs.aws.amazon.com/vpc/latest/userguide/nacl-rules.html
    """
    first, last = ports
    for entry in sorted(entries, key=lambda one: int(one["RuleNumber"])):
        if bool(entry["Egress"]) is not out or str(entry["Protocol"]) not in _TCP or "CidrBlock" not in entry:
            continue
        of = {} if entry["Protocol"] == "-1" else entry.get("PortRange") or {}
        low, high = int(of.get("From", 0)), int(of.get("To", 65535))
        if high < first or low > last:
            continue
        if entry["RuleAction"] == "allow":
            return True
        if low <= first and high >= last and entry["CidrBlock"] == _EVERYWHERE:
            return False
    return False


def _name_servers(aws: Aws, vpc: Mapping[str, Any]) -> Iterator[str]:
    """A VPC whose DHCP options name none.

    https://docs.aws.amazon.com/vpc/latest/userguide/VPC_DHCP_Options.html
    """
    options = str(vpc.get("DhcpOptionsId") or "default")
    if options == "default":
        return
    for found in _shown(aws, "ec2:DescribeDhcpOptions", "DhcpOptions", DhcpOptionsIds=[options]):
        said = {
            one["Key"]: [v["Value"] for v in one["Values"]] for one in found.get("DhcpConfigurations", ())
        }
        servers = said.get("domain-name-servers", [])
        if not servers:
            yield (
                f"the DHCP options {options} of {vpc['VpcId']} name no DNS server, so that machines find no "
                "host (give it some with AmazonProvidedDNS: VPC console > DHCP option sets)"
            )


def _shown(aws: Aws, action: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
    try:
        return list(aws.pages(action, "checking the network", key, **parameters))
    except CredentialsError:
        raise
    except AwsError:  # a launch that could go on is not kept from it by a look
        return []
