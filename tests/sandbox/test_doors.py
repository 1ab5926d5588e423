"""Who is not the sandbox's owner gets nothing of it, whatever port, socket or key id they know."""

import hashlib
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import boto3
import botocore.auth
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from prefect_coiled.errors import SandboxError
from prefect_coiled.sandbox import Sandbox, control, peers

ONCE = Config(retries={"total_max_attempts": 1})
FORGED = (
    "AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/{service}/aws4_request, "
    "SignedHeaders=host;x-amz-date, Signature=" + 64 * "0"
)
CALLS = {
    "ec2": lambda client: client.create_vpc(CidrBlock="10.9.0.0/16"),
    "ssm": lambda client: client.describe_parameters(),
    "iam": lambda client: client.list_roles(),
    "s3": lambda client: client.list_buckets(),
    "logs": lambda client: client.describe_log_groups(),
    "sts": lambda client: client.get_caller_identity(),
    "ecr": lambda client: client.describe_repositories(),
}


def ask(sandbox, method, path, body=b"", **headers):
    """Status and body of one request, as anybody can send it."""
    connection = http.client.HTTPConnection(urlsplit(sandbox.endpoint).netloc, timeout=10)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def vpcs(sandbox):
    return len(sandbox.client("ec2").describe_vpcs()["Vpcs"])


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize("keys", [("sandbox", "sandbox"), ("sandbox", ""), ("AKIAUNKNOWN", "wrong")])
def test_a_call_that_is_not_signed_with_the_secret_key_is_refused(sandbox, service, keys):
    before = vpcs(sandbox)
    refused = boto3.Session(keys[0], keys[1] or "x" * 43).client(
        service, "us-east-1", endpoint_url=sandbox.endpoint, config=ONCE
    )
    with pytest.raises(ClientError) as caught:
        CALLS[service](refused)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 401, 403)
    assert vpcs(sandbox) == before
    CALLS[service](sandbox.client(service))


def test_a_role_and_a_user_sign_with_secrets_of_their_own(sandbox, trust):
    key, secret = sandbox.add_user("signs")
    sts = boto3.Session(key, secret).client("sts", "us-east-1", endpoint_url=sandbox.endpoint, config=ONCE)
    assert sts.get_caller_identity()["Arn"].endswith(":user/signs")
    sandbox.client("iam").create_role(RoleName="signs", AssumeRolePolicyDocument=trust)
    role = sandbox.client("iam").get_role(RoleName="signs")["Role"]["Arn"]
    given = sts.assume_role(RoleArn=role, RoleSessionName="its-session")["Credentials"]
    for known in (given["SecretAccessKey"], secret):
        session = boto3.Session(given["AccessKeyId"], known, given["SessionToken"])
        client = session.client("sts", "us-east-1", endpoint_url=sandbox.endpoint, config=ONCE)
        if known == secret:
            with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
                client.get_caller_identity()
        else:
            assert ":assumed-role/signs/its-session" in client.get_caller_identity()["Arn"]


def test_a_signature_holds_for_its_own_call_only(sandbox):
    taken = {}
    ec2 = sandbox.client("ec2", config=ONCE)
    ec2.meta.events.register("before-send.ec2", lambda request, **_: taken.update(request=request))
    ec2.describe_vpcs()
    request = taken["request"]
    headers = {name: v if isinstance(v, str) else v.decode() for name, v in request.headers.items()}
    before = vpcs(sandbox)
    for path, body in (
        ("/", b"Action=CreateVpc&Version=2016-11-15&CidrBlock=10.9.0.0%2F16"),
        ("/?Action=CreateVpc&CidrBlock=10.9.0.0%2F16", request.body),
        ("/other", request.body),
    ):
        headers["Content-Length"] = str(len(body))
        assert ask(sandbox, "POST", path, body, **headers)[0] in (401, 403)
    headers["Content-Length"] = str(len(request.body))
    assert ask(sandbox, "POST", "/", request.body, **headers)[0] == 200
    assert vpcs(sandbox) == before


def as_bytes(body):
    return body if isinstance(body, bytes) else body.encode()


def test_a_body_has_the_hash_that_was_signed(sandbox):
    taken = {}
    ec2 = sandbox.client("ec2", config=ONCE)
    ec2.meta.events.register("before-send.ec2", lambda request, **_: taken.update(request=request))
    ec2.describe_vpcs()
    request = taken["request"]
    headers = {name: v if isinstance(v, str) else v.decode() for name, v in request.headers.items()}
    before = vpcs(sandbox)
    other = b"Action=CreateVpc&Version=2016-11-15&CidrBlock=10.9.0.0%2F16"
    # The hash of what was signed beside another body; and a body that no length tells of.
    headers |= {"X-Amz-Content-SHA256": hashlib.sha256(as_bytes(request.body)).hexdigest()}
    assert ask(sandbox, "POST", "/", other, **{**headers, "Content-Length": str(len(other))})[0] in (401, 403)
    s3 = sandbox.client("s3")
    s3.create_bucket(Bucket="hashed")
    s3.meta.events.register("before-send.s3", lambda request, **_: taken.update(request=request))
    s3.put_object(Bucket="hashed", Key="a", Body=b"genuine")
    request = taken["request"]
    headers = {name: v if isinstance(v, str) else v.decode() for name, v in request.headers.items()}
    path = urlsplit(request.url).path
    assert ask(sandbox, "PUT", path, b"changed", **headers)[0] == 403
    assert s3.get_object(Bucket="hashed", Key="a")["Body"].read() == b"genuine"
    assert vpcs(sandbox) == before


@pytest.mark.parametrize(("minutes", "holds"), [(-16, False), (-14, True), (14, True), (16, False)])
def test_a_signature_holds_for_a_quarter_of_an_hour(sandbox, monkeypatch, minutes, holds):
    now = datetime.now(timezone.utc).replace(tzinfo=None) + timedelta(minutes=minutes)
    ec2 = sandbox.client("ec2", config=ONCE)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args, **more: now)
    if holds:
        ec2.describe_vpcs()
    else:
        with pytest.raises(ClientError, match="AuthFailure"):
            ec2.describe_vpcs()


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_a_presigned_url_opens_nothing_when_its_time_is_over(sandbox, version):
    plain = sandbox.client("s3")
    wanted = {"Bucket": f"over-{version}", "Key": "a"}
    plain.create_bucket(Bucket=wanted["Bucket"])
    plain.put_object(**wanted, Body=b"1")
    s3 = sandbox.client("s3", config=Config(signature_version=version))
    with urllib.request.urlopen(s3.generate_presigned_url("get_object", wanted, ExpiresIn=60)) as reply:
        assert reply.read() == b"1"
    with pytest.raises(urllib.error.HTTPError, match="403") as caught:
        urllib.request.urlopen(s3.generate_presigned_url("get_object", wanted, ExpiresIn=-1))
    caught.value.close()


def test_who_takes_the_port_of_a_sandbox_that_died_is_not_taken_for_it(tmp_path):
    folder = tmp_path / "state"
    process = control.launch(folder, ["--idle", "600"], {"boot": "none"}, lifeline=True)
    try:
        assert control.status(folder) is not None
    finally:
        process.kill()  # it cannot remove what it wrote
        process.wait()
    known = json.loads((folder / "server.json").read_text())
    told = []

    class Impostor(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            told.append((self.path, self.headers.get("Authorization", "")))
            body = json.dumps({**known, "instances": 0}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", urlsplit(known["endpoint"]).port), Impostor) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert control.status(folder) is None
        server.shutdown()
    assert told
    assert not any(known["secret_access_key"] in "".join(one) for one in told)


def test_the_state_folder_of_somebody_else_is_not_used(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o777)
    mask = os.umask(0)
    try:
        own = tmp_path / "state" / "below" / "own"
        control._make_own(own)
    finally:
        os.umask(mask)
    assert {one.stat().st_mode & 0o777 for one in (own, own.parent, own.parent.parent)} == {0o700}
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(SandboxError, match="is a link, or another user's"):
        control.launch(tmp_path / "link", [], None, lifeline=True)
    if os.getuid() == 0:
        os.chown(tmp_path / "theirs", 65534, 65534)
        with pytest.raises(SandboxError, match="is a link, or another user's"):
            control.launch(tmp_path / "theirs", [], None, lifeline=True)
    assert list((tmp_path / "theirs").iterdir()) == []


def test_what_somebody_else_says_of_a_sandbox_is_not_believed(sandbox, tmp_path):
    (tmp_path / "folder").mkdir(mode=0o700)
    told = tmp_path / "folder" / "server.json"
    told.write_text((sandbox.info.state_dir / "server.json").read_text())
    assert control._metadata(tmp_path / "folder") is not None
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert control.status(tmp_path / "link") is None
    told.rename(tmp_path / "elsewhere")
    told.symlink_to(tmp_path / "elsewhere")
    assert control.status(tmp_path / "folder") is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "health"),
        ("GET", "settings"),
        ("POST", "settings"),
        ("GET", "calls"),
        ("GET", "instances"),
        ("POST", "reset"),
        ("POST", "stop"),
        ("GET", "imds/i-0123456789abcdef0/latest/user-data"),
        ("GET", "imds/i-0123456789abcdef0//latest/user-data"),
        ("GET", "imds/"),
        ("GET", "checkip/../settings"),
        ("GET", ""),
    ],
)
def test_the_admin_interface_wants_the_secret(sandbox, method, path):
    for given in (
        "",
        "Bearer ",
        "Bearer sandbox",
        "Bearer \xe9",
        FORGED.format(key="sandbox", service="ec2"),
    ):
        headers = {"Authorization": given} if given else {}
        assert ask(sandbox, method, f"/_sandbox/{path}", **headers)[0] == 403


@pytest.mark.parametrize(
    "path", ["/moto-api/data.json", "/moto-api/reset", "/", "//_sandbox/stop", "/_Sandbox/x", "/bucket/key"]
)
def test_what_is_not_signed_is_refused_on_every_path(sandbox, path):
    for given in ({}, {"Authorization": FORGED.format(key="sandbox", service="s3")}):
        for method in ("GET", "POST", "PUT", "DELETE"):
            assert ask(sandbox, method, path, **given)[0] == 403


def test_the_metadata_of_a_machine_is_for_that_machine(world):
    world.sandbox.set(boot="none")
    one, two = (instance["InstanceId"] for instance in world.run(count=2))
    paths = {name: world.sandbox.instances()[name]["metadata"] for name in (one, two)}
    for path, status in (
        (paths[one], 200),
        (paths[one].replace(one, two), 403),
        (paths[one][:-1], 403),
        (f"/_sandbox/imds/{one}", 403),
    ):
        assert ask(world.sandbox, "GET", f"{path}/latest/meta-data/instance-id")[0] == status


def test_the_secret_is_in_a_file_for_the_owner_alone(sandbox):
    file = sandbox.info.state_dir / "server.json"
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    secret = json.loads(file.read_text())["secret_access_key"]
    assert secret == sandbox.info.secret_access_key
    assert len(secret) >= 43
    assert secret not in repr(sandbox.info)
    for process in ("cmdline", "environ"):
        shown = f"/proc/{sandbox.info.pid}/{process}"
        if os.path.exists(shown):
            with open(shown, "rb") as told:
                assert secret.encode() not in told.read()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone shows the environment of a process")
def test_the_environment_of_a_sandbox_holds_no_secret(monkeypatch):
    for name in ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_API_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary-7d1")
    for name in ("UV_INDEX_OURS_PASSWORD", "PIP_INDEX_URL", "GITHUB_TOKEN", "OPENAI_API_KEY", "MYSQL_PWD"):
        monkeypatch.setenv(name, "canary-7d1")
    for name in ("DATABASE_URL", "UV_DEFAULT_INDEX", "HTTPS_PROXY", "PIP_FIND_LINKS", "BROKER"):
        monkeypatch.setenv(name, "plain, amqp://user:canary-7d1@host.example/x")
    with Sandbox({"boot": "none"}) as own, open(f"/proc/{own.info.pid}/environ", "rb") as told:
        kept = told.read()
    assert b"canary-7d1" not in kept
    assert b"PATH=" in kept


@pytest.mark.parametrize("said", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n"])
def test_hundreds_of_connections_that_say_nothing_keep_nobody_out(sandbox, said, until):
    host, port = urlsplit(sandbox.endpoint).netloc.split(":")
    with ExitStack() as held:
        for _ in range(200):
            silent = held.enter_context(socket.create_connection((host, int(port)), 10))
            silent.sendall(said)
        assert vpcs(sandbox) >= 0
        assert ask(sandbox, "GET", "/")[0] == 403
        # Threads of those that were let go end a little later.
        until(lambda: psutil.Process(sandbox.info.pid).num_threads() < 120)


def processes_below(pid):
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def test_the_settings_of_a_sandbox_wait_in_a_file_for_the_owner_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(control.sys, "executable", "/bin/false")  # nobody takes them away again
    mask = os.umask(0)
    try:
        with pytest.raises(SandboxError):
            control.launch(tmp_path / "own", [], {"hub_tokens": {"me": "canary-9c2"}}, lifeline=False)
    finally:
        os.umask(mask)
    files = [file for file in (tmp_path / "own").rglob("*") if b"canary-9c2" in file.read_bytes()]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600]


def test_no_settings_of_a_sandbox_are_in_its_arguments_or_stay_in_a_file():
    with Sandbox({"boot": "none", "hub_tokens": {"me": "canary-9c2"}}) as own:
        assert all("canary-9c2" not in " ".join(p.cmdline()) for p in processes_below(own.info.pid))
        kept = [file for file in own.info.state_dir.rglob("*") if file.is_file()]
        assert kept
        assert all(b"canary-9c2" not in file.read_bytes() for file in kept)


@contextmanager
def connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, address = server.accept()
        with client, accepted:
            yield client, accepted, address


def test_the_owner_of_a_connection_is_known():
    with connection() as (_, accepted, address):
        if sys.platform == "linux":
            assert peers.owner(address, accepted.getsockname()) == os.getuid()
        assert peers.may_ask(address, accepted.getsockname())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells whose a socket is")
@pytest.mark.parametrize("how", ["resets", "closes"])
def test_a_peer_that_is_gone_is_refused(how):
    with connection() as (client, accepted, address):
        server = accepted.getsockname()
        if how == "resets":  # then it is not listed any more; else it is listed as root's, who has none of it
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert not peers.may_ask(address, server)


# Sends, and takes its socket away before anybody can look whose it is.
ATTACK = """
import socket, struct, sys
port, call = int(sys.argv[1]), sys.argv[2].encode()
for _ in range(30):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(call)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
print("sent")
"""
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
SYSTEM = "/usr/bin/python3"
other_user = pytest.mark.skipif(
    not shutil.which("setpriv") or os.getuid() != 0 or not os.path.exists(SYSTEM),
    reason="needs root, setpriv and a Python that another user may run",
)


@other_user
def test_another_user_who_is_gone_before_the_look_up_changes_nothing(sandbox):
    host, port = urlsplit(sandbox.endpoint).netloc.split(":")
    body = "Action=CreateVpc&Version=2016-11-15&CidrBlock=10.9.0.0%2F16"
    call = (
        f"POST / HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nX-Amz-Date: 20260101T000000Z\r\n"
        f"Authorization: {FORGED.format(key='sandbox', service='ec2')}\r\n\r\n{body}"
    )
    before = vpcs(sandbox)
    attack = [SYSTEM, "-c", ATTACK, port, call]
    # The owner's own process without the secret does not get further than nobody does.
    for command in ([*NOBODY, *attack], attack):
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=30, check=True, cwd="/")
        assert done.stdout == b"sent\n"
    assert ask(sandbox, "GET", "/")[0] == 403  # a connection later, those before have been dealt with
    assert vpcs(sandbox) == before
    assert ("ec2", "CreateVpc") not in sandbox.calls()


@other_user
def test_another_user_of_the_machine_gets_no_answer(sandbox):
    host, port = urlsplit(sandbox.endpoint).netloc.split(":")
    secret = sandbox.info.secret_access_key
    request = (
        f"GET /_sandbox/health HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n"
        f"Authorization: Bearer {secret}\\r\\n\\r\\n"
    )
    ask = f"exec 3<>/dev/tcp/{host}/{port}; printf '{request}' >&3; head -1 <&3"
    command = [*NOBODY, "bash", "-c", ask]
    assert subprocess.run(command, stdout=subprocess.PIPE, timeout=10).stdout == b""
    assert b"200" in subprocess.run(command[4:], stdout=subprocess.PIPE, timeout=10).stdout


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_a_presigned_url_opens_its_object_alone(sandbox, version):
    s3 = sandbox.client("s3")
    s3.create_bucket(Bucket="presigned")
    s3.put_object(Bucket="presigned", Key="a b/ü+", Body=b"1")
    s3.put_object(Bucket="presigned", Key="other", Body=b"2")
    s3 = sandbox.client("s3", config=Config(signature_version=version))
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "presigned", "Key": "a b/ü+"})
    with urllib.request.urlopen(url) as reply:
        assert reply.read() == b"1"
    path = urlsplit(url).path
    for wrong in (url.replace(path, "/presigned/other"), url.replace("Expires=", "Expires=9"), f"{url}&acl"):
        with pytest.raises(urllib.error.HTTPError, match="403") as caught:
            urllib.request.urlopen(wrong)
        caught.value.close()
