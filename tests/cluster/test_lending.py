"""`credentials="local"`: tasks work with the client's AWS credentials, made short, while it is there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import UnauthorizedSSOTokenError
from distributed import Client
from prefect_aws import AwsCredentials

from prefect_coiled import Cluster, Ec2DaskAccount
from prefect_coiled.aws.lending import Lender
from prefect_coiled.blocks import load_account
from prefect_coiled.errors import AccountError, OptionsError
from prefect_coiled.sandbox import Sandbox

Until = Callable[..., Any]


def who() -> tuple[str, str, str, str]:
    """Who a task is to AWS: its ARN, where boto3 has its keys from, and the keys."""
    import boto3

    session = boto3.Session()
    found: Any = session.get_credentials()
    keys = found.get_frozen_credentials()
    arn = session.client("sts").get_caller_identity()["Arn"]
    return arn, found.method, keys.access_key, keys.secret_key


def make(name: str) -> str:
    """What the role of the machines may not do."""
    import boto3
    from botocore.exceptions import ClientError

    try:
        boto3.client("s3").create_bucket(Bucket=name)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "made"


def test_tasks_work_with_the_clients_credentials_and_only_while_it_is_there(
    judged: Sandbox, until: Until
) -> None:
    with Cluster(
        n_workers=1, name="lent", wait_for_workers=True, quiet=True, credentials="local", environ={}
    ) as cluster:
        with Client(cluster) as client:
            arn, method, access_key, secret = client.submit(who).result(timeout=300)
            assert "assumed-role" not in arn
            assert (method, access_key[:4]) == ("container-role", "ASIA")
            assert client.submit(make, "made-by-a-task").result(timeout=300) == "made"
            judged.client("s3").delete_bucket(Bucket="made-by-a-task")
            for path in judged.info.state_dir.rglob("*"):
                if path.is_file():
                    assert secret.encode() not in path.read_bytes(), path
        # Another program attaches, and the one that lends ends.
        with Cluster(name="lent", quiet=True) as other, Client(other) as client:
            cluster.shutdown_on_close = False
            cluster.close()

            def refused() -> str:
                try:
                    client.submit(who, pure=False).result(timeout=300)
                except Exception as error:
                    return str(error)
                return ""

            assert "not connected any more" in until(refused, 60)
            other.shutdown_on_close = True


def test_tasks_have_the_role_of_the_machines_where_nothing_is_said(judged: Sandbox) -> None:
    with Cluster(n_workers=1, name="unlent", wait_for_workers=True, quiet=True) as cluster:
        with Client(cluster) as client:
            arn, method, *_ = client.submit(who).result(timeout=300)
            assert ":assumed-role/default/" in arn
            assert method == "iam-role"
            assert client.submit(make, "not-made-by-a-task").result(timeout=300) == "AccessDenied"
        with pytest.raises(OptionsError, match="was launched without it"):
            Cluster(name="unlent", quiet=True, credentials="local")


def test_what_is_lent_is_renewed_long_before_it_ends(sandbox: Sandbox) -> None:
    lender = Lender(load_account().door())
    now = datetime.now(timezone.utc)
    first = lender.lend(now)
    assert lender.lend(now + timedelta(minutes=20)) == first
    assert lender.lend(now + timedelta(minutes=40)) != first
    assert datetime.fromisoformat(first["Expiration"].replace("Z", "+00:00")) > now + timedelta(minutes=50)


def test_a_log_in_that_is_over_for_a_while_ends_no_lending(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    lender = Lender(load_account().door())
    now = datetime.now(timezone.utc)
    first = lender.lend(now)
    found = lender._door.session.get_credentials()
    with monkeypatch.context() as patch:
        over = UnauthorizedSSOTokenError()
        patch.setattr(type(found), "get_frozen_credentials", lambda self: raise_(over))
        with pytest.raises(AccountError, match=r"The SSO session .*aws sso login"):
            lender.lend(now + timedelta(minutes=40))
    assert lender.lend(now + timedelta(minutes=41)) != first


def raise_(error: Exception) -> Any:
    raise error


def test_where_there_is_nothing_to_lend_nothing_is_launched(
    sandbox: Sandbox, live: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = AwsCredentials(
        aws_access_key_id="sandbox",
        aws_secret_access_key=sandbox.info.secret_access_key,
        aws_client_parameters={"endpoint_url": sandbox.info.endpoint},
    )
    Ec2DaskAccount(region="us-east-1", aws_credentials=keys).save("elsewhere", overwrite=True)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AccountError, match="no AWS credentials on this machine"):
        Cluster(account="elsewhere", credentials="local", quiet=True)
    assert live() == []


def test_a_word_that_means_nothing_is_refused() -> None:
    with pytest.raises(OptionsError, match="one of role, local"):
        Cluster(credentials="mine", quiet=True)
