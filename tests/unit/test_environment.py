"""What is captured of the client, and how the lock of it is written."""

import json
import sysconfig

import pytest

from prefect_coiled.environment import DISTRIBUTION, Lock, Package, Wheel, capture
from prefect_coiled.environment.lock import pick
from prefect_coiled.environment.records import read_toml
from prefect_coiled.environment.target import target_tags
from prefect_coiled.errors import OptionsError


class Dist:
    requires = None

    def __init__(self, name, version, direct=None, installer="uv"):
        self.metadata = {"Name": name}
        self.version = version
        self._texts = {"INSTALLER": installer, "direct_url.json": json.dumps(direct) if direct else None}

    def read_text(self, name):
        return self._texts.get(name)


def captured(*dists, **options):
    return capture(dists, **options)


def test_packages_are_pinned_sorted_and_normalised():
    found = captured(Dist("Zope.Interface", "5"), Dist("dask", "2026.1.0"), Dist("torch", "2.3+cu121"))
    assert [str(p) for p in found.packages] == ["dask==2026.1.0", "torch==2.3+cu121", "zope-interface==5"]


def test_the_first_one_on_the_path_wins_and_broken_ones_are_skipped():
    found = captured(Dist("a", "2"), Dist("A", "1"), Dist(None, "1"), Dist("b", None))
    assert [str(p) for p in found.packages] == ["a==2"]


def test_nothing_is_left_out_for_its_name_but_what_manages_conda():
    names = ["conda-like", "mamba-ssm", "pip", "setuptools", "uv", "virtualenv", "wheel"]
    found = captured(*(Dist(name, "1") for name in names), Dist("mamba", "1", installer="conda"))
    assert [p.name for p in found.packages] == names
    assert found.left_out == {"mamba": "a tool of conda's own"}


def test_what_is_made_for_another_system_is_left_out_by_name():
    found = captured(*(Dist(name, "1") for name in ["pywin32", "pyobjc-core", "appnope"]))
    assert found.packages == ()
    assert found.left_out == dict.fromkeys(["pywin32", "pyobjc-core", "appnope"], "not for Linux")


def test_strictly_what_is_made_for_another_system_is_an_error_that_says_what_to_do():
    with pytest.raises(OptionsError, match=r"appnope, pywin32.*package_sync_ignore=\['appnope', 'pywin32'\]"):
        captured(Dist("pywin32", "1"), Dist("appnope", "1"), strict=True)


def test_what_is_ignored_is_left_out_and_named():
    found = captured(Dist("black", "1"), Dist("pytest-x", "1"), Dist("a", "1"), ignore=["Black", "pytest*"])
    assert [p.name for p in found.packages] == ["a"]
    assert set(found.left_out) == {"black", "pytest-x"}


@pytest.mark.parametrize("ignore", ["black", [1], [DISTRIBUTION], ["dis*"], [""]])
def test_what_cannot_be_ignored_is_refused(ignore):
    with pytest.raises(OptionsError, match="package_sync_ignore"):
        captured(ignore=ignore)


def test_each_origin_is_told_from_the_others():
    git = {"url": "https://me:canary@host/g.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    found = captured(
        Dist("b-index", "1"),
        Dist("c-git", "1", {**git, "subdirectory": "py"}),
        Dist("d-url", "1", {"url": "https://t:canary@host/w.whl?token=canary", "archive_info": {}}),
        Dist("e-file", "1", {"url": "file:///home/me/e-1-py3-none-any.whl", "archive_info": {}}),
        Dist("f-dir", "1", {"url": "file:///home/me/f", "dir_info": {"editable": True}}),
        Dist("g-conda", "1", {"url": "file:///feedstock_root/work", "dir_info": {}}, installer="conda"),
    )
    assert [p.origin for p in found.packages] == ["index", "vcs", "url", "file", "directory", "conda"]
    assert [p.editable for p in found.packages] == [False] * 4 + [True, False]
    assert found.packages[1] == Package(
        name="c-git",
        version="1",
        origin="vcs",
        url="https://host/g.git",
        commit="abc",
        subdirectory="py",
    )
    assert "canary" not in found.model_dump_json()


def test_the_real_environment_holds_dask_and_this_package():
    found = capture()
    by_name = {p.name: p for p in found.packages}
    assert by_name["distributed"].origin == "index"
    assert by_name[DISTRIBUTION].origin == "directory", "the suite runs from a checkout"
    assert found.python_minor.startswith("3.")
    assert type(found).model_validate_json(found.model_dump_json()) == found


def wheel(name, version="1", sha="0", **more):
    return Wheel(
        name=name,
        version=version,
        file=f"{name.replace(chr(45), chr(95))}-{version}-py3-none-any.whl",
        sha256=sha * 64,
        **more,
    )


LOCK = Lock(
    python="3.11.9",
    architecture="arm64",
    wheels=(wheel("a", size=3), wheel("b", sha="1")),
    uv=wheel("uv", "0.9", sha="2"),
    modules=wheel("prefect-coiled-modules", "0+abc", sha="3"),
)


def test_the_lock_is_a_pylock():
    pylock = pytest.importorskip("packaging.pylock", reason="packaging reads these from 26.0 on")
    pylock.Pylock.from_dict(read_toml(LOCK.text())).validate()


def test_the_lock_has_paths_in_the_bucket_and_reads_back():
    text = LOCK.text()
    assert f'path = "wheels/{"0" * 64}/a-1-py3-none-any.whl", size = 3' in text
    again = Lock.parse(text)
    assert again == LOCK
    assert again.text() == text


def test_a_text_that_is_no_such_lock_is_refused():
    for text in ("", "lock-version = '1.0'", "x ="):
        with pytest.raises(OptionsError, match="lock"):
            Lock.parse(text)


def test_modules_beside_the_flow_change_the_lock_but_not_the_environment():
    plain = LOCK.model_copy(update={"modules": None})
    assert plain.environment_hash == LOCK.environment_hash
    assert plain.hash != LOCK.hash
    other = LOCK.model_copy(update={"wheels": LOCK.wheels[:1]})
    assert other.environment_hash != LOCK.environment_hash
    assert LOCK.model_copy(update={"python": "3.12.1"}).environment_hash != LOCK.environment_hash


def entry(*files):
    return {"name": "x", "version": "1", "wheels": [{"url": f"https://h/{f}"} for f in files]}


def test_the_wheel_that_fits_best_is_taken():
    pure, old = "x-1-py3-none-any.whl", "x-1-cp311-cp311-manylinux2014_x86_64.whl"
    new, newer = "x-1-cp311-cp311-manylinux_2_28_x86_64.whl", "x-1-cp311-cp311-manylinux_2_39_x86_64.whl"
    arm, abi3 = "x-1-cp311-cp311-manylinux_2_17_aarch64.whl", "x-1-cp38-abi3-manylinux_2_17_x86_64.whl"
    tags = target_tags("3.11.9", "x86_64")
    assert pick(entry(pure, old, new, newer, arm, abi3), tags).file == new
    assert pick(entry(pure, arm), tags).file == pure
    assert pick(entry(abi3, pure), tags).file == abi3
    assert pick(entry(newer, arm), tags) is None
    assert pick(entry(new, arm), target_tags("3.11.9", "arm64")).file == arm


@pytest.fixture
def free_threaded(monkeypatch):
    """Python as it is without its global lock."""
    variable = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda n: 1 if n == "Py_GIL_DISABLED" else variable(n))


def test_python_without_its_global_lock_is_refused_in_one_line(free_threaded):
    with pytest.raises(OptionsError, match=r"free-threaded: machines have .* without the t\.") as refused:
        captured(Dist("dask", "2026.1.0"))
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("free_threaded")
def test_which_wheels_fit_does_not_depend_on_the_python_that_asks():
    assert {t.abi for t in target_tags("3.14.0", "x86_64")} == {"cp314", "abi3", "none"}
