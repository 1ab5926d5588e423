"""Real processes on 127.x addresses: the agent, Dask, a metadata service and moto for SSM and Logs."""

import asyncio
import http.server
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import boto3
import pytest

from prefect_coiled.plan.certificates import ClusterCertificates
from prefect_coiled.plan.node_config import NodeConfig, NodeSecrets

ROOT = Path(__file__).parents[2]
REGION = "us-east-1"
TOKEN = "dashboard-token-canary"
CANARY = "environ-canary"
_addresses = (f"127.77.{a}.{b}" for a, b in itertools.product(range(os.getpid() % 200, 250), range(2, 250)))


def until(check, timeout=30.0, what="condition"):
    """Poll until `check` gives something true."""
    end = time.monotonic() + 5 * timeout  # the patience of a busy machine
    while True:
        with suppress(OSError):
            value = check()
            if value:
                return value
        assert time.monotonic() < end, f"{what} did not come within {timeout} s"
        time.sleep(0.05)


class Metadata:
    """An instance metadata service for one instance; version 2 only."""

    def __init__(self, instance_id, address):
        self.values = {
            "instance-id": instance_id,
            "local-ipv4": address,
            "placement/region": REGION,
            "iam/security-credentials/": "node",
            "iam/security-credentials/node": json.dumps(
                {
                    "Code": "Success",
                    "Type": "AWS-HMAC",
                    "AccessKeyId": "ASIA",
                    "SecretAccessKey": "s",
                    "Token": "t",
                    "Expiration": "2099-01-01T00:00:00Z",
                    "LastUpdated": "2020-01-01T00:00:00Z",
                }
            ),
        }
        self.tokens = set()
        self.refused = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def reply(self, status, body=""):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def do_PUT(self):
                token = uuid.uuid4().hex
                outer.tokens.add(token)
                self.reply(200, token)

            def do_GET(self):
                if self.headers.get("X-aws-ec2-metadata-token") not in outer.tokens:
                    outer.refused += 1
                    return self.reply(401)
                value = outer.values.get(self.path.removeprefix("/latest/meta-data/"))
                return self.reply(200, value) if value is not None else self.reply(404)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Node:
    """One agent process with its metadata service and a `shutdown` that only records."""

    def __init__(self, cluster, role, settings, config, prefix=()):
        self.instance_id = f"i-{uuid.uuid4().hex[:12]}"
        self.address = next(_addresses)
        self.directory = cluster.directory / self.instance_id
        (self.directory / "bin").mkdir(parents=True)
        (self.directory / "tmp").mkdir()
        self.off = self.directory / "shutdown-called"
        stand_in = self.directory / "bin" / "shutdown"
        stand_in.write_text(f'#!/bin/sh\necho "$@" >>{self.off}\n')
        stand_in.chmod(0o755)
        self.metadata = Metadata(self.instance_id, self.address)
        self.config = config
        path = self.directory / "node.json"
        path.write_text(config.to_json())
        self.console_path = self.directory / "console"
        self.cluster = cluster
        with self.console_path.open("wb") as console:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "prefect_coiled.node.main", "--config", str(path)]
                + [f"--set={k}={v}" for k, v in settings.items()],
                stdout=console,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={
                    "PATH": f"{self.directory}/bin:{os.environ['PATH']}",
                    "PYTHONPATH": str(ROOT),
                    "HOME": str(self.directory),
                    "TMPDIR": str(self.directory / "tmp"),
                    "AWS_ENDPOINT_URL": cluster.endpoint,
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata.endpoint,
                },
            )

    @property
    def console(self):
        return self.console_path.read_text(errors="replace")

    def is_off(self):
        return self.off.exists() and self.process.poll() is not None

    def wait_off(self, timeout=30.0):
        until(self.is_off, timeout, f"power-off of {self.config.role}:\n{self.console[-3000:]}")

    def reason(self):
        [line] = [line for line in self.console.splitlines() if "prefect-coiled: reason=" in line]
        return line.split("reason=")[1].split()[0]

    def descendants(self):
        """Processes that this node started, by their environment."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str(self.directory / "tmp").encode() in (
                    (entry / "environ").read_bytes()
                ):
                    found.append(int(entry.name))
        return found

    def dask_pid(self):
        for pid in self.descendants():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"prefect_coiled.node.dask_process" in command:
                    return pid
        return None

    def close(self):
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for pid in self.descendants():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.metadata.close()


class TestCluster:
    """Nodes that share certificates, parameters and a log group."""

    __test__ = False

    def __init__(self, endpoint, directory):
        self.endpoint, self.directory = endpoint, directory
        self.name = f"c-{uuid.uuid4().hex[:8]}"
        self.group = self.name
        self.nodes = []
        self.certificates = ClusterCertificates.make(self.name, datetime.now(timezone.utc))
        self.aws("logs").create_log_group(logGroupName=self.group)
        self.put_secrets()

    def aws(self, service):
        return boto3.client(
            service,
            REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def put_secrets(self, environ=None, dask_config=None, script=""):
        made = self.certificates
        for role, pair in (("scheduler", made.scheduler), ("worker", made.worker)):
            value = NodeSecrets(
                ca=made.ca,
                cert=pair.cert,
                key=pair.key,
                environ=environ or {},
                dask_config=dask_config or {},
                host_setup_script=script,
                dashboard_token=TOKEN if role == "scheduler" else "",
            ).encode()
            self.aws("ssm").put_parameter(
                Name=self.parameter(role), Value=value, Type="SecureString", Overwrite=True
            )

    def parameter(self, role):
        return f"/prefect-coiled/test/{self.name}/node/{role}"

    def node(self, role, settings=None, prefix=(), **changes):
        fields = {
            "account": "test",
            "region": REGION,
            "cluster": self.name,
            "role": role,
            "secrets_parameter": self.parameter(role),
            "log_group": self.group,
            **({"nthreads": 1, "memory_limit": "0"} if role == "worker" else {}),
            **changes,
        }
        if role == "worker" and "scheduler_host" not in fields:
            fields["scheduler_host"] = self.scheduler.address
        node = Node(self, role, settings or {}, NodeConfig(**fields), prefix)
        self.nodes.append(node)
        return node

    @property
    def scheduler(self):
        return next(node for node in self.nodes if node.config.role == "scheduler")

    @property
    def address(self):
        return f"tls://{self.scheduler.address}:8786"

    def start(self, workers=0, settings=None, worker=None, **changes):
        scheduler = self.node("scheduler", settings, **changes)
        made = [self.node("worker", **(worker or {})) for _ in range(workers)]
        until(lambda: "ready after" in scheduler.console, 30, "scheduler")
        return scheduler, made

    def security(self, pair=None, ca=None):
        from distributed import Security

        pair = pair or self.certificates.client
        return Security(
            tls_ca_file=ca or self.certificates.ca,
            tls_client_cert=pair.cert,
            tls_client_key=pair.key,
            require_encryption=True,
        )

    def client(self, **options):
        from distributed import Client

        return Client(self.address, security=self.security(), timeout=20, **options)

    def program(self, code):
        """A program of its own that has a `client` of this cluster."""
        pair, ca = self.certificates.client, self.certificates.ca
        keys = {"tls_ca_file": ca, "tls_client_cert": pair.cert, "tls_client_key": pair.key}
        begin = (
            "from distributed import Client, Security\n"
            f"security = Security(require_encryption=True, **{keys!r})\n"
            f"client = Client({self.address!r}, security=security, timeout=20)\n"
        )
        return subprocess.Popen([sys.executable, "-c", begin + code], stdout=subprocess.PIPE)

    def tell(self, **told):
        """Tell the scheduler's machine how many workers are wanted, as a `Cluster` object does."""
        from distributed.core import rpc

        async def say():
            async with rpc(
                self.address, connection_args=self.security().get_connection_args("client")
            ) as one:
                return await one.keep(**told)

        return asyncio.run(say())

    def log(self, node):
        try:
            events = self.aws("logs").get_log_events(
                logGroupName=self.group, logStreamName=node.instance_id, startFromHead=True
            )["events"]
        except self.aws("logs").exceptions.ResourceNotFoundException:
            return ""
        return "\n".join(event["message"] for event in events)

    def close(self):
        for node in self.nodes:
            node.close()


@pytest.fixture(scope="session")
def moto_endpoint():
    from moto.server import ThreadedMotoServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def cluster(moto_endpoint, tmp_path):
    made = TestCluster(moto_endpoint, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(moto_endpoint, tmp_path_factory):
    """A scheduler and two workers for the tests that leave them as they are."""
    made = TestCluster(moto_endpoint, tmp_path_factory.mktemp("cluster"))
    made.put_secrets(
        environ={"NODE_TEST_VALUE": CANARY, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "False"},
        dask_config={"distributed": {"worker": {"profile": {"interval": "123ms"}}}},
    )
    made.start(2, worker={"worker_options": {"resources": {"THING": 2}}})
    yield made
    made.close()
