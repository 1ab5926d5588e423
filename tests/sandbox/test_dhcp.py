"""What a network card of a whole machine is told, and what the resolver says of names inside."""

import ipaddress
import struct

import pytest

from prefect_coiled.sandbox.whole import way_out
from prefect_coiled.sandbox.whole.dhcp import Lease, answer

MAC = "02:00:0a:4d:10:04"
LEASE = Lease(
    ipaddress.IPv4Address("10.77.16.4"),
    ipaddress.IPv4Network("10.77.16.0/20"),
    ipaddress.IPv4Address("169.254.169.253"),
)
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6


def packet(kind, mac=MAC, wanted=None):
    head = struct.pack("!4B", 1, 1, 6, 0) + b"abcd" + bytes(2) + b"\x80\0" + bytes(16)
    head += bytes.fromhex(mac.replace(":", "")).ljust(16, b"\0") + bytes(192)
    options = bytes([53, 1, kind]) + (b"\x32\x04" + ipaddress.IPv4Address(wanted).packed if wanted else b"")
    return head + b"\x63\x82\x53\x63" + options + b"\xff"


def options(reply):
    found, at = {}, 240
    while reply[at] != 255:
        found[reply[at]] = reply[at + 2 : at + 2 + reply[at + 1]]
        at += 2 + reply[at + 1]
    return found


def ask(*arguments, **keywords):
    return answer(packet(*arguments, **keywords), lambda mac: LEASE if mac == MAC else None)


def test_a_card_is_offered_the_address_that_ec2_has_for_it():
    reply = ask(DISCOVER)
    told = options(reply)
    assert reply[4:8] == b"abcd"  # the answer to this question
    assert reply[28:34].hex(":") == MAC
    assert ipaddress.IPv4Address(reply[16:20]) == LEASE.address
    assert told[53] == bytes([OFFER])
    assert ipaddress.IPv4Address(told[1]) == LEASE.network.netmask
    assert ipaddress.IPv4Address(told[3]) == ipaddress.IPv4Address("10.77.16.1")
    assert ipaddress.IPv4Address(told[6]) == LEASE.resolver


@pytest.mark.parametrize(("wanted", "kind"), [("10.77.16.4", ACK), ("10.77.16.9", NAK)])
def test_a_card_gets_that_address_and_no_other(wanted, kind):
    reply = ask(REQUEST, wanted=wanted)
    assert options(reply)[53] == bytes([kind])
    assert (reply[16:20] == LEASE.address.packed) == (kind == ACK)


@pytest.mark.parametrize("packet", [b"", b"x" * 300, packet(DISCOVER, mac="02:00:00:00:00:01"), packet(7)])
def test_strangers_and_nonsense_get_no_answer(packet):
    assert answer(packet, lambda mac: LEASE if mac == MAC else None) is None


@pytest.mark.parametrize("name", ["instance-data", "ip-10-0-0-4.ec2.internal"])
def test_names_inside_are_refused_at_once_and_asked_of_nobody(name):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = b"id\x01\x00\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"
    reply = way_out._ask(question, ["192.0.2.255"])
    assert reply[:2] == b"id"
    assert reply[3] & 0xF == 3  # no such name
    assert reply[12:] == question[12:]
