import json

from prefect_coiled.environment import DISTRIBUTION, LocalPackage, client_packages, python_version


class Dist:
    def __init__(self, name, version, direct=None):
        self.metadata = {"Name": name}
        self.version = version
        self._direct = direct

    def read_text(self, name):
        return json.dumps(self._direct) if self._direct and name == "direct_url.json" else None


def test_packages_are_pinned_sorted_and_normalised():
    found = client_packages(
        [Dist("Zope.Interface", "5"), Dist("dask", "2026.1.0"), Dist("torch", "2.3+cu121")]
    )
    assert found == ["dask==2026.1.0", "torch==2.3", "zope-interface==5"]


def test_the_first_one_on_the_path_wins_and_broken_ones_are_skipped():
    assert client_packages([Dist("a", "2"), Dist("A", "1"), Dist(None, "1"), Dist("b", None)]) == ["a==2"]


def test_tools_and_packages_of_one_platform_are_left_out():
    names = ["pip", "setuptools", "wheel", "uv", "pywin32", "pyobjc-core", "appnope"]
    assert client_packages([Dist(name, "1") for name in names]) == []


def test_what_was_installed_from_a_directory_is_marked():
    editable = Dist("mine", "0.1", {"url": "file:///home/me/mine", "dir_info": {"editable": True}})
    [found] = client_packages([editable])
    assert isinstance(found, LocalPackage)
    assert found == "mine==0.1"


def test_addresses_come_without_user_and_password():
    git = Dist(
        "g", "1", {"url": "https://me:canary@host/g.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    )
    archive = Dist("w", "1", {"url": "https://t:canary@host/w.whl?token=canary", "archive_info": {}})
    assert client_packages([git, archive]) == ["g @ git+https://host/g.git@abc", "w @ https://host/w.whl"]


def test_the_real_environment_holds_dask_and_this_package():
    found = client_packages()
    assert any(line.startswith("distributed==") for line in found)
    assert any(line.startswith(DISTRIBUTION) for line in found)
    assert python_version().startswith("3.")
