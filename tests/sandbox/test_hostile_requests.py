"""Requests that no client of AWS sends: the sandbox refuses them soon, and goes on."""

import json
import socket
import time
from urllib.parse import urlsplit

import psutil
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from prefect_coiled.sandbox import http

SECONDS = 20
BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{n + 1} "{10 * f"&a{n};"}">' for n in range(12))
    + "]>"
)
OUTSIDE = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
TAGS = "<Tagging><TagSet><Tag><Key>{0}</Key><Value>v</Value></Tag></TagSet></Tagging>"
DELETE = "<Delete><Object><Key>{0}</Key></Object></Delete>"
PARTS = (
    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{0}</ETag></Part>"
    "</CompleteMultipartUpload>"
)
PLACE = "<CreateBucketConfiguration><LocationConstraint>{0}</LocationConstraint></CreateBucketConfiguration>"
BODIES = {
    "tags": ("PUT", "?tagging", TAGS),
    "objects": ("POST", "?delete", DELETE),
    "parts": ("POST", "/k?uploadId=x", PARTS),
    "place": ("PUT", "-2", PLACE),
}
HOSTILE = {
    "entities that grow": BOMB + "{a12}",
    "an entity of a file": OUTSIDE + "{e}",
    "a deep tree": "{deep}",
    "no tree": "<a><b></a>",
    "nothing": "",
}


@pytest.fixture
def alive(sandbox):
    """The sandbox answers after it, and has not grown by what was sent."""
    before = psutil.Process(sandbox.info.pid).memory_info().rss
    yield
    assert sandbox.client("ec2").describe_vpcs()["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert psutil.Process(sandbox.info.pid).memory_info().rss - before < 300 * 2**20


def place_of(sandbox):
    host, port = urlsplit(sandbox.endpoint).netloc.split(":")
    return host, int(port)


def talk(sandbox, data, seconds=SECONDS):
    """All that comes back; the connection is one of its own."""
    with socket.create_connection(place_of(sandbox), seconds) as connection:
        connection.sendall(data)
        found = b""
        try:
            while piece := connection.recv(1 << 16):
                found += piece
        except OSError:
            pass
        return found


def signed(sandbox, method, path, body, service, **headers):
    """A request as bytes, signed with the secret key of the sandbox."""
    request = AWSRequest(method, f"{sandbox.endpoint}{path}", data=body, headers=headers)
    keys = Credentials("sandbox", sandbox.info.secret_access_key)
    (S3SigV4Auth if service == "s3" else SigV4Auth)(keys, service, "us-east-1").add_auth(request)
    host, port = place_of(sandbox)
    told = {"Host": f"{host}:{port}", "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"{name}: {value}" for name, value in {**told, **dict(request.headers)}.items()]
    return f"{method} {path} HTTP/1.1\r\n".encode() + "\r\n".join([*lines, "", ""]).encode() + body


def status(reply):
    return int(reply.split(b" ", 2)[1])


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("attack", HOSTILE)
def test_xml_that_grows_or_reads_files_is_taken_as_none(sandbox, alive, what, attack):
    method, path, form = BODIES[what]
    deep = 50_000 * "<a>" + 50_000 * "</a>"
    head, _, last = HOSTILE[attack].partition("{")
    inner = deep if last == "deep}" else f"&{last[:-1]};" if last else ""
    body = head + form.format(inner) if last else head
    sandbox.client("s3").create_bucket(Bucket="hostile")
    begun = time.monotonic()
    reply = talk(sandbox, signed(sandbox, method, f"/hostile{path}", body.encode(), "s3"))
    assert time.monotonic() - begun < SECONDS
    assert b"root:" not in reply
    assert len(reply) < 100_000


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"MaxResults": ' + b"9" * 100_000 + b"}",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'"text"',
    ],
    ids=["deep list", "deep object", "long number", "list", "broken", "no text", "text"],
)
def test_json_that_is_no_object_is_refused(sandbox, alive, body):
    for service, target in (("ssm", "AmazonSSM.DescribeParameters"), ("logs", "Logs_20140328.PutLogEvents")):
        headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
        reply = talk(sandbox, signed(sandbox, "POST", "/", body, service, **headers))
        assert status(reply) == 400
        assert b"SerializationException" in reply
    ours = f"Authorization: Bearer {sandbox.info.secret_access_key}\r\nContent-Length: {len(body)}"
    host, port = place_of(sandbox)
    head = f"POST /_sandbox/settings HTTP/1.1\r\nHost: {host}:{port}\r\n{ours}\r\nConnection: close\r\n\r\n"
    assert status(talk(sandbox, head.encode() + body)) == 400


@pytest.mark.parametrize("number", ["1e400", "9" * 5000, "NaN", "-0", "0x10"])
def test_numbers_that_are_none_are_an_error_of_the_caller(sandbox, alive, number):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"Action=DescribeVpcs&Version=2016-11-15&MaxResults={number}".encode()
    assert status(talk(sandbox, signed(sandbox, "POST", "/", body, "ec2", **form))) == 400


def test_names_of_parameters_without_end_are_not_followed(sandbox, alive):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b"Action=DescribeVpcs&Version=2016-11-15&Filter.1" + 20_000 * b".Value.1" + b"=x"
    begun = time.monotonic()
    assert talk(sandbox, signed(sandbox, "POST", "/", body, "ec2", **form))
    assert time.monotonic() - begun < SECONDS


# Ways to the owner's interface past the guards: the place (H), the path, other lines; all but the last know
# the secret (S).
PATH = "/_sandbox/health"
PAST_THE_HOST = {
    "a name of somebody": ("Host: evil.example:{port}", PATH),
    "a name with a dot": ("Host: localhost.:{port}", PATH),
    "a name that holds the address": ("Host: 127.0.0.1.nip.io:{port}", PATH),
    "a user before it": ("Host: 127.0.0.1@evil.example:{port}", PATH),
    "no name": ("X: y", PATH),
    "another family": ("Host: [::1]:{port}", PATH),
    "a space": ("Host : 127.0.0.1:{port}", PATH),
    "two lines": ("Host: evil.example\r\n 127.0.0.1:{port}", PATH),
    "twice": ("Host: evil.example\r\nHost: 127.0.0.1:{port}", PATH),
    "by a proxy": ("Host: evil.example\r\nX-Forwarded-Host: 127.0.0.1:{port}", PATH),
    "a whole address": ("Host: 127.0.0.1:{port}", "http://evil.example/_sandbox/health"),
    "a page": ("Host: 127.0.0.1:{port}\r\nOrigin: null", PATH),
    "a page elsewhere": ("Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: cross-site", PATH),
}
PAST_THE_SECRET = (
    *("/x/../_sandbox/health", "//_sandbox/health", "/%5fsandbox/health", "/_sandbox%2fhealth"),
    *("/_sandbox/imds/../health", "/_sandbox/imds/%2e%2e/health", "/_sandbox/imds/i-0/x/latest/meta-data"),
    *("/_sandbox/checkip/../health", "/_sandbox/checkip;/health", "/_sandbox/proof/../health"),
    *("/moto-api/data.json", "/moto-api/", "/_sandbox/health?Authorization={secret}"),
)


@pytest.mark.parametrize("way", PAST_THE_HOST)
def test_no_other_name_leads_a_browser_to_the_sandbox(sandbox, alive, way):
    port, (lines, path) = place_of(sandbox)[1], PAST_THE_HOST[way]
    secret = f"Authorization: Bearer {sandbox.info.secret_access_key}"
    head = f"GET {path} HTTP/1.1\r\n{lines}\r\n{secret}\r\nConnection: close\r\n\r\n"
    reply = talk(sandbox, head.replace("{port}", str(port)).encode())
    assert status(reply) == (400 if way == "a space" else 403)
    assert b"state_dir" not in reply


@pytest.mark.parametrize("path", PAST_THE_SECRET)
def test_no_other_path_leads_past_the_secret(sandbox, alive, path):
    host, port = place_of(sandbox)
    path = path.replace("{secret}", sandbox.info.secret_access_key)
    reply = talk(sandbox, f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
    assert b"state_dir" not in reply
    assert status(reply) == 403 or (path.startswith("/_sandbox/proof/") and len(reply) < 500)


# What one reader takes for a body, another takes for a second request.
SECOND = b"GET /_sandbox/proof/second HTTP/1.1\r\nHost: {host}\r\n\r\n"
SMUGGLED = {
    "two lengths": b"Content-Length: 0\r\nContent-Length: {size}\r\n\r\n{second}",
    "two equal lengths": b"Content-Length: {size}\r\nContent-Length: {size}\r\n\r\n{second}",
    "a list of lengths": b"Content-Length: 0, {size}\r\n\r\n{second}",
    "length and chunks": b"Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}",
    "chunks by another name": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{second}",
    "chunks twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{second}",
    "chunks, then more": b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}",
    "a negative length": b"Content-Length: -1\r\n\r\n{second}",
    "a length with a sign": b"Content-Length: +0\r\n\r\n{second}",
    "a length of other digits": "Content-Length: \u0660\r\n\r\n".encode() + b"{second}",
    "a length without end": b"Content-Length: " + 5000 * b"9" + b"\r\n\r\n{second}",
}


@pytest.mark.parametrize("attack", SMUGGLED.values(), ids=SMUGGLED)
def test_a_request_whose_length_is_not_clear_hides_no_second_one(sandbox, alive, attack):
    host, port = place_of(sandbox)
    second = SECOND.replace(b"{host}", f"{host}:{port}".encode())
    rest = attack.replace(b"{size}", str(len(second)).encode()).replace(b"{second}", second)
    head = f"POST / HTTP/1.1\r\nHost: {host}:{port}\r\n".encode()
    reply = talk(sandbox, head + rest)
    assert reply.count(b"HTTP/1.") == 1
    assert status(reply) in (400, 403)


def test_heads_without_end_are_refused(sandbox, alive):
    host, port = place_of(sandbox)
    first = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n".encode()
    for head in (
        first + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        first + b"".join(b"X-%d: a\r\n" % n for n in range(10_000)) + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ):
        reply = talk(sandbox, head)
        assert not reply or status(reply) in (400, 414, 431)


NOW = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
SIGNED = {
    f"{service} by {key}": (
        f"AWS4-HMAC-SHA256 Credential={key}/{NOW[:8]}/us-east-1/{service}/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={64 * '0'}"
    )
    for service in ("ec2", "s3", "ssm")
    for key in ("sandbox", "nobody")
}
UNSIGNED = {"none": "/", "a query of version 2": "/?AWSAccessKeyId=sandbox&Expires=9999999999&Signature=x"}


@pytest.mark.parametrize("length", ["Content-Length: 2000000000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    "form", ["", "X-Amz-Target: AmazonSSM.GetParameter", "Content-Type: application/x-www-form-urlencoded"]
)
@pytest.mark.parametrize("who", [*SIGNED, *UNSIGNED])
def test_a_body_is_not_read_from_who_has_not_signed(sandbox, alive, who, form, length):
    host, port = place_of(sandbox)
    lines = [f"POST {UNSIGNED.get(who, '/')} HTTP/1.1", f"Host: {host}:{port}", f"X-Amz-Date: {NOW}", length]
    lines += [form] if form else []
    lines += [f"Authorization: {SIGNED[who]}"] if who in SIGNED else []
    with socket.create_connection(place_of(sandbox), SECONDS) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        # The answer comes while no byte of the body has.
        assert 400 <= status(connection.recv(4096)) < 500


@pytest.mark.parametrize("path", ["/", "/_sandbox/health", "/_sandbox/proof/x", "/bucket/key"])
def test_who_has_not_shown_what_he_may_holds_no_connection(sandbox, alive, path):
    host, port = place_of(sandbox)
    begun = time.monotonic()
    reply = talk(sandbox, f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    assert reply.count(b"HTTP/1.1") == 1
    assert time.monotonic() - begun < SECONDS / 2, "the other side ends it"


class Slow:
    """A stream that gives a byte each time it is asked; time passes meanwhile."""

    def __init__(self, clock):
        self.clock, self.given = clock, 0

    def read1(self, size):
        self.clock[0] += 1.0
        self.given += 1
        return b"x"


def test_a_body_that_drips_is_given_up(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(http.time, "monotonic", lambda: clock[0])
    slow = Slow(clock)
    with pytest.raises(TimeoutError):
        http._Body(slow, 1_000_000).read()
    assert slow.given < 100


class Endless:
    def read(self, size):
        return b"x" * size


def test_a_chunked_body_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(http, "_LONGEST_CHUNKED", 1 << 20)
    with pytest.raises(ConnectionError):
        http._Body(Endless(), None).read()


def test_what_is_said_in_a_tag_a_name_or_a_query_is_no_header_of_the_answer(sandbox, alive):
    line = "%0d%0aSet-Cookie:%20a=b"
    sandbox.client("s3").create_bucket(Bucket="hostile")
    sandbox.client("s3").put_object(Bucket="hostile", Key="k", Body=b"x")
    for path in (
        f"/hostile/k?response-content-disposition={line}",
        f"/hostile/k{line}",
        f"/hostile{line}/k",
        f"/hostile?list-type=2&prefix={line}",
    ):
        reply = talk(sandbox, signed(sandbox, "GET", path, b"", "s3"))
        assert b"set-cookie" not in reply.partition(b"\r\n\r\n")[0].lower()
    said = {"Key": "a\r\nSet-Cookie: a=b", "Value": "c\r\nd"}
    ec2 = sandbox.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.create_tags(Resources=[vpc], Tags=[said])
    reply = ec2.describe_vpcs(VpcIds=[vpc])
    assert "set-cookie" not in json.dumps(reply["ResponseMetadata"]["HTTPHeaders"]).lower()
    assert "Set-Cookie" in reply["Vpcs"][0]["Tags"][0]["Key"]
