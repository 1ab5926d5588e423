"""Bad input is one clear line, before anything is changed in AWS."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from prefect_coiled import CoiledTaskRunner
from prefect_coiled.aws.credentials import CredentialSource
from prefect_coiled.aws.loaded_account import Account
from prefect_coiled.cluster import Cluster
from prefect_coiled.errors import AwsError, OptionsError
from prefect_coiled.sandbox import Sandbox

TABLE: list[tuple[dict[str, Any], str]] = [
    ({"region": "us-east-9"}, r"region.*us-east-9"),
    ({"backend_options": {"region": "mars"}}, r"region.*mars"),
    ({"region": "us-east-1", "zone": "eu-west-1a"}, r"zone.*eu-west-1a.*us-east-1"),
    ({"backend_options": {"firewall": {"ports": [8786], "cidr": "999.1.1.1/99"}}}, r"999\.1\.1\.1/99"),
    ({"backend_options": {"firewall": {"ports": [0], "cidr": "me"}}}, r"port.*0"),
    ({"backend_options": {"firewall": {"ports": [70000], "cidr": "me"}}}, r"port.*70000"),
    ({"backend_options": {"firewall": {"ports": [1]}, "ingress": []}}, r"firewall and ingress"),
    ({"backend_options": {"regoin": "us-east-1"}}, r"regoin"),
    ({"backend_options": {"registry": {"kind": "docker_hub", "username": "me"}}}, r"token"),
    ({"worker_gpu": 2}, r"gpu 2"),
    ({"worker_vm_types": ["g5.12xlarge"]}, r"g5\.12xlarge.*has 4 GPUs"),
    ({"worker_vm_types": ["p4d.24xlarge"]}, r"p4d\.24xlarge.*has 8 GPUs"),
    ({"worker_gpu": 1, "worker_disk_size": 30}, r"worker_disk_size 30.*75"),
    ({"container": "no image"}, r"container 'no image'"),
    ({"worker_vm_types": ["m6i.huge"]}, r"m6i\.huge"),
    ({"worker_vm_types": ["m6i.large"], "worker_cpu": 4}, r"vm_types.*cpu|cpu.*vm_types"),
    ({"worker_cpu": -1}, r"cpu.*-1"),
    ({"worker_memory": "lots"}, r"memory.*lots"),
    ({"worker_disk_size": 2}, r"worker_disk_size 2"),
    ({"n_workers": -3}, r"n_workers -3"),
    ({"n_workers": 2, "wait_for_workers": 5}, r"wait_for_workers 5"),
    ({"name": "no spaces"}, r"no spaces"),
    ({"tags": {"owner": "me"}}, r"owner.*reserved"),
    ({"environ": {"A=B": "x"}}, r"A=B"),
    ({"worker_options": {"security": None}}, r"security"),
    ({"idle_timeout": "soon"}, r"idle_timeout 'soon'"),
    ({"timeout": 0}, r"timeout 0"),
    ({"n_workers": 50, "max_hourly_cost": 1}, r"max_hourly_cost \$1\.00.*50 workers.*room for 4 workers"),
    ({"n_workers": 50, "max_total_cost": 0.2}, r"max_total_cost \$0\.2000.*first 5 minutes"),
    ({"max_hourly_cost": "lots"}, r"max_hourly_cost 'lots'.*US dollars"),
    ({"host_setup_script": "/not/there.sh"}, r"host_setup_script '/not/there.sh': No such file"),
    ({"host_setup_script": "a", "host_setup_script_content": "b"}, r"contradict each other"),
    ({"worker_disk_throughput": 5000}, r"worker_disk_throughput 5000.*125 to 2000"),
    ({"arm": True, "worker_vm_types": ["m6i.large"]}, r"m6i\.large"),
    ({"nworkers": 3}, r"nworkers"),
    ({"config": {}}, r"unexpected keyword 'config'"),
    ({"defaults": {}}, r"unexpected keyword 'defaults'"),
    ({"account": "nobody"}, r"nobody"),
]


@pytest.mark.parametrize(("keywords", "says"), TABLE, ids=[str(k) for k, _ in TABLE])
def test_a_wrong_keyword_is_one_clear_line_and_changes_nothing(
    sandbox: Sandbox, keywords: dict[str, Any], says: str
) -> None:
    sandbox.clear_calls()
    with pytest.raises(OptionsError, match=f"(?i){says}") as caught:
        Cluster(quiet=True, **keywords)
    assert "\n" not in str(caught.value)
    changing = [a for _, a in sandbox.calls() if not a.startswith(("Describe", "Get", "List"))]
    assert changing == []


def test_a_type_that_only_looks_real_is_checked_with_aws_before_anything_is_made(sandbox: Sandbox) -> None:
    sandbox.clear_calls()
    with pytest.raises(AwsError, match=r"InvalidInstanceType.*m99\.large.*Did you mean 'm"):
        Cluster(quiet=True, worker_vm_types=["m99.large"])
    assert not [a for _, a in sandbox.calls() if a.startswith(("Create", "Run", "Put"))]


def test_wrong_keys_are_told_before_anything_is_made(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = CredentialSource("AKIAWRONGWRONGWRONG1", SecretStr("wrong"))
    account = Account("default", credentials=keys, endpoint_url=sandbox.endpoint, sandbox=sandbox.info)
    monkeypatch.setattr("prefect_coiled.cluster.launch.load_account", lambda slug: account)
    sandbox.faults(
        [
            {
                "service": "sts",
                "action": "GetCallerIdentity",
                "effect": "error",
                "code": "InvalidClientTokenId",
                "status": 403,
            }
        ]
    )
    sandbox.clear_calls()
    try:
        with pytest.raises(AwsError, match=r"credentials of account \(default\).*InvalidClientTokenId"):
            Cluster(quiet=True)
    finally:
        sandbox.faults([])
    assert {a for _, a in sandbox.calls(None)} <= {"GetCallerIdentity"}


def test_the_runner_refuses_an_unknown_keyword_when_the_flow_is_written() -> None:
    with pytest.raises(OptionsError, match="n_workers"):
        CoiledTaskRunner(n_worker=3)  # type: ignore[call-arg]
