"""Each kind of package on its way to a lock for Linux machines: the rows of docs/environments.md.

A package index of this file's own serves a few wheels, one corner of it with a password; what is built here
is built by a backend inside its own sources. Nothing leaves this machine.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pydantic_core
import pytest

from prefect_coiled.environment import DISTRIBUTION, Environment, Package, kept, lock
from prefect_coiled.environment import build as building
from prefect_coiled.environment.elf import needed
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.lock import Locked
from prefect_coiled.environment.requirement_files import read_requirements
from prefect_coiled.environment.software import lock_software
from prefect_coiled.environment.target import GLIBC, Target, check_fits, target_tags
from prefect_coiled.errors import OptionsError
from prefect_coiled.internals.kept import folder
from tests.unit.as_installed import installed
from tests.unit.package_index import PASSWORD, USER, Handler, serve, wheel

TARGET = Target(f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}")
BACKEND = """
import zipfile, os
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "{file}-{version}-{tag}.whl"
    info = "{file}-{version}.dist-info"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.write("{file}.py")
        for extra in os.listdir("."):
            if extra.endswith(".so"):
                wheel.write(extra)
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""


def sources(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = name.replace("-", "_")
    backend = BACKEND.format(name=name, file=file, version=version, tag=tag)
    (folder / "backend.py").write_text(backend)
    (folder / f"{file}.py").write_text("x = 1\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
    )
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package index; gives its address."""
    root = tmp_path_factory.mktemp("index")
    public, private = root / "public", root / "private"
    machine = "x86_64"
    for name, version, tag in (
        (DISTRIBUTION, "9.9", "py3-none-any"),
        ("uv", "9.9", f"py3-none-manylinux_2_17_{machine}"),
        ("pure", "1.0", "py3-none-any"),
        ("hashless", "1.0", "py3-none-any"),
        ("compiled", "1.0", f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-manylinux_2_28_{machine}"),
        ("compiled", "1.0", f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-manylinux_2_39_{machine}"),
        ("compiled", "1.0", f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-macosx_11_0_arm64"),
        ("for-windows", "1.0", "py3-none-win_amd64"),
        ("local-build", "2.3.0", "py3-none-any"),
        ("from-conda", "1.0", "py3-none-any"),
    ):
        wheel(public / name, name, version, tag)
    wheel(private / "secretive", "secretive", "1.0")
    made = sources(root / "src" / "only_sources-1.0", "only-sources")
    (made / "PKG-INFO").write_text("Metadata-Version: 2.2\nName: only-sources\nVersion: 1.0\n")
    (public / "only-sources").mkdir()
    with tarfile.open(public / "only-sources" / "only_sources-1.0.tar.gz", "w:gz") as archive:
        archive.add(made, "only_sources-1.0")
    shutil.rmtree(root / "src")
    with serve(root) as address:
        yield address


@pytest.fixture
def indexes(index: str, tmp_path: Path) -> Indexes:
    """What a client has that is told of both parts of the index, with the password in the address."""
    host = index.removeprefix("http://")
    return Indexes.of(
        {
            "UV_DEFAULT_INDEX": f"{index}/public/",
            "UV_INDEX": f"http://{USER}:{PASSWORD}@{host}/private/",
            "UV_CACHE_DIR": str(tmp_path / "cache"),
            "HOME": str(tmp_path),
        }
    )


@pytest.fixture
def locked(indexes: Indexes) -> Iterator[object]:
    """Lock packages, beside this one; what was built is removed at the end."""
    made: list[Locked] = []

    def make(*packages: Package, strict: bool = False) -> Locked:
        own = Package(name=DISTRIBUTION, version="9.9")
        environment = Environment(python=TARGET.python, platform="linux-x86_64", packages=(own, *packages))
        made.append(lock(environment, TARGET, strict=strict, indexes=indexes))
        return made[-1]

    yield make
    for one in made:
        one.discard()


def the(locked: Locked, name: str) -> object:
    (found,) = [w for w in locked.lock.wheels if w.name == name]
    return found


def test_index_is_pinned_by_hash_and_not_downloaded_for_the_lock(locked, index, tmp_path) -> None:
    made = locked(Package(name="pure", version="1.0"))
    found = the(made, "pure")
    assert found.file == "pure-1.0-py3-none-any.whl"
    assert found.sha256 not in made.built
    content = made.fetch(found, tmp_path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == found.sha256


def test_a_file_of_the_index_that_is_not_the_locked_one_is_refused(locked, tmp_path) -> None:
    made = locked(Package(name="pure", version="1.0"))
    other = the(made, "pure").model_copy(update={"sha256": "0" * 64})
    with pytest.raises(OptionsError, match="its hash is"):
        made.fetch(other, tmp_path)


def test_a_file_of_which_the_index_gives_no_hash_is_locked_as_it_is_now(locked, tmp_path) -> None:
    made = locked(Package(name="hashless", version="1.0"))
    found = the(made, "hashless")
    # An older uv gives no hash then: the file is fetched for the lock.
    content = (made.built.get(found.sha256) or made.fetch(found, tmp_path)).read_bytes()
    assert hashlib.sha256(content).hexdigest() == found.sha256


def test_c_extension_takes_the_newest_wheel_that_the_machines_c_library_runs(locked) -> None:
    assert "manylinux_2_28_x86_64" in the(locked(Package(name="compiled", version="1.0")), "compiled").file


def test_sources_only_are_built_here(locked) -> None:
    made = locked(Package(name="only-sources", version="1.0"))
    assert the(made, "only-sources").sha256 in made.built


def git(*arguments: str, cwd: Path) -> str:
    own = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_vcs_is_built_from_the_commit_that_is_installed(locked, tmp_path) -> None:
    repository = sources(tmp_path / "repository", "versioned")
    git("init", "-q", ".", cwd=repository)
    git("add", ".", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    commit = git("rev-parse", "HEAD", cwd=repository)
    (repository / "versioned.py").write_text("x = 'later'\n")
    git("commit", "-qam", "second", cwd=repository)
    package = Package(name="versioned", version="1.0", origin="vcs", url=repository.as_uri(), commit=commit)
    made = locked(package)
    path = made.built[the(made, "versioned").sha256]
    assert zipfile.ZipFile(path).read("versioned.py") == b"x = 1\n"
    # Built again it is the same wheel, so that nothing is uploaded twice.
    assert locked(package).lock.hash == made.lock.hash


def test_what_never_changes_is_built_once(locked, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repository = sources(tmp_path / "repository", "versioned")
    git("init", "-q", ".", cwd=repository)
    git("add", ".", cwd=repository)
    git("commit", "-qm", "first", cwd=repository)
    commit = git("rev-parse", "HEAD", cwd=repository)
    committed = Package(name="versioned", version="1.0", origin="vcs", url=repository.as_uri(), commit=commit)
    archived = Package(name="only-sources", version="1.0")
    first = locked(committed, archived)
    shutil.rmtree(repository)
    monkeypatch.setattr(building, "build", lambda *_, **__: pytest.fail("built again"))
    again = locked(committed, archived)
    assert again.lock.hash == first.lock.hash
    first.discard()
    assert all(path.exists() for path in again.built.values())
    other = committed.model_copy(update={"commit": "0" * 40})
    with pytest.raises(pytest.fail.Exception, match="built again"):
        locked(other)


def test_built_wheels_that_nobody_wants_for_two_months_go(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = wheel(tmp_path, "mine", "1.0")
    old, wanted, new = "old", "wanted", "new"
    for key in (old, wanted):
        kept.keep(key, path)
        os.utime(folder("built") / key, (0, 0))
    (tmp_path / "copy").mkdir()
    assert kept.find(wanted, tmp_path / "copy").read_bytes() == path.read_bytes()
    kept.keep(new, path)
    assert sorted(p.name for p in folder("built").iterdir()) == [new, wanted]


def test_editable_becomes_a_wheel_of_its_directory_as_it_is_now(locked, tmp_path) -> None:
    place = sources(tmp_path / "mine", "mine")
    package = Package(name="mine", version="1.0", origin="directory", url=place.as_uri(), editable=True)
    first = the(locked(package), "mine")
    (place / "mine.py").write_text("x = 2\n")
    assert the(locked(package), "mine").sha256 != first.sha256


def test_a_directory_that_is_gone_is_named(locked, tmp_path) -> None:
    gone = Package(name="gone", version="1", origin="directory", url=(tmp_path / "gone").as_uri())
    with pytest.raises(OptionsError, match=r"gone==1: .* is not there any more.*ignore=\['gone'\]"):
        locked(gone)


def test_local_wheel_is_taken_as_it_is(locked, tmp_path) -> None:
    path = wheel(tmp_path, "handmade", "1.0")
    made = locked(Package(name="handmade", version="1.0", origin="file", url=path.as_uri()))
    assert the(made, "handmade").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_url_is_fetched_by_the_client(locked, index, tmp_path) -> None:
    url = f"{index}/public/pure/pure-1.0-py3-none-any.whl"
    made = locked(Package(name="pure", version="1.0", origin="url", url=url))
    assert the(made, "pure").sha256 in made.built


def test_private_index_is_asked_by_the_client_alone_and_its_password_stays_here(
    locked, indexes, tmp_path, capfd
) -> None:
    made = locked(Package(name="secretive", version="1.0"))
    found = the(made, "secretive")
    assert made.fetch(found, tmp_path).exists()
    assert ("/private/secretive/secretive-1.0-py3-none-any.whl", True) in Handler.seen
    told = [made.lock.text(), repr(made), repr(indexes), found.model_dump_json(), *capfd.readouterr()]
    with pytest.raises(OptionsError) as caught:
        locked(Package(name="secretive", version="7"))
    told.append(str(caught.value))
    for text in told:
        assert PASSWORD not in text
        assert USER not in text


def test_a_password_that_is_wrong_is_told_as_such(index, tmp_path) -> None:
    host = index.removeprefix("http://")
    wrong = Indexes.of({"UV_INDEX": f"http://{USER}:canary-wrong@{host}/private/", "HOME": str(tmp_path)})
    from prefect_coiled.environment import Wheel
    from prefect_coiled.environment.download import download

    url = f"{index}/private/secretive/secretive-1.0-py3-none-any.whl"
    one = Wheel(name="secretive", version="1.0", file="s.whl", sha256="", url=url)
    with pytest.raises(OptionsError, match="answered 401") as caught:
        download(one, tmp_path, wrong)
    assert "canary" not in str(caught.value)
    assert "credentials" in str(caught.value)


def test_not_for_linux_is_named_with_what_to_do(locked) -> None:
    with pytest.raises(OptionsError) as caught:
        locked(Package(name="for-windows", version="1.0"), Package(name="pure", version="1.0"))
    text = str(caught.value)
    assert f"for-windows==1.0 has no file for Linux x86_64 and Python {TARGET.python}" in text
    assert "package_sync_ignore=['for-windows']" in text
    assert "pure" not in text


@pytest.mark.parametrize("kind", ["record", "egg-info", "egg"])
def test_what_no_index_has_and_no_record_lists_is_named_with_its_record(locked, tmp_path, kind) -> None:
    # Without a RECORD, as distutils left it, and an egg that is a folder.
    site = tmp_path / "site-packages"
    places = {"record": "own-1.0.dist-info", "egg-info": "own-1.0.egg-info", "egg": "own-1.0.egg/EGG-INFO"}
    record = site / places[kind]
    record.mkdir(parents=True)
    told = record / ("METADATA" if kind == "record" else "PKG-INFO")
    told.write_text("Metadata-Version: 1.0\nName: own\nVersion: 1.0\n")
    with pytest.raises(OptionsError) as caught:
        locked(Package(name="own", version="1.0", record=str(record)))
    text = str(caught.value)
    assert f"own==1.0 is on no index that is set up here, and its record ({record}) lists no files" in text
    assert "package_sync_ignore=['own']" in text


def test_several_that_cannot_be_had_are_named_together(locked) -> None:
    with pytest.raises(OptionsError, match=r"absent==1 .*; for-windows==1.0 .*\['absent', 'for-windows'\]"):
        locked(Package(name="for-windows", version="1.0"), Package(name="absent", version="1"))


def test_a_version_that_no_index_can_have_is_named_and_left_out_where_it_is_the_systems(locked) -> None:
    ours = Package(name="ours", version="1.0-2004b")
    with pytest.raises(OptionsError, match=r"ours==1.0-2004b has a version that no index.*\['ours'\]"):
        locked(ours, Package(name="pure", version="1.0"))
    made = locked(ours.model_copy(update={"origin": "system"}), Package(name="pure", version="1.0"))
    assert the(made, "pure")
    assert any("ours==1.0-2004b is left out" in note for note in made.notes)


@pytest.mark.parametrize("editable", [True, False])
def test_secrets_in_a_directory_are_in_no_wheel_of_it_and_are_named(locked, tmp_path, editable) -> None:
    files = {"mine_here.py": "", "mine/__init__.py": "", "mine/.env": "canary", "mine/data.json": "{}"}
    files["mine/key.json"] = '{"private_key": "-----BEGIN PRIVATE KEY-----canary"}'
    source = sources(tmp_path / "mine-here", "mine_here")
    record = ""
    if editable:
        backend = (source / "backend.py").read_text()
        whole = '; [wheel.write(os.path.join("mine", n)) for n in os.listdir("mine")]'
        (source / "backend.py").write_text(
            backend.replace('wheel.write("mine_here.py")', f'wheel.write("mine_here.py"){whole}')
        )
        for path, content in files.items():
            (source / path).parent.mkdir(exist_ok=True)
            (source / path).write_text(content)
    else:
        site = tmp_path / "lib/python3/site-packages"
        record = str(installed(site, "mine-here", "1.0", files))
    package = Package(
        name="mine-here",
        version="1.0",
        origin="directory",
        url=source.as_uri(),
        editable=editable,
        record=record,
    )
    made = locked(package)
    with zipfile.ZipFile(made.built[the(made, "mine-here").sha256]) as wheel:
        assert {"mine_here.py", "mine/data.json"} <= set(wheel.namelist())
        assert not any(b"canary" in wheel.read(name) for name in wheel.namelist())
        record_name = next(name for name in wheel.namelist() if name.endswith("/RECORD"))
        assert b"key.json" not in wheel.read(record_name)
    (note,) = [note for note in made.notes if "secret" in note]
    assert "mine/.env" in note
    assert "mine/key.json" in note


def of_package(source: Path, *files: str) -> None:
    """Have a project build its package `mine` too, with all that lies in it."""
    for path in files:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text("" if path.endswith("__init__.py") else path)
    backend = (source / "backend.py").read_text()
    whole = '; [wheel.write(os.path.join(w, n)) for w, _, f in os.walk("mine") for n in f]'
    text = backend.replace('wheel.write("mine_here.py")', f'wheel.write("mine_here.py"){whole}')
    (source / "backend.py").write_text(text)


def test_what_our_ignore_file_names_is_in_no_wheel_of_an_editable_directory_and_is_named(
    locked, tmp_path
) -> None:
    files = ["mine/__init__.py", "mine/rows.csv", "mine/scratch/__init__.py", "mine/scratch/tried.py"]
    files += ["mine/kept.csv", "mine/inner/secret.toml", "mine/inner/needed.toml", "docs/needed.toml"]
    source = sources(tmp_path / "repository/mine-here", "mine_here")
    of_package(source, *files)
    # As .gitignore: also above the project, and nearer ones count more. The build itself may need such files.
    (tmp_path / "repository/.git").mkdir()
    (tmp_path / "repository/.coiledignore").write_text("*.csv\nscratch/\ndocs/\npyproject.toml\n")
    (source / "mine/.coiledignore").write_text("!kept.csv\n/inner/secret.toml\n")
    package = Package(name="mine-here", version="1.0", origin="directory", url=source.as_uri(), editable=True)
    made = locked(package)
    with zipfile.ZipFile(made.built[the(made, "mine-here").sha256]) as wheel:
        there = {name for name in wheel.namelist() if name.startswith("mine/")}
        listed = wheel.read("mine_here-1.0.dist-info/RECORD").decode()
    assert there - {"mine/.coiledignore"} == {"mine/__init__.py", "mine/kept.csv", "mine/inner/needed.toml"}
    assert all(f"{name}," in listed for name in there)
    assert "tried.py" not in listed
    (note,) = [note for note in made.notes if "not sent, by" in note]
    assert str(tmp_path / "repository/.coiledignore") in note
    assert "mine/inner/secret.toml, mine/rows.csv, mine/scratch/__init__.py and 1 more" in note


def test_an_editable_directory_has_the_name_and_the_version_that_are_installed(locked, tmp_path) -> None:
    # Its version was raised, or comes from a commit that was made since; or it was renamed.
    source = sources(tmp_path / "mine-here", "mine-now", "2.0.dev3+gabc")
    (source / "mine_now.py").write_text("x = 2\n")
    package = Package(name="mine-here", version="1.0", origin="directory", url=source.as_uri(), editable=True)
    made = locked(package)
    wheel = the(made, "mine-here")
    assert (wheel.version, wheel.file) == ("1.0", "mine_here-1.0-py3-none-any.whl")
    folder = tmp_path / "installed"
    install = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(made.built[wheel.sha256])], check=True)
    (info,) = folder.glob("*.dist-info")
    told = metadata.PathDistribution(info)
    assert (told.name, told.version) == ("mine-here", "1.0")
    assert (folder / "mine_now.py").read_text() == "x = 2\n"


def test_conda_made_is_taken_from_the_index_where_it_is_there(locked) -> None:
    assert the(locked(Package(name="from-conda", version="1.0", origin="conda")), "from-conda")


def test_conda_only_is_named_with_what_to_do(locked) -> None:
    with pytest.raises(OptionsError, match=r"gdal-like==3 is made by conda and no index has it.*ignore"):
        locked(Package(name="gdal-like", version="3", origin="conda"))


def test_a_local_build_becomes_the_released_version_and_that_is_told(locked) -> None:
    made = locked(Package(name="local-build", version="2.3.0+cu121"))
    assert the(made, "local-build").version == "2.3.0"
    assert made.notes == [
        "local-build==2.3.0+cu121 is a local build that no index has: the machines get local-build==2.3.0"
    ]


def test_strictly_a_local_build_that_no_index_has_is_an_error(locked) -> None:
    with pytest.raises(OptionsError, match="local build that no index has"):
        locked(Package(name="local-build", version="2.3.0+cu121"), strict=True)


def test_what_is_compiled_here_must_run_there(locked, tmp_path) -> None:
    here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    tag = f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-{here}"
    place = sources(tmp_path / "native", "native", tag=tag)
    (place / "native.so").write_bytes(b"\x7fELF ... GLIBC_2.17\0 GLIBC_2.4\0")
    package = Package(name="native", version="1.0", origin="directory", url=place.as_uri())
    assert the(locked(package), "native").file.endswith(f"{tag}.whl")
    (place / "native.so").write_bytes(b"\x7fELF ... GLIBC_2.17\0 GLIBC_2.38\0")
    with pytest.raises(OptionsError, match=rf"glibc 2.38, and the machines have 2.{GLIBC}"):
        locked(package)
    path = wheel(tmp_path, "native", "1.0", "cp39-cp39-macosx_11_0_arm64")
    with pytest.raises(OptionsError, match=r"native==1.0: it is compiled on this machine"):
        check_fits(path, target_tags(TARGET.python, "x86_64"), TARGET.python, "x86_64")


def compiled_for(*libraries: str) -> bytes:
    """A file that says in ELF's form which libraries it needs, and nothing else."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in libraries)
    places = [names.index(b"\0" + name.encode() + b"\0") + 1 for name in libraries]
    start = 64 + 2 * 56
    entries = b"".join(struct.pack("<qQ", 1, place) for place in places)
    entries += struct.pack("<qQ", 5, 0x1000 + start) + struct.pack("<qQ", 0, 0)
    whole = start + len(names) + len(entries)
    head = struct.pack("<6s10xHHIQQQIHHHHHH", b"\x7fELF\2\1", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0x1000, whole, whole, 1)
    at = start + len(names)
    dynamic = struct.pack("<IIQQQQQQ", 2, 6, at, 0x1000 + at, 0x1000 + at, len(entries), len(entries), 8)
    return head + load + dynamic + names + entries


def test_what_a_compiled_file_needs_is_read_of_it() -> None:
    assert needed(compiled_for("libc.so.6", "libpq.so.5")) == ("libc.so.6", "libpq.so.5")
    for broken in (b"", b"\x7fELF\2\1 and no more", compiled_for("libc.so.6")[:120]):
        assert needed(broken) == ()
    if sys.platform == "linux":
        assert "libc.so.6" in needed(Path(pydantic_core._pydantic_core.__file__).read_bytes())


def test_a_library_that_machines_lack_is_named_and_another_c_library_refused(locked, tmp_path) -> None:
    here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    tag = f"cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-{here}"
    place = sources(tmp_path / "native", "native", tag=tag)
    (place / "native.so").write_bytes(compiled_for("libc.so.6", "libz.so.1", "libown-1.so", "libpq.so.5"))
    (place / "libown-1.so").write_bytes(compiled_for("libc.so.6", "libstdc++.so.6"))
    package = Package(name="native", version="1.0", origin="directory", url=place.as_uri())
    (note,) = locked(package).notes
    assert note.startswith("native==1.0 needs libpq.so.5, which the machines lack")
    with pytest.raises(OptionsError, match=r"package_sync_strict: native==1.0 needs libpq.so.5.*ignore="):
        locked(package, strict=True)
    (place / "native.so").write_bytes(compiled_for("libc.musl-x86_64.so.1"))
    with pytest.raises(OptionsError, match=r"native==1.0: .*against musl, and the machines have glibc"):
        locked(package)


def test_without_this_package_no_machine_works(indexes) -> None:
    with pytest.raises(OptionsError, match="not among"):
        lock(Environment(python=TARGET.python, platform="x", packages=()), TARGET, indexes=indexes)


# -- what pip was told counts as well


def test_pips_settings_are_taken_over(tmp_path) -> None:
    settings = "[global]\nindex-url = http://me:pw-1@one/simple\nextra-index-url =\n  http://two/\n"
    (tmp_path / "pip.conf").write_text(settings)
    found = Indexes.of({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)})
    assert [(i.url, i.default) for i in found.settings.indexes] == [
        ("http://two/", False),
        ("http://one/simple", True),
    ]
    assert "pw-1" not in found.text
    assert found.authorization("http://one/a.whl") == "Basic " + base64.b64encode(b"me:pw-1").decode()
    assert found.authorization("http://two/a.whl") == ""
    said = found.redacted("cannot fetch http://me:pw-1@one/simple/a with pw-1")
    assert said == "cannot fetch http://one/simple/a with ****"


def test_a_named_index_and_netrc_give_credentials_too(tmp_path) -> None:
    environ = {
        "UV_INDEX": "corp=http://one:81/simple http://two/simple",
        "UV_INDEX_CORP_USERNAME": "u",
        "UV_INDEX_CORP_PASSWORD": "p",
        "HOME": str(tmp_path),
    }
    (tmp_path / ".netrc").write_text("machine two login n password s\n")
    found = Indexes.of(environ)
    assert found.authorization("http://one:81/x.whl") == "Basic " + base64.b64encode(b"u:p").decode()
    assert found.authorization("http://two/x.whl") == "Basic " + base64.b64encode(b"n:s").decode()
    assert found.authorization("http://three/x.whl") == ""


# -- software=FILE


def own() -> Environment:
    package = Package(name=DISTRIBUTION, version="9.9", origin="index")
    return Environment(python=TARGET.python, platform="linux-x86_64", packages=(package,))


def test_a_pylock_is_taken_with_its_own_hashes(indexes, index, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prefect_coiled.environment.software._NODE", ())
    content = urlopen(f"{index}/public/pure/pure-1.0-py3-none-any.whl")
    digest = hashlib.sha256(content).hexdigest()
    own_digest = hashlib.sha256(urlopen(f"{index}/public/{DISTRIBUTION}/{OWN_FILE}")).hexdigest()
    path = tmp_path / "pylock.toml"
    path.write_text(
        'lock-version = "1.0"\ncreated-by = "x"\n'
        + entry("pure", "1.0", f"{index}/public/pure/pure-1.0-py3-none-any.whl", digest)
        + entry(DISTRIBUTION, "9.9", f"{index}/public/{DISTRIBUTION}/{OWN_FILE}", own_digest)
        + '[[packages]]\nname = "w"\nversion = "1"\nmarker = "sys_platform == \'win32\'"\n'
    )
    made = lock_software(str(path), own(), TARGET, indexes=indexes)
    try:
        assert {w.name: w.sha256 for w in made.lock.wheels} == {"pure": digest, DISTRIBUTION: own_digest}
    finally:
        made.discard()


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("pure @ https://evil.example/x.tar.gz ; python_version", "1"),
        ("pure\\n--index-url https://evil.example", "1"),
        ("../pure", "1"),
        ("", "1"),
        ("pure", "1,>=0 ; extra"),
    ],
)
def test_a_name_in_a_pylock_is_a_name_and_no_requirement(indexes, tmp_path, name, version) -> None:
    path = tmp_path / "pylock.toml"
    package = (
        f'[[packages]]\nname = "{name}"\nversion = "{version}"\nsdist = {{ url = "https://x/y.tar.gz" }}\n'
    )
    path.write_text('lock-version = "1.0"\n' + package)
    with pytest.raises(OptionsError, match="is not in order"):
        lock_software(str(path), own(), TARGET, indexes=indexes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_paths_in_a_file_of_requirements_are_those_of_the_folder_that_they_are_read_from(
    indexes, tmp_path, monkeypatch, encoding
) -> None:
    monkeypatch.setattr("prefect_coiled.environment.software._NODE", ())
    folder = tmp_path / "my project"
    sources(folder / "packages/mine-here", "mine-here")
    sources(folder / "other-one", "other-one")
    wheel(folder, "by-file", "1.0")
    sources(folder / "by name/named", "named")
    sources(folder / "rooted", "rooted")
    lines = ["-e ./packages/mine-here", "-r more/more.txt  # why", "./by_file-1.0-py3-none-any.whl"]
    # uv's own forms: https://docs.astral.sh/uv/pip/compatibility/
    lines += ["named @ ./linked  # a folder", "-e file:///${PROJECT_ROOT}/rooted"]
    (folder / "linked").symlink_to("by name/named")
    (folder / "more").mkdir()
    (folder / "requirements.txt").write_text("\r\n".join([*lines, DISTRIBUTION]), encoding=encoding)
    (folder / "more/more.txt").write_text("pure\n./other-one\n-c held.txt\n")
    (folder / "more/held.txt").write_text("pure==1.0\n")
    # pip reads the first and the third from the working directory; elsewhere only the file's folder has them.
    for working in (folder, tmp_path):
        monkeypatch.chdir(working)
        made = lock_software(str(folder / "requirements.txt"), own(), TARGET, indexes=indexes)
        try:
            wanted = {"mine-here", "other-one", "by-file", "pure", "named", "rooted", DISTRIBUTION}
            assert {w.name: w.version for w in made.lock.wheels}.keys() == wanted
        finally:
            made.discard()
        (folder / "more/more.txt").write_text("pure\n../other-one\n-c held.txt\n")


@pytest.mark.parametrize("option", ["--extra-index-url", "--index-url=", "-f"])
def test_an_index_that_a_file_of_requirements_names_is_asked_with_the_password_that_it_says(
    index, tmp_path, monkeypatch, option
) -> None:
    monkeypatch.setattr("prefect_coiled.environment.software._NODE", ())
    monkeypatch.setenv("TOKEN_OF_MINE", PASSWORD)
    place = f"http://{USER}:${{TOKEN_OF_MINE}}@{index.removeprefix('http://')}/private/"
    place += "secretive/" if option == "-f" else ""
    path = tmp_path / "requirements.txt"
    path.write_text(f"{option} {place}  # ours\nsecretive\n{DISTRIBUTION}\n".replace("= ", "="))
    told = {"UV_INDEX": f"{index}/public/", "UV_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    made = lock_software(str(path), own(), TARGET, indexes=Indexes.of(told))
    try:
        assert made.fetch(the(made, "secretive"), tmp_path).is_file()
    finally:
        made.discard()
    read = read_requirements(path)
    assert PASSWORD not in json.dumps(read.texts), "it is in no file that uv reads"


def test_of_a_pylock_for_several_uses_the_default_groups_count_and_no_extra(
    indexes, index, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("prefect_coiled.environment.software._NODE", ())
    digest = hashlib.sha256(urlopen(f"{index}/public/pure/pure-1.0-py3-none-any.whl")).hexdigest()
    own_digest = hashlib.sha256(urlopen(f"{index}/public/{DISTRIBUTION}/{OWN_FILE}")).hexdigest()

    def marked(name: str, marker: str) -> str:
        return f'[[packages]]\nname = "{name}"\nversion = "1"\nmarker = "{marker}"\n'

    path = tmp_path / "pylock.toml"
    path.write_text(
        'lock-version = "1.0"\ncreated-by = "x"\nextras = ["x"]\n'
        'dependency-groups = ["default", "dev"]\ndefault-groups = ["default"]\n'
        + entry("pure", "1.0", f"{index}/public/pure/pure-1.0-py3-none-any.whl", digest)
        + "marker = \"'default' in dependency_groups\"\n"
        + entry(DISTRIBUTION, "9.9", f"{index}/public/{DISTRIBUTION}/{OWN_FILE}", own_digest)
        + marked("for-work", "'dev' in dependency_groups")
        + marked("for-more", "'x' in extras")
    )
    made = lock_software(str(path), own(), TARGET, indexes=indexes)
    try:
        assert {w.name for w in made.lock.wheels} == {"pure", DISTRIBUTION}
    finally:
        made.discard()


OWN_FILE = f"{DISTRIBUTION.replace('-', '_')}-9.9-py3-none-any.whl"


def entry(name: str, version: str, url: str, digest: str) -> str:
    where = json.dumps(url)
    return (
        f'[[packages]]\nname = "{name}"\nversion = "{version}"\n'
        f'wheels = [{{url = {where}, hashes = {{sha256 = "{digest}"}}}}]\n'
    )


def urlopen(url: str) -> bytes:
    import urllib.request

    with urllib.request.urlopen(url, timeout=10) as reply:
        return io.BytesIO(reply.read()).getvalue()


def test_a_pylock_for_another_system_is_refused_with_the_packages_name(indexes, tmp_path) -> None:
    path = tmp_path / "pylock.toml"
    path.write_text(
        'lock-version = "1.0"\ncreated-by = "x"\n'
        + entry("x", "1", "https://h/x-1-py3-none-win_amd64.whl", "0" * 64)
    )
    with pytest.raises(OptionsError, match=r"pylock.toml: x: its lock has no wheel for Linux x86_64"):
        lock_software(str(path), own(), TARGET, indexes=indexes)


@pytest.mark.parametrize("text", ["", "x =", "[tool]\n"])
def test_a_toml_that_is_no_lock_is_refused(indexes, tmp_path, text) -> None:
    path = tmp_path / "pylock.toml"
    path.write_text(text)
    with pytest.raises(OptionsError, match=r"pylock.toml: (it is no|it cannot be read)"):
        lock_software(str(path), own(), TARGET, indexes=indexes)
