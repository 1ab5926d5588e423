import json
import pickle
from pathlib import Path

import dask.config
import pytest

from prefect_coiled.errors import OptionsError
from prefect_coiled.options import (
    REGIONS,
    BackendOptions,
    IngressRule,
    NetworkIds,
    RegistryOptions,
    cluster_defaults,
    merge,
)

VPC = {
    "network_id": "vpc-0123456789abcdef0",
    "scheduler_subnet_id": "subnet-0123456789abcdef0",
}


def merged(keyword=None, account=None, file=None):
    return merge(keyword, account, config={"coiled": {"backend-options": file or {}}})


def test_the_defaults_are_the_documented_ones():
    options = BackendOptions()
    assert options.region == "us-east-1"
    assert options.default_zone == "us-east-1a"
    assert options.spot is None
    assert options.spot_policy == "on-demand"
    assert options.ingress == (IngressRule(ports=(22, 8787, 8786), cidr="0.0.0.0/0"),)
    assert options.registry.kind == "ecr"
    assert options.egress == "nat"
    assert options.network is None


def test_there_are_the_sixteen_regions_of_the_document():
    assert len(set(REGIONS)) == 16
    for region in REGIONS:
        assert BackendOptions(region=region, zone=f"{region}b").default_zone == f"{region}b"


BAD = {
    "unknown region": ({"region": "us-mars-1"}, "region 'us-mars-1'"),
    "region of another type": ({"region": 3}, "region 3"),
    "zone of another region": ({"zone": "us-west-2a"}, "zone 'us-west-2a'"),
    "zone id": ({"zone": "use1-az1"}, "zone id"),
    "zone of another type": ({"zone": 3}, "zone 3"),
    "local zone": ({"zone": "us-east-1-bos-1a"}, "is not in region us-east-1"),
    "port zero": ({"firewall": {"ports": [0], "cidr": "me"}}, "port 0"),
    "port too high": ({"firewall": {"ports": [65536]}}, "port 65536"),
    "port as text": ({"ingress": [{"ports": ["8786"]}]}, "port '8786'"),
    "port as bool": ({"ingress": [{"ports": [True]}]}, "port True"),
    "no ports": ({"ingress": [{"ports": []}]}, "at least one port"),
    "ports of another type": ({"ingress": [{"ports": "22"}]}, "ports '22'"),
    "impossible cidr": ({"firewall": {"ports": [22], "cidr": "999.1.1.1/99"}}, "cidr '999.1.1.1/99'"),
    "host bits": ({"firewall": {"cidr": "10.0.0.1/8"}}, 'Write "10.0.0.0/8"'),
    "cidr of another type": ({"firewall": {"cidr": 10}}, "cidr 10"),
    "misspelt rule": ({"firewall": {"port": [22]}}, "Did you mean 'ports'?"),
    "rule of another type": ({"ingress": ["me"]}, "ingress 'me'"),
    "ingress of another type": ({"ingress": 22}, "ingress 22"),
    "firewall and ingress": ({"firewall": {}, "ingress": []}, "together"),
    "spot as a text that is no answer": ({"spot": "maybe"}, "spot 'maybe'"),
    "spot against its policy": ({"spot": True, "spot_policy": "on-demand"}, "contradict"),
    "unknown spot policy": ({"spot_policy": "cheap"}, "spot_with_fallback"),
    "unknown egress": ({"egress": "nets"}, "nat, public-ip, none"),
    "misspelt option": ({"regoin": "us-east-1"}, "Did you mean 'region'?"),
    "one option under two names": ({"region": "us-east-1", "region_name": "us-east-1"}, "given twice"),
    "unknown registry": ({"registry": "quay"}, "registry (not shown)"),
    "docker hub without anything": ({"registry": "docker_hub"}, "needs a username"),
    "docker hub without token": ({"registry": {"type": "docker_hub", "user": "me"}}, "access token"),
    "docker hub with upper case": (
        {"registry": {"type": "docker_hub", "user": "Me", "token": "t"}},
        "lower case",
    ),
    "docker hub with a url": (
        {"registry": {"type": "docker_hub", "user": "me", "token": "t", "uri": "https://docker.io"}},
        "without",
    ),
    "ecr with a token": ({"registry": {"type": "ecr", "token": "t"}}, "docker_hub"),
    "network as text": ({"network": "vpc-1"}, "network 'vpc-1'"),
    "network without subnet": ({"network": {"network_id": "vpc-01234567"}}, "network.scheduler_subnet_id"),
    "network with a wrong id": ({"network": VPC | {"firewall_id": "vpc-01234567"}}, "network.firewall_id"),
}


@pytest.mark.parametrize(("given", "text"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("place", ["model", "keyword", "account block", "coiled.yaml"])
def test_bad_input_is_refused_in_one_clear_line(given, text, place):
    def build():
        if place == "model":
            return BackendOptions(**given)
        return merged(**{{"account block": "account", "coiled.yaml": "file"}.get(place, place): given})

    with pytest.raises(OptionsError) as caught:
        build()
    line = str(caught.value)
    assert text in line
    assert "\n" not in line
    assert "validation error" not in line
    if place in ("account block", "coiled.yaml"):
        assert place in line


def test_an_error_never_shows_a_token():
    with pytest.raises(OptionsError) as caught:
        BackendOptions(registry={"type": "docker_hub", "token": "hunter2", "user": "A"})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(OptionsError) as caught:
        BackendOptions(registry={"type": "docker_hub", "token": 12345, "user": "a"})
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize(
    ("cidr", "network"),
    [
        ("me", "me"),
        ("203.0.113.7", "203.0.113.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
    ],
)
def test_a_cidr_may_be_me_an_address_or_a_network(cidr, network):
    assert IngressRule(ports=(22,), cidr=cidr).cidr == network


def test_an_empty_ingress_opens_nothing():
    assert BackendOptions(ingress=[]).ingress == ()
    assert {r.name: r.value for r in merged({"ingress": []}).rows()}["ingress"] == "nothing"


def test_spot_means_spot_only_and_falls_back_only_when_asked():
    assert BackendOptions(spot=True).spot_policy == "spot"
    assert BackendOptions(spot=False).spot_policy == "on-demand"
    assert BackendOptions(spot_policy="spot_with_fallback").spot is True
    assert BackendOptions(spot=True, spot_policy="spot_with_fallback").spot_policy == "spot_with_fallback"


@pytest.mark.parametrize(
    ("keyword", "file", "account", "region", "source"),
    [
        ("eu-west-1", "eu-west-2", "eu-west-3", "eu-west-1", "keyword"),
        (None, "eu-west-2", "eu-west-3", "eu-west-2", "coiled.yaml"),
        ("", "eu-west-2", "eu-west-3", "eu-west-2", "coiled.yaml"),
        (None, None, "eu-west-3", "eu-west-3", "account block"),
        (None, None, "", "us-east-1", "default"),
    ],
)
def test_the_highest_place_that_gives_a_value_wins(keyword, file, account, region, source):
    result = merged({"region": keyword}, {"region": account}, {"region": file})
    assert result.options.region == region
    assert result.sources["region"] == source


def test_each_option_is_taken_from_its_own_place():
    result = merged(
        {"firewall": {"ports": [8786], "cidr": "me"}},
        {"region_name": "eu-west-1", "ingress": [{"ports": [22]}], "spot_policy": "spot_with_fallback"},
        {"spot": False, "zone-name": "eu-west-1b"},
    )
    assert result.options.ingress == (IngressRule(ports=(8786,), cidr="me"),)
    assert result.options.spot_policy == "on-demand"
    assert result.options.zone == "eu-west-1b"
    assert dict(result.sources) == {
        "region": "account block",
        "zone": "coiled.yaml",
        "spot": "coiled.yaml",
        "ingress": "keyword",
        "registry": "default",
        "egress": "default",
        "network": "default",
    }


def test_a_zone_falls_away_when_a_higher_place_changes_the_region():
    result = merged({"region": "us-west-2"}, {"region": "eu-west-1", "zone": "eu-west-1b"})
    assert result.options.zone is None
    assert result.sources["zone"] == "default"
    assert "eu-west-1b of the account block is not in us-west-2 and falls away" in result.explain()


def test_a_zone_stays_when_a_higher_place_repeats_the_region():
    result = merged({"region": "eu-west-1"}, {"region": "eu-west-1", "zone": "eu-west-1b"})
    assert result.options.zone == "eu-west-1b"


def test_a_zone_that_does_not_fit_the_region_of_a_lower_place_is_an_error_naming_both():
    with pytest.raises(OptionsError, match=r"us-west-2a.*keyword.*eu-west-1.*account block"):
        merged({"zone": "us-west-2a"}, {"region": "eu-west-1"})


def test_a_network_of_another_region_is_refused_and_not_dropped():
    with pytest.raises(OptionsError, match="belongs to eu-west-1"):
        merged({"region": "us-west-2"}, {"region": "eu-west-1", "network": VPC})
    assert merged({"region": "eu-west-1"}, {"region": "eu-west-1", "network": VPC}).options.network


def test_explain_shows_value_and_source_of_every_option_but_no_secret():
    result = merged(
        {"spot": True},
        {"registry": {"type": "docker_hub", "user": "me", "token": "hunter2"}, "network": VPC},
    )
    text = result.explain()
    assert [line.split()[0] for line in text.splitlines()] == [
        "region", "zone", "spot", "ingress", "registry", "egress", "network",
    ]  # fmt: skip
    assert "docker_hub docker.io/me as me" in text
    assert "hunter2" not in text + repr(result) + result.options.model_dump_json()
    assert result.options.registry.access_token.get_secret_value() == "hunter2"


def test_options_go_through_json_and_pickle():
    options = BackendOptions(region="eu-west-1", network=VPC, ingress=[{"ports": [8786], "cidr": "me"}])
    assert BackendOptions(**json.loads(options.model_dump_json())) == options
    assert BackendOptions.model_validate_json(options.model_dump_json()) == options
    assert pickle.loads(pickle.dumps(options)) == options
    assert merged(options).options == options


def test_options_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        BackendOptions().region = "eu-west-1"


def test_workers_use_the_schedulers_subnet_unless_they_have_one():
    assert NetworkIds(**VPC).effective_worker_subnet_id == VPC["scheduler_subnet_id"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"username": u} for u in ("a b", "me\n", "-x", "a/b", "a;b", "me'", "\u0661", "a" * 256)),
        *({"namespace": n} for n in ("../x", "a//b", "/a", "a/", "A", "a\n", "a b", "-a", "a:b", "a@b")),
        *({"uri": u} for u in ("https://x", "x/../y", "x//y", "x y", "x\n", "-x", "x:123456", "x:\u0661")),
    ],
    ids=str,
)
def test_a_registry_has_names_that_are_some(wrong):
    given = {"kind": "docker_hub", "username": "me", "access_token": "t", **wrong}
    with pytest.raises(OptionsError, match=f"registry {next(iter(wrong))}") as refused:
        RegistryOptions(**given)
    assert next(iter(wrong.values())) not in str(refused.value)


@pytest.mark.parametrize("user", ["me", "org+robot", "$oauthtoken", "_json_key", "00000000-0000", "a.b@c"])
def test_a_registry_takes_the_users_that_registries_have(user):
    for place in ("docker.io", "quay.io", "registry.example.com:5000/team/x", "localhost:5000"):
        RegistryOptions(kind="docker_hub", username=user, access_token="t", uri=place, namespace="a/b-c.d__e")


def test_the_docker_namespace_is_the_user_unless_given():
    given = {"kind": "docker_hub", "username": "me", "access_token": "t"}
    assert RegistryOptions(**given).effective_namespace == "me"
    assert RegistryOptions(**given, namespace="team").effective_namespace == "team"


def test_coiled_yaml_gives_cluster_keywords_in_either_spelling():
    config = {
        "coiled": {
            "user": "someone",
            "account": "my-team",
            "wait-for-workers": 0.5,
            "shutdown_on_close": False,
            "tags": {},
            "worker": {"cpu": 4, "memory": None, "vm-types": ["m6i.xlarge"], "gpu-types": ["T4"]},
            "scheduler": {"memory": "16 GiB"},
        }
    }
    assert cluster_defaults(config) == {
        "account": "my-team",
        "wait_for_workers": 0.5,
        "shutdown_on_close": False,
        "worker_cpu": 4,
        "worker_vm_types": ("m6i.xlarge",),
        "worker_gpu_type": "T4",
        "scheduler_memory": "16 GiB",
    }
    assert cluster_defaults({}) == {}


@pytest.mark.parametrize("section", ["oops", {"worker": 4}, {"worker": {"gpu-types": ["T4", "A10G"]}}])
def test_a_coiled_yaml_of_the_wrong_shape_is_refused_in_one_line(section):
    with pytest.raises(OptionsError, match=r"coiled\.yaml"):
        cluster_defaults({"coiled": section})


def test_the_file_is_read_through_dasks_configuration():
    import dask.config

    with dask.config.set({"coiled.backend-options.region": "eu-north-1", "coiled.account": "x"}):
        assert merge().options.region == "eu-north-1"
        assert cluster_defaults()["account"] == "x"


def test_the_file_in_the_home_directory_counts(tmp_path):
    import dask.config

    (tmp_path / "coiled.yaml").write_text("coiled:\n  backend-options:\n    region: us-west-1\n")
    result = merge(config=dask.config.collect([str(tmp_path)], env={}))
    assert (result.options.region, result.sources["region"]) == ("us-west-1", "coiled.yaml")


def test_importing_the_options_loads_nothing_heavy():
    import subprocess
    import sys

    code = (
        "import sys, prefect_coiled, prefect_coiled.options\n"
        "print({'boto3', 'botocore', 'prefect', 'distributed', 'dask'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("text", "below"),
    [
        ("region: us-west-1", "`coiled: backend-options:`"),
        ("backend-options:\n  region: us-west-1", "`coiled:`"),
        ("worker:\n  cpu: 2", "`coiled:`"),
    ],
)
def test_a_configuration_file_without_its_upper_keys_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, below: str
) -> None:
    (tmp_path / "coiled.yaml").write_text(text)
    monkeypatch.setattr(dask.config, "paths", [str(tmp_path)])
    with pytest.raises(OptionsError, match="stands by itself") as caught:
        merge()
    assert below in str(caught.value)
    # What is of another package is none of our business, and other files are not ours.
    (tmp_path / "coiled.yaml").write_text("distributed:\n  version: 2\n")
    (tmp_path / "other.yaml").write_text(text)
    assert merge().options.region == "us-east-1"
