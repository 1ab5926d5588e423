"""What a deployment says of its clusters reaches the flow run, in work pools of each kind.

There is no Docker, Kubernetes or ECS here: a pool of their kinds is made by the job template that Prefect has
for it, the job is put together as their workers do it, and its command runs in a process with the job's
environment and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import boto3
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.base import BaseJobConfiguration

from prefect_coiled import Ec2DaskAccount
from prefect_coiled.options.keywords import PREFIX, ClusterOptions
from prefect_coiled.sandbox import SandboxInfo

from .conftest import POOL, Worker
from .test_worker import Until, state_of

pytestmark = pytest.mark.timeout(600)
KINDS = ("docker", "kubernetes", "ecs")

# A text for each keyword, as the environment of a job has it, and what it means.
TEXTS: dict[str, tuple[str, Any]] = {
    "n_workers": ("3", 3),
    "name": ("1.10", "1.10"),
    "account": ("my-team", "my-team"),
    "tags": ('{"team": "1"}', {"team": "1"}),
    "wait_for_workers": ("0.5", 0.5),
    "timeout": ("30 minutes", 1800.0),
    "worker_vm_types": ("m6i.large, m6i.xlarge", ("m6i.large", "m6i.xlarge")),
    "scheduler_vm_types": ("m6i.large", ("m6i.large",)),
    "worker_cpu": ("[4, 8]", (4, 8)),
    "worker_memory": ("16 GiB", "16 GiB"),
    "worker_gpu": ("1", 1),
    "worker_gpu_type": ("T4", "T4"),
    "scheduler_cpu": ("2", 2),
    "scheduler_memory": ('["8 GiB", "16 GiB"]', ("8 GiB", "16 GiB")),
    "worker_disk_size": ("50", 50),
    "scheduler_disk_size": ("40", 40),
    "worker_disk_throughput": ("250", 250),
    "arm": ("no", False),
    "host_setup_script": ("/etc/hostname", "/etc/hostname"),
    "host_setup_script_content": ("echo $HOME; true", "echo $HOME; true"),
    "container": ("2.10", "2.10"),
    "worker_class": ("distributed.Nanny", "distributed.Nanny"),
    "worker_options": ('{"death_timeout": 60}', {"death_timeout": 60}),
    "scheduler_options": ('{"idle_timeout": "1h"}', {"idle_timeout": "1h"}),
    "environ": ('{"A": "1"}', {"A": "1"}),
    "nthreads": ("2", 2),
    "memory_limit": ("4 GiB", str(4 * 2**30)),
    "send_dask_config": ("0", False),
    "scheduler_port": ("443", 443),
    "use_scheduler_public_ip": ("false", False),
    "key_name": ("007", "007"),
    "allow_ssh": ("False", False),
    "api_relay": ("always", "always"),
    "package_sync_ignore": ("boto*, pandas", ("boto*", "pandas")),
    "package_sync_strict": ("yes", True),
    "software": ("requirements.txt", "requirements.txt"),
    "shutdown_on_close": ("off", False),
    "idle_timeout": ("never", None),
    "no_client_timeout": ("90", 90.0),
    "cluster_timeout": ("4 hours", 14400.0),
    "max_hourly_cost": ("2.5", 2.5),
    "max_total_cost": ("20", 20.0),
    "quiet": ("True", True),
    "show_widget": ("n", False),
    "worker_on_scheduler": ("yes", True),
    "workers_per_vm": ("2", 2),
    "credentials": ("local", "local"),
    "results": ("bucket", "bucket"),
}
# What is about where and how machines are had; the account's options below a flow's.
OPTIONS: dict[str, tuple[str, Any]] = {
    "region": ("eu-west-1", "eu-west-1"),
    "zone": ("eu-west-1b", "eu-west-1b"),
    "spot": ("True", True),
    "spot_policy": ("spot", "spot"),
    "backend_options": ('{"egress": "public-ip"}', "public-ip"),
    "allow_ingress_from": ("203.0.113.0/24", "203.0.113.0/24"),
}
VARIABLES = {PREFIX + name.upper(): text for name, (text, _) in {**TEXTS, **OPTIONS}.items()}


def check_given(noted: Path) -> None:
    """What the flow run would have made its cluster with is what the variables mean."""
    given = pickle.loads(noted.read_bytes())
    options = given.pop("backend_options")
    assert given == {name: value for name, (_, value) in TEXTS.items()}
    assert {type(given[name]) for name in ("name", "key_name", "container")} == {str}
    for name in ("region", "zone", "spot", "spot_policy"):
        assert options[name] == OPTIONS[name][1]
    assert options["egress"] == "public-ip"
    assert {rule.cidr for rule in options["ingress"]} == {"203.0.113.0/24"}


@pytest.fixture(scope="module", autouse=True)
def my_team(server: str) -> None:
    """The account that the variables name."""
    account: Any = Ec2DaskAccount(region="eu-west-1")
    account.save("my-team", overwrite=True, _sync=True)


def source() -> Any:
    return flow.from_source(str(Path(__file__).parent), "people.py:words")


def ended(client: SyncPrefectClient, run: FlowRun) -> bool:
    state = client.read_flow_run(run.id).state
    return state is not None and state.is_final()


def test_there_is_a_text_for_every_keyword() -> None:
    assert {*TEXTS, *OPTIONS} == set(ClusterOptions.__annotations__)


def test_job_variables_of_a_process_pool_give_every_keyword(
    client: SyncPrefectClient, worker: Worker, until: Until, tmp_path: Path
) -> None:
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    noted = tmp_path / "noted"
    deployment: UUID = source().deploy(
        "every keyword",
        work_pool_name=POOL,
        job_variables={"env": VARIABLES},
        parameters={"noted": str(noted)},
        print_next_steps=False,
    )
    run = client.create_flow_run_from_deployment(deployment)
    until(lambda: ended(client, run), 120)
    assert noted.exists(), worker.log.read_text()[-3000:]
    check_given(noted)


def make_pool(client: SyncPrefectClient, kind: str) -> str:
    """A pool of a kind, by the template of its jobs that Prefect has for it."""
    answer = client.request(
        "GET", "/collections/views/{view}", path_params={"view": "aggregate-worker-metadata"}
    )
    known = {kind: about for package in answer.json().values() for kind, about in package.items()}
    template = known[kind]["default_base_job_configuration"]
    with contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=f"of-{kind}", type=kind, base_job_template=template))
    return f"of-{kind}"


@pytest.fixture(params=KINDS)
def pool(request: pytest.FixtureRequest, client: SyncPrefectClient) -> str:
    return make_pool(client, str(request.param))


def job_of(client: SyncPrefectClient, run: FlowRun, pool: str) -> tuple[dict[str, str], list[str], str]:
    """The environment and the command of a flow run's job, and its whole template, as a worker makes it."""
    deployment = client.read_deployment(run.deployment_id)  # type: ignore[arg-type]
    template = client.read_work_pool(pool).base_job_template

    async def make() -> BaseJobConfiguration:
        values = {**(deployment.job_variables or {}), **(run.job_variables or {})}
        made = await BaseJobConfiguration.from_template_and_values(template, values)
        made.prepare_for_flow_run(run, deployment, client.read_flow(run.flow_id))
        return made

    made = asyncio.run(make())
    environment = {name: str(value) for name, value in made.env.items() if value is not None}
    return environment, str(made.command).split(), json.dumps(template["job_configuration"])


def run_job(environment: dict[str, str], command: list[str], home: Path, **platform: str) -> str:
    """Run a job's command with what the job has, what the platform gives, and nothing else; what it says."""
    bare = {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"], "HOME": str(home)}
    # Without it this package would be found by the suite's folder alone, and the suite's mark is its own.
    bare |= {name: value for name, value in os.environ.items() if name == "PREFECT_COILED_SUITE"}
    done = subprocess.run(
        command,
        env={**bare, **platform, **environment},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_deployment_to_a_pool_of_containers_gives_image_and_every_keyword(
    client: SyncPrefectClient, server: str, pool: str, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"
    deployment: UUID = source().deploy(
        f"in {pool}",
        work_pool_name=pool,
        image="registry.example/mine:1.10",
        build=False,
        push=False,
        job_variables={"env": VARIABLES},
        parameters={"noted": str(noted)},
        print_next_steps=False,
    )
    found = client.read_deployment(deployment)
    assert found.job_variables["image"] == "registry.example/mine:1.10"
    run = client.create_flow_run_from_deployment(deployment)
    environment, command, template = job_of(client, run, pool)
    assert "{{ image }}" in template
    assert [name for name in environment if name.startswith("AWS_")] == []
    said = run_job(environment, command, tmp_path)
    assert noted.exists(), said
    check_given(noted)


@pytest.fixture
def platform(sandbox: SandboxInfo) -> Iterator[dict[str, str]]:
    """What a platform gives a job that has a role: an address with keys that end, and renew themselves.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
    """
    keys = {"aws_access_key_id": "sandbox", "aws_secret_access_key": sandbox.secret_access_key}
    where = {"region_name": "us-east-1", "endpoint_url": sandbox.endpoint, **keys}
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}],
    }
    role = boto3.client("iam", **where).create_role(
        RoleName="job-of-a-flow", AssumeRolePolicyDocument=json.dumps(trust)
    )["Role"]["Arn"]
    made = boto3.client("sts", **where).assume_role(RoleArn=role, RoleSessionName="job")["Credentials"]
    told = {
        "AccessKeyId": made["AccessKeyId"],
        "SecretAccessKey": made["SecretAccessKey"],
        "Token": made["SessionToken"],
        "Expiration": made["Expiration"].isoformat(),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{server.server_port}/"}
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_job_without_keys_is_the_role_that_its_platform_gives_it(
    client: SyncPrefectClient, server: str, sandbox: SandboxInfo, platform: dict[str, str], tmp_path: Path
) -> None:
    pool = make_pool(client, "process")
    at: Any = {"aws_client_parameters": {"endpoint_url": sandbox.endpoint}}
    account: Any = Ec2DaskAccount(region="us-east-1", aws_credentials=at)
    account.save("by-role", overwrite=True, _sync=True)
    noted = tmp_path / "noted"
    who: Any = flow.from_source(str(Path(__file__).parent), "people.py:who")
    deployment: UUID = who.deploy(
        "who",
        work_pool_name=pool,
        parameters={"account": "by-role", "noted": str(noted)},
        print_next_steps=False,
    )
    run = client.create_flow_run_from_deployment(deployment)
    environment, command, _ = job_of(client, run, pool)
    said = run_job(environment, command, tmp_path, **platform)
    assert state_of(client, run) == "Completed", said
    assert ":assumed-role/job-of-a-flow/" in noted.read_text()
