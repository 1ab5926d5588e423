import gzip
import json
import pathlib
import subprocess
import sys

import pytest

from prefect_coiled.errors import OptionsError
from prefect_coiled.plan.machines import DEFAULT_TYPES, architecture, choose, known, table


def test_the_table_agrees_with_the_ec2_api_as_moto_recorded_it():
    moto = pytest.importorskip("moto")
    path = pathlib.Path(moto.__file__).parent / "ec2" / "resources" / "instance_types.json.gz"
    recorded = json.loads(gzip.decompress(path.read_bytes()))
    assert len(table()) > 200
    for name, machine in table().items():
        other = recorded[name]
        assert machine.vcpus == other["VCpuInfo"]["DefaultVCpus"], name
        assert machine.memory_gib == other["MemoryInfo"]["SizeInMiB"] / 1024, name
        assert machine.arch in other["ProcessorInfo"]["SupportedArchitectures"], name
        gpus = other.get("GpuInfo", {}).get("Gpus", [])
        assert machine.gpus == sum(gpu["Count"] for gpu in gpus), name
        assert machine.gpu_type == (gpus[0]["Name"] if gpus else ""), name


def test_graviton_is_told_from_the_name_of_any_type_of_the_table():
    for name, machine in table().items():
        assert architecture([name]) == machine.arch
    assert architecture(["c7gn.large"]) == "arm64"
    assert architecture(["im4gn.large"]) == "arm64"
    assert architecture(["a1.large"]) == "arm64"
    assert architecture(["p3.2xlarge"]) == "x86_64"
    assert architecture(["g6e.xlarge"]) == "x86_64"


def test_without_a_wish_it_is_m6i_xlarge_and_then_its_equals():
    assert choose()[0] == "m6i.xlarge"
    assert choose(arch="arm64")[0] == "m7g.xlarge"
    for arch, names in DEFAULT_TYPES.items():
        for name in names:
            machine = table()[name]
            assert (machine.vcpus, machine.memory_gib, machine.arch) == (4, 16, arch)


def test_what_is_chosen_is_what_was_asked_for():
    for name in choose(4, "16 GiB"):
        assert (table()[name].vcpus, table()[name].memory_gib) == (4, 16)
    for name in choose([2, 8], ["8 GiB", "16 GiB"]):
        assert 2 <= table()[name].vcpus <= 8
        assert 8 <= table()[name].memory_gib <= 16


def test_memory_may_be_ten_percent_off():
    assert choose(4, "15 GiB") == choose(4, "16GB") == choose(4, "16 GiB")
    with pytest.raises(OptionsError):
        choose(4, "14 GiB")


def test_a_range_of_memory_is_taken_exactly():
    with pytest.raises(OptionsError):
        choose(4, ["14 GiB", "15.9 GiB"])


def test_with_one_wish_only_balanced_types_come_first():
    assert choose(cpu=4)[0].startswith("m6")
    assert choose(memory="16 GiB")[0].startswith("m6")


def test_burstable_types_are_chosen_only_where_nothing_else_fits():
    assert not any(name.startswith("t") for name in choose(2, "8 GiB"))
    assert choose(2, "2 GiB")[0] == "t3a.small"


def test_arm_types_are_chosen_only_when_asked_for():
    assert all(table()[name].arch == "x86_64" for name in choose(cpu=8))
    assert all(table()[name].arch == "arm64" for name in choose(cpu=8, arch="arm64"))


@pytest.mark.parametrize(
    ("named", "more", "words"),
    [
        ("g5.xlarge", {"gpu_type": "T4"}, "has the GPU A10G; T4 was asked for"),
        ("g5.xlarge", {"gpu_type": "nonsense"}, "must be one of"),
        ("g4dn.xlarge", {"gpu": 0}, "has a GPU, but none was asked for"),
        ("m6i.xlarge", {"gpu_type": "T4"}, "has no GPU"),
    ],
)
def test_a_type_that_has_not_what_was_asked_for_beside_it_is_refused(named, more, words):
    with pytest.raises(OptionsError, match=words):
        choose(vm_types=named, **more)
    assert choose(vm_types="g5.xlarge", gpu_type="nvidia A10G") == ("g5.xlarge",)
    assert choose(vm_types="g5.xlarge") == ("g5.xlarge",)


def test_a_gpu_is_a_t4_unless_another_is_asked_for():
    assert choose(gpu=1)[0] == "g4dn.xlarge"
    assert choose(gpu=True)[0] == "g4dn.xlarge"
    assert choose(gpu_type="nvidia-tesla-a10g")[0] == "g5.xlarge"
    assert choose(8, gpu=1)[0] == "g4dn.2xlarge"
    assert all(table()[name].gpus == 1 for name in choose(gpu=1, limit=99))
    assert choose(gpu=0) == choose()


def test_named_types_are_taken_in_their_order_and_new_families_are_left_to_aws():
    assert choose(vm_types=["m5.large", "m6i.large"]) == ("m5.large", "m6i.large")
    assert choose(vm_types="x8aedz.3xlarge") == ("x8aedz.3xlarge",)
    assert not known("x8aedz.3xlarge")
    assert known("m6i.xlarge")


@pytest.mark.parametrize("name", ["u7i-12tb.224xlarge", "c7i-flex.large", "mac-m4.metal", "m7i.metal-24xl"])
def test_names_as_aws_makes_them_are_let_through(name):
    assert choose(vm_types=[name]) == (name,)


BAD = {
    "two gpus": ({"gpu": 2}, "gpu 2"),
    "negative gpu": ({"gpu": -1}, "gpu -1"),
    "gpu type without gpu": ({"gpu": 0, "gpu_type": "T4"}, "gpu=0"),
    "unknown gpu type": ({"gpu_type": "H100"}, "A10G, L4, T4"),
    "gpu on a type without": ({"gpu": 1, "vm_types": "m5.large"}, "has no GPU"),
    "type of four gpus": ({"vm_types": ["g5.12xlarge"]}, "has 4 GPUs"),
    "cpu with vm_types": ({"cpu": 4, "vm_types": ["m5.large"]}, "cannot be given together"),
    "memory with vm_types": ({"memory": "1 GiB", "vm_types": ["m5.large"]}, "cannot be given together"),
    "unknown type": ({"vm_types": "bogus"}, "not an EC2 machine type"),
    "unknown size": ({"vm_types": ["m6i.xxlarge"]}, "Did you mean 'm6i.xlarge'"),
    "size that its family lacks": ({"vm_types": ["t3.4xlarge"]}, "Did you mean 't3"),
    "type that is no text": ({"vm_types": [3]}, "vm_type 3"),
    "mixed architectures": ({"vm_types": ["m5.large", "m7g.large"]}, "different architectures"),
    "type of another architecture": ({"vm_types": "m5.large", "arch": "arm64"}, "is not arm64"),
    "unknown architecture": ({"arch": "mips"}, "x86_64 or arm64"),
    "no such size": ({"cpu": 4, "memory": "100 GiB"}, "Nearest: "),
    "odd cpu": ({"cpu": 3}, "Nearest: "),
    "cpu zero": ({"cpu": 0}, "cpu 0"),
    "cpu as text": ({"cpu": "4"}, "cpu '4'"),
    "cpu as bool": ({"cpu": True}, "cpu True"),
    "cpu backwards": ({"cpu": [8, 4]}, "cpu [8, 4]"),
    "memory in words": ({"memory": "lots"}, "memory 'lots'"),
    "memory without unit": ({"memory": 16}, "memory 16"),
    "no memory": ({"memory": "0 GiB"}, "memory '0 GiB'"),
    "memory backwards": ({"memory": ["32 GiB", "16 GiB"]}, "lower size first"),
    "three memories": ({"memory": ["1 GiB", "2 GiB", "3 GiB"]}, "must be one size, or two"),
}


@pytest.mark.parametrize(("wish", "text"), BAD.values(), ids=BAD)
def test_a_bad_wish_is_refused_in_one_clear_line(wish, text):
    with pytest.raises(OptionsError) as caught:
        choose(**wish)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_importing_the_plan_loads_nothing_heavy():
    code = (
        "import sys, prefect_coiled.plan.machines, prefect_coiled.costs\n"
        "print({'boto3', 'prefect', 'distributed', 'dask'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
