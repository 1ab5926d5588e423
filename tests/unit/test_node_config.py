import json

import pytest
from pydantic import ValidationError

from prefect_coiled.errors import NodeError, OptionsError
from prefect_coiled.plan.node_config import ClientSecrets, NodeConfig, NodeSecrets, check_dask_options

BASE = {
    "account": "default",
    "region": "us-east-1",
    "cluster": "c1",
    "secrets_parameter": "/prefect-coiled/default/c1/node/scheduler",
    "log_group": "default",
}


def test_a_configuration_survives_json():
    config = NodeConfig(
        **BASE,
        role="worker",
        scheduler_host="10.0.0.4",
        worker_options={"resources": {"GPU": 1}},
        idle_timeout=None,
        spot=True,
    )
    assert NodeConfig.from_json(config.to_json()) == config
    assert "\n" not in config.to_json()


def test_the_documented_defaults_hold():
    config = NodeConfig(**BASE, role="scheduler")
    assert (config.idle_timeout, config.no_client_timeout, config.cluster_timeout) == (1200, 120, None)
    assert (config.scheduler_port, config.dashboard_port, config.workers_per_vm) == (8786, 8787, 1)


def test_a_configuration_with_an_unknown_field_is_refused():
    text = json.dumps({**BASE, "role": "scheduler", "sceduler_port": 1})
    with pytest.raises(NodeError, match="sceduler_port"):
        NodeConfig.from_json(text)


def test_a_worker_without_a_scheduler_is_refused():
    with pytest.raises(NodeError, match="scheduler_host"):
        NodeConfig.from_json(json.dumps({**BASE, "role": "worker"}))


def test_secrets_survive_encoding():
    secrets = NodeSecrets(
        ca="CA", cert="CERT", key="KEY", environ={"A": "b"}, dask_config={"a": {"b": 1}}, dashboard_token="t"
    )
    assert NodeSecrets.decode(secrets.encode()) == secrets
    client = ClientSecrets(ca="CA", cert="CERT", key="KEY", dashboard_token="t")
    assert ClientSecrets.decode(client.encode()) == client


def test_secrets_do_not_show_in_repr_nor_in_json():
    secrets = NodeSecrets(
        ca="CA",
        cert="CERT",
        key="canary",
        environ={"A": "canary"},
        dask_config={"a": "canary"},
        dashboard_token="canary",
    )
    assert "canary" not in repr(secrets)
    assert "canary" not in str(secrets)
    assert "canary" not in secrets.model_dump_json(exclude={"dask_config"})


@pytest.mark.parametrize("text", ["canary", "Y2FuYXJ5", "eJwrTkyuTAIAB9kCRg=="])
def test_what_is_not_a_secret_is_refused_without_repeating_it(text):
    with pytest.raises(NodeError) as caught:
        NodeSecrets.decode(text)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("cls", [NodeSecrets, ClientSecrets])
@pytest.mark.parametrize("given", [["canary"], {"value": "canary"}, b"\xffcanary"])
def test_keys_of_the_wrong_shape_are_not_repeated_by_the_error(cls, given):
    for field in cls.model_fields:
        with pytest.raises(ValidationError) as caught:
            cls(**{"ca": "a", "cert": "b", "key": "c", field: given, "another": "canary"})
        assert "canary" not in str(caught.value)


def test_secrets_that_no_parameter_can_hold_are_refused_with_numbers():
    import random

    noise = "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=20_000))
    with pytest.raises(OptionsError, match="8,192"):
        NodeSecrets(ca="", cert="", key="", environ={"A": noise}).encode()


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        ("worker_options", {"security": {}}, "security"),
        ("worker_options", {"host": "0.0.0.0"}, "host"),
        ("worker_options", {"name": "w"}, "id of its instance"),
        ("worker_options", {"tls_ca_file": "x"}, "tls_ca_file"),
        ("worker_options", {"a b": 1}, "keyword argument"),
        ("worker_options", {"plugins": [object()]}, "plain JSON"),
        ("worker_options", {"x": float("nan")}, "plain JSON"),
        ("scheduler_options", {"port": 1}, "port"),
        ("scheduler_options", {"idle_timeout": 1}, "parameter idle_timeout"),
    ],
)
def test_options_that_the_cluster_owns_are_refused_early(kind, options, text):
    with pytest.raises(OptionsError, match=text):
        check_dask_options(**{kind: options})


def test_other_dask_options_pass():
    check_dask_options({"resources": {"GPU": 1}, "lifetime": "1h", "nthreads": 2}, {"allowed_failures": 1})
