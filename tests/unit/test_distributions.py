"""Which records of installed packages count, in folders as people have them."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from prefect_coiled.environment import capture
from prefect_coiled.environment import distributions as found_here
from tests.unit.as_installed import installed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of installed packages of an environment that has no other."""
    folder = tmp_path / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    folder.mkdir(parents=True)
    monkeypatch.setattr(found_here, "site_folders", lambda: (folder.resolve(),))
    return folder


def captured(*path: Path) -> dict[str, object]:
    found = capture(metadata.distributions(path=[str(entry) for entry in path]))
    return {**{p.name: p for p in found.packages}, "left out": found.left_out}


def test_leftovers_of_an_interrupted_upgrade_are_skipped(site: Path) -> None:
    installed(site, "six", "1.17", {"six.py": "new = 1"})
    for leftover in ("~ix-1.16.dist-info", "-ix-1.16.dist-info"):
        installed(site, "six", "1.16", {}, record=leftover)
    assert str(captured(site)["six"]) == "six==1.17"


@pytest.mark.parametrize("order", [("1.16", "1.17"), ("1.17", "1.16")])
def test_of_two_records_the_one_of_the_files_that_are_there_counts(
    site: Path, order: tuple[str, str]
) -> None:
    infos = {
        version: installed(site, "six", version, {"six.py": f"version = {version}"})
        for version in ("1.17", "1.16")
    }
    # What is imported is 1.16, whichever record was written last.
    for age, version in enumerate(order):
        os.utime(infos[version], (age, age))
    assert str(captured(site)["six"]) == "six==1.16"


@pytest.mark.parametrize("text", [None, "", "Metadata-Version: 2.1\n", "\0"])
def test_a_record_that_says_nothing_is_named(site: Path, text: str | None) -> None:
    info = installed(site, "broken-one", "1", {"broken.py": ""})
    (info / "METADATA").unlink() if text is None else (info / "METADATA").write_text(text)
    found = captured(site)
    assert "broken-one" not in found
    assert "names no version" in found["left out"]["broken-one"]


def project(folder: Path, name: str, *, modules: str = ".") -> Path:
    """Sources beside which a build left its record."""
    info = folder / modules / f"{name}.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    (info / "SOURCES.txt").write_text("setup.py\n")
    return info


def test_beside_an_editable_its_own_record_counts(site: Path, tmp_path: Path) -> None:
    project(tmp_path / "checkout", "mine")
    url = (tmp_path / "checkout").as_uri()
    direct = f'{{"url": "{url}", "dir_info": {{"editable": true}}}}'
    installed(site, "mine", "2.0", {"__editable__.mine.pth": "x"}, direct=direct)
    # The script's folder comes first on the path.
    found = captured(tmp_path / "checkout", site)["mine"]
    assert (found.origin, found.editable, found.url) == ("directory", True, url)


@pytest.mark.parametrize(("modules", "way"), [(".", "."), ("src", "../")])
def test_a_development_install_of_old_is_its_directory(
    site: Path, tmp_path: Path, modules: str, way: str
) -> None:
    project(tmp_path / "checkout", "mine", modules=modules)
    (site / "mine.egg-link").write_text(f"{tmp_path / 'checkout' / modules}\n{way}")
    found = captured(site, tmp_path / "checkout" / modules)["mine"]
    assert (found.origin, found.editable) == ("directory", True)
    assert found.url == (tmp_path / "checkout").resolve().as_uri()


def test_what_a_build_left_beside_sources_that_are_not_installed_is_no_package(
    site: Path, tmp_path: Path
) -> None:
    project(tmp_path / "checkout", "sampleproject")
    assert "sampleproject" not in captured(tmp_path / "checkout", site)


def test_what_another_version_control_gave_is_not_asked_of_an_index(site: Path) -> None:
    direct = '{"url": "https://host/r", "vcs_info": {"vcs": "hg", "commit_id": "abc"}}'
    installed(site, "mercurial-made", "1", {"m.py": "x"}, direct=direct)
    assert captured(site)["mercurial-made"].origin == "url"


def test_the_user_of_an_ssh_address_stays_and_secrets_go(site: Path) -> None:
    commit = '"vcs_info": {"vcs": "git", "commit_id": "abc"}'
    for name, url in {
        "by-ssh": "ssh://git@host/team/r.git",
        "by-ssh-with-port": "ssh://git:canary@host:2222/r.git",
        "by-token": "https://canary@host/r.git",
        "by-password": "https://me:canary@host/r.git?token=canary",
    }.items():
        installed(site, name, "1", {f"{name}.py": "x"}, direct=f'{{"url": "{url}", {commit}}}')
    found = captured(site)
    assert found["by-ssh"].url == "ssh://git@host/team/r.git"
    assert found["by-ssh-with-port"].url == "ssh://git@host:2222/r.git"
    assert found["by-token"].url == found["by-password"].url == "https://host/r.git"


def test_packages_of_the_operating_system_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "python3" / "dist-packages"
    info = folder / "python_apt-2.5.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: python-apt\nVersion: 2.5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found_here, "site_folders", lambda: (folder.resolve(),))
        assert captured(folder)["python-apt"].origin == "system"


def test_metadata_of_old_that_is_no_utf_8_is_read_as_installers_read_it(site: Path) -> None:
    info = installed(site, "of-old", "1.0", {"of_old.py": ""})
    text = "Metadata-Version: 2.1\nName: of-old\nVersion: 1.0\nAuthor: Andr\xe9\nRequires-Dist: six\n"
    (info / "METADATA").write_bytes(text.encode("latin-1"))
    found = captured(site)
    assert (str(found["of-old"]), found["of-old"].requires) == ("of-old==1.0", ("six",))


def test_a_version_is_spelt_as_indexes_spell_it_and_what_is_none_stays(site: Path) -> None:
    for name, version in {"dated": "2024.07.04", "early": "1.0.0-rc.1", "of-old": "1.0-2004b"}.items():
        installed(site, name, version, {f"{name}.py": ""}, record=f"{name}.dist-info")
    found = captured(site)
    assert [found[name].version for name in ("dated", "early", "of-old")] == [
        "2024.7.4",
        "1.0.0rc1",
        "1.0-2004b",
    ]


def test_a_record_whose_name_is_none_is_named(site: Path) -> None:
    installed(site, "my own", "1", {"m.py": ""}, record="my_own-1.dist-info")
    assert "names no package" in captured(site)["left out"]["my-own"]


def test_what_lies_in_an_archive_is_asked_of_no_index(tmp_path: Path) -> None:
    egg = tmp_path / "requests-1.0-py3.egg"
    with zipfile.ZipFile(egg, "w") as archive:
        archive.writestr("EGG-INFO/PKG-INFO", "Metadata-Version: 1.0\nName: requests\nVersion: 1.0\n")
        archive.writestr("requests/__init__.py", "ours = True\n")
    found = captured(egg)
    assert "requests" not in found
    assert "what the program imports of it travels" in found["left out"]["requests"]
