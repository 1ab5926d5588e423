"""What Linux machines need and a client lacks, as it is a Mac or has another build, is resolved for them.

The packages are made here after the pattern of torch, tensorflow, jax and onnxruntime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prefect_coiled.environment import DISTRIBUTION, Environment, Package, lock, variants
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.lock import Locked
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError
from tests.unit.package_index import Handler, serve, wheel

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
MAC, LINUX, WINDOWS = "darwin-arm64", "linux-x86_64", "win32-AMD64"
ON_LINUX, ON_ARM = "py3-none-manylinux_2_17_x86_64", "py3-none-manylinux_2_17_aarch64"
ON_MAC, ON_WINDOWS = "py3-none-macosx_11_0_arm64", "py3-none-win_amd64"
PROJECT = '[project]\nname = "p"\nversion = "0"\n'
X86 = 'platform_system == "Linux" and platform_machine == "x86_64"'


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("index")
    public = root / "public"

    def add(name: str, version: str, *tags: str, requires: tuple[str, ...] = (), part: Path = public) -> None:
        for tag in tags or ("py3-none-any",):
            wheel(part / name, name, version, tag, requires)

    for name, version in ((DISTRIBUTION, "9.9"), ("uv", "9.9"), ("pure", "1.0"), ("pure", "2.0")):
        add(name, version)
    # As torch: one version, of which the metadata on Linux asks for more than that on a Mac.
    add("torch", "2.3.0", ON_MAC, ON_WINDOWS, requires=("pure",))
    companions = (f"nvidia-blas==12.1; {X86}", f"triton; {X86}", "pure")
    add("torch", "2.3.0", ON_LINUX, requires=companions)
    add("torch", "2.3.0", ON_ARM, requires=("pure",))
    add("nvidia-blas", "12.1", ON_LINUX, requires=("nvidia-linker",))
    add("nvidia-blas", "12.4", ON_LINUX)
    add("nvidia-linker", "1.0", ON_LINUX)
    # The newest one does not go with what the client has.
    add("triton", "3.0", ON_LINUX, requires=("pure>=2",))
    add("triton", "2.3", ON_LINUX, requires=("pure<2",))
    for label, needs in (("cpu", ("pure",)), ("cu118", ("nvidia-blas-cu11", "pure"))):
        add("torch", f"2.3.0+{label}", ON_LINUX, requires=needs, part=root / label)
    add("torchvision", "0.18+cpu", ON_LINUX, part=root / "cpu")
    # As jax's: a release that needs nothing, and builds for accelerators elsewhere.
    add("jaxlib", "0.4.20", ON_LINUX, requires=("pure",))
    # As tensorflow's: a package for Macs alone, required there.
    add("tensorflow", "2.15", ON_MAC, requires=('tensorflow-macos==2.15; platform_system == "Darwin"',))
    add("tensorflow", "2.15", ON_LINUX, requires=('tensorflow-io==0.3; platform_machine != "arm64"',))
    add("tensorflow-macos", "2.15", ON_MAC)
    add("tensorflow-io", "0.3", ON_LINUX)
    # As onnxruntime's: names for accelerators.
    add("onnxruntime", "1.0", ON_MAC, ON_LINUX, ON_ARM)
    add("onnxruntime-gpu", "1.0", ON_LINUX, ON_WINDOWS)
    add("needs-what-is-nowhere", "1.0", ON_LINUX, requires=("nowhere",))
    add("needs-what-is-nowhere", "1.0", ON_MAC)
    add("old-fashioned", "1.0", requires=("pure>=2", 'uvloop-like; sys_platform != "win32"'))
    add("uvloop-like", "0.1", ON_LINUX)
    add("choosy", "1.0", requires=('fine>=1; sys_platform == "linux"',))
    for version in ("0.1", "1.0", "2.0"):
        add("fine", version)
    add("on-arm", "1.0", requires=('only-arm; platform_machine == "aarch64"',))
    add("only-arm", "1.0", ON_ARM)
    with serve(root) as address:
        yield address


@pytest.fixture
def environ(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    Handler.seen.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "__main__")
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_DIRS": "/none",
        "UV_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "uv-of-linux-needs"),
        "PIP_INDEX_URL": f"{index}/public/",
    }


@pytest.fixture
def locked(environ: dict[str, str]) -> Iterator[Callable[..., Locked]]:
    """Lock what a client of a platform has."""
    made: list[Locked] = []

    def make(
        platform: str,
        *packages: str | Package,
        machines: str = "x86_64",
        strict: bool = False,
        ignored: tuple[str, ...] = (),
        **more: str,
    ) -> Locked:
        listed = [_package(p) if isinstance(p, str) else p for p in (f"{DISTRIBUTION}==9.9", *packages)]
        client = Environment(python=PYTHON, platform=platform, packages=tuple(listed), ignored=ignored)
        told = Indexes.of({**environ, **more})
        made.append(lock(client, Target(PYTHON, machines), strict=strict, indexes=told))
        return made[-1]

    yield make
    for one in made:
        one.discard()


def _package(pin: str) -> Package:
    name, _, version = pin.partition("==")
    return Package(name=name, version=version)


def versions(made: Locked) -> dict[str, str]:
    return {w.name: w.version for w in made.lock.wheels if w.name != DISTRIBUTION}


def notes(made: Locked) -> str:
    return "; ".join(made.notes)


# -- a client of another system


def test_a_macs_torch_comes_with_what_it_needs_on_linux(locked) -> None:
    made = locked(MAC, "torch==2.3.0", "pure==1.0")
    assert versions(made) == {
        "torch": "2.3.0",
        "pure": "1.0",
        "nvidia-blas": "12.1",
        "nvidia-linker": "1.0",
        "triton": "2.3",  # the one that goes with the client's `pure`
    }
    assert all("macosx" not in w.file for w in made.lock.wheels)
    wanted = "nvidia-blas==12.1, nvidia-linker==1.0, triton==2.3"
    assert f"Linux needs, beyond what is installed here: {wanted}" in notes(made)
    assert "torch has a smaller build, for the CPU alone. Say which index has it" in notes(made)


def test_machines_of_another_architecture_get_what_is_needed_there(locked) -> None:
    made = locked(LINUX, "torch==2.3.0", "on-arm==1.0", "pure==1.0", machines="arm64")
    assert versions(made) == {"torch": "2.3.0", "pure": "1.0", "on-arm": "1.0", "only-arm": "1.0"}
    assert "aarch64" in "".join(w.file for w in made.lock.wheels if w.name == "torch")


@pytest.mark.parametrize("platform", [LINUX, "linux-aarch64"])
def test_the_list_of_a_client_of_the_machines_own_kind_is_whole(locked, platform) -> None:
    machines = "arm64" if platform.endswith("aarch64") else "x86_64"
    # What is not installed here is not needed here, whatever its metadata says.
    made = locked(platform, "torch==2.3.0", "on-arm==1.0", machines=machines)
    assert versions(made) == {"torch": "2.3.0", "on-arm": "1.0"}


def test_what_a_user_ignores_is_not_added_nor_what_it_alone_needs(locked) -> None:
    made = locked(MAC, "torch==2.3.0", "pure==1.0", ignored=("nvidia-b*", "triton"))
    assert versions(made) == {"torch": "2.3.0", "pure": "1.0"}


def test_versions_that_do_not_go_together_by_their_metadata_stay_as_they_are(locked) -> None:
    made = locked(MAC, "old-fashioned==1.0", "pure==1.0")
    assert versions(made) == {"old-fashioned": "1.0", "pure": "1.0", "uvloop-like": "0.1"}


def test_what_the_client_runs_without_is_not_added(locked) -> None:
    package = Package(name="old-fashioned", version="1.0", requires=("pure>=2", "uvloop-like"))
    assert versions(locked(MAC, package)) == {"old-fashioned": "1.0"}


@pytest.mark.parametrize("lock_file", ["uv.lock", "poetry.lock", "pdm.lock"])
def test_what_linux_needs_has_the_version_of_the_projects_lock(locked, lock_file) -> None:
    Path("pyproject.toml").write_text(PROJECT)
    entries = "".join(
        f'[[package]]\nname = "{name}"\nversion = "{version}"\n'
        for name, version in (("Fine", "1.0"), ("pure", "2.0"), ("nvidia-linker", "1.0"))
    )
    Path(lock_file).write_text(entries)
    made = locked(MAC, "choosy==1.0", "pure==1.0")
    assert versions(made) == {"choosy": "1.0", "pure": "1.0", "fine": "1.0"}
    # One that is older than what is installed counts for nothing.
    Path(lock_file).write_text('[[package]]\nname = "fine"\nversion = "0.1"\n')
    assert versions(locked(MAC, "choosy==1.0", "pure==1.0"))["fine"] == "2.0"


def test_what_a_project_of_ones_own_needs_on_linux_is_there(locked, tmp_path) -> None:
    own = wheel(tmp_path, "mine", "1.0")
    requires = ('uvloop-like; sys_platform == "linux"', 'absent; sys_platform == "darwin"', "other-of-mine")
    packages = (
        Package(name="mine", version="1.0", origin="file", url=own.as_uri(), requires=requires),
        Package(
            name="other-of-mine",
            version="1",
            origin="file",
            url=wheel(tmp_path, "other-of-mine", "1").as_uri(),
        ),
    )
    assert set(versions(locked(MAC, *packages))) == {"mine", "other-of-mine", "uvloop-like"}
    # What is built here is asked of no index, though others require it.
    assert not [path for path, _ in Handler.seen if "mine" in path]


def test_what_is_here_for_this_system_alone_is_left_out_and_named(locked) -> None:
    requires = ('tensorflow-macos==2.15; platform_system == "Darwin"',)
    tensorflow = Package(name="tensorflow", version="2.15", requires=requires)
    made = locked(MAC, tensorflow, "tensorflow-macos==2.15")
    assert versions(made) == {"tensorflow": "2.15", "tensorflow-io": "0.3"}
    assert "tensorflow-macos==2.15 is left out" in notes(made)
    # Asked for by nobody but the user, it may be what the program imports.
    with pytest.raises(OptionsError, match=r"tensorflow-macos==2.15 has no file for Linux"):
        locked(MAC, "tensorflow-macos==2.15")
    with pytest.raises(OptionsError, match=r"tensorflow-macos==2.15 has no file for Linux"):
        locked(MAC, tensorflow, "tensorflow-macos==2.15", strict=True)


def test_what_linux_needs_and_no_index_has_is_an_error_before_anything_is_launched(locked) -> None:
    with pytest.raises(OptionsError, match=r"what the packages need on Linux x86_64: .*nowhere.*ignore"):
        locked(MAC, "needs-what-is-nowhere==1.0")


def test_a_variant_with_a_name_of_its_own_is_the_one_that_is_installed(locked) -> None:
    assert versions(locked(MAC, "onnxruntime==1.0")) == {"onnxruntime": "1.0"}
    assert versions(locked(WINDOWS, "onnxruntime-gpu==1.0")) == {"onnxruntime-gpu": "1.0"}
    with pytest.raises(OptionsError, match=r"onnxruntime-gpu==1.0 has no file for Linux arm64"):
        locked(LINUX, "onnxruntime-gpu==1.0", machines="arm64")


# -- local builds


def torch_project(index: str) -> str:
    """As in uv's guide for PyTorch: the build for the CPU on all systems but Macs."""
    return (
        f'{PROJECT}[tool.uv.sources]\ntorch = [{{ index = "pytorch-cpu", '
        "marker = \"sys_platform == 'linux' or sys_platform == 'win32'\" }]\n"
        f'[[tool.uv.index]]\nname = "pytorch-cpu"\nurl = "{index}/cpu/"\nexplicit = true\n'
        f'[[tool.uv.index]]\nname = "all"\nurl = "{index}/public/"\ndefault = true\n'
    )


@pytest.mark.parametrize(
    ("platform", "installed"), [(MAC, "2.3.0"), (LINUX, "2.3.0+cpu"), (WINDOWS, "2.3.0+cpu")]
)
def test_the_build_comes_from_the_index_that_the_project_names(locked, index, platform, installed) -> None:
    Path("pyproject.toml").write_text(torch_project(index))
    made = locked(platform, f"torch=={installed}", "pure==1.0")
    assert versions(made) == {"torch": "2.3.0+cpu", "pure": "1.0"}
    told = "torch==2.3.0 is torch==2.3.0+cpu on the machines"
    assert (told in notes(made)) == (platform == MAC)


def test_the_build_comes_from_an_index_that_pip_was_told_of(locked, index) -> None:
    made = locked(WINDOWS, "torch==2.3.0+cpu", "pure==1.0", PIP_EXTRA_INDEX_URL=f"{index}/cpu/")
    assert versions(made) == {"torch": "2.3.0+cpu", "pure": "1.0"}


def test_the_build_comes_from_the_index_that_uv_was_told_to_choose(locked, index, monkeypatch) -> None:
    monkeypatch.setattr(variants, "_TORCH_INDEX", index + "/{label}/")
    made = locked(LINUX, "torch==2.3.0+cpu", "pure==1.0", UV_TORCH_BACKEND="auto")
    assert versions(made) == {"torch": "2.3.0+cpu", "pure": "1.0"}
    made = locked(MAC, "torch==2.3.0", "pure==1.0", UV_TORCH_BACKEND="cpu")
    assert versions(made) == {"torch": "2.3.0+cpu", "pure": "1.0"}


@pytest.mark.parametrize("platform", [LINUX, WINDOWS])
def test_a_build_for_the_cpu_is_not_replaced_by_one_for_a_gpu(locked, platform) -> None:
    with pytest.raises(OptionsError) as caught:
        locked(platform, "torch==2.3.0+cpu", "pure==1.0")
    text = str(caught.value)
    assert "torch==2.3.0+cpu is a local build that no index has" in text
    assert "needs nvidia-blas==12.1, nvidia-linker==1.0, triton==2.3" in text
    assert "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu" in text


def test_a_user_of_uv_is_told_what_to_write_into_the_project(locked, index) -> None:
    Path("pyproject.toml").write_text(
        f'{PROJECT}[[tool.uv.index]]\nurl = "{index}/public/"\ndefault = true\n'
    )
    with pytest.raises(OptionsError) as caught:
        locked(WINDOWS, "torch==2.3.0+cpu", "pure==1.0")
    text = str(caught.value)
    assert '[[tool.uv.index]] name = "pytorch-cpu", url = "https://download.pytorch.org/whl/cpu"' in text
    assert '[tool.uv.sources] torch = { index = "pytorch-cpu" }' in text


def test_a_build_for_a_gpu_becomes_the_released_one_with_what_that_needs(locked) -> None:
    made = locked(WINDOWS, "torch==2.3.0+cu121", "pure==1.0")
    assert set(versions(made)) == {"torch", "pure", "nvidia-blas", "nvidia-linker", "triton"}
    assert "torch==2.3.0+cu121 is a local build that no index has" in notes(made)
    # On Linux its parts are installed beside it, and stay as they are.
    parts = ("nvidia-blas==12.1", "nvidia-linker==1.0", "triton==2.3")
    made = locked(LINUX, "torch==2.3.0+cu121", "pure==1.0", *parts)
    assert set(versions(made)) == {"torch", "pure", "nvidia-blas", "nvidia-linker", "triton"}
    # Of another accelerator's version it is another build.
    with pytest.raises(OptionsError, match=r"whl/cu118"):
        locked(LINUX, "torch==2.3.0+cu118", "pure==1.0", "nvidia-blas-cu11==11.8")


def test_a_build_that_needs_nothing_more_becomes_the_released_one_and_that_is_told(locked) -> None:
    made = locked(LINUX, "jaxlib==0.4.20+cuda12", "pure==1.0")
    assert versions(made) == {"jaxlib": "0.4.20", "pure": "1.0"}
    assert "jaxlib==0.4.20+cuda12 is a local build that no index has" in notes(made)
    with pytest.raises(OptionsError, match=r"local build that no index has.*PIP_EXTRA_INDEX_URL"):
        locked(LINUX, "jaxlib==0.4.20+cuda12", "pure==1.0", strict=True)


def test_a_released_build_is_not_replaced_by_a_local_one_of_its_version(locked, index) -> None:
    # An index for the CPU beside the public one: `==2.3.0` is met by `2.3.0+cpu`, and that is the newer one.
    made = locked(LINUX, "torch==2.3.0", PIP_EXTRA_INDEX_URL=f"{index}/cpu/")
    assert versions(made) == {"torch": "2.3.0"}
    # Where only the other one is there, that is said, or refused.
    made = locked(LINUX, "torchvision==0.18", PIP_EXTRA_INDEX_URL=f"{index}/cpu/")
    assert versions(made) == {"torchvision": "0.18+cpu"}
    assert "torchvision==0.18 is torchvision==0.18+cpu on the machines" in notes(made)
    with pytest.raises(OptionsError, match=r"the index has it as 0.18\+cpu"):
        locked(LINUX, "torchvision==0.18", PIP_EXTRA_INDEX_URL=f"{index}/cpu/", strict=True)
