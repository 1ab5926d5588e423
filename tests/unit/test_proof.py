"""A package of an index is taken where it is the one that is installed here; else the files here are."""

from __future__ import annotations

import csv
import functools
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefect_coiled.environment import Lock, Package, Wheel
from prefect_coiled.environment import kept as wheels
from prefect_coiled.environment.contents import check_record, contents, contents_of_file
from prefect_coiled.environment.download import download
from prefect_coiled.environment.entries import pick
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.proof import Proven, prove
from prefect_coiled.environment.repack import can_be_packed, pack
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError
from prefect_coiled.internals import kept
from tests.unit.as_installed import digest, installed

TARGET = Target("3.11.9")
FILES = {"one/__init__.py": "", "one/a.py": "a = 1\n", "one/b.py": "b = 2\n"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    folder.mkdir(parents=True)
    return folder


def released(
    folder: Path, files: dict[str, str], name: str = "one", *, tag: str = "py3-none-any", hashes: bool = True
) -> dict[str, Any]:
    """A wheel of an index; gives its entry in a lock."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1-{tag}.whl"
    info = f"{name}-1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\n")
        listed = {name: digest(wheel.read(name).decode()) for name in wheel.namelist()}
        rows = "".join(f"{file},sha256={told},\n" for file, told in listed.items())
        wheel.writestr(f"{info}/RECORD", f"{rows}{info}/RECORD,,\n" if hashes else "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": name, "version": "1", "wheels": [{"url": path.as_uri(), "hashes": {"sha256": sha256}}]}


def proven(
    entry: dict[str, Any] | None, record: Path, *, strict: bool = False, **more: Any
) -> tuple[Proven, list[str]]:
    package = Package(name="one", version="1", record=str(record), **more)
    here = {"one"} if can_be_packed(package, TARGET.tags) else set()
    found = prove([entry] if entry else [], [package], here, TARGET, Indexes(), strict=strict)
    return found, [change.what for change in found.changes]


@pytest.mark.parametrize("hashes", [True, False])
def test_the_package_that_is_installed_here_is_taken_from_the_index(
    site: Path, tmp_path: Path, hashes: bool
) -> None:
    record = installed(site, "one", "1", FILES)
    found, notes = proven(released(tmp_path / "index", FILES, hashes=hashes), record)
    assert [e["name"] for e in found.entries] == ["one"]
    assert (found.packed, notes) == ([], [])


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_a_package_that_was_changed_here_goes_as_it_is_here_and_that_is_told(
    site: Path, tmp_path: Path, change: str
) -> None:
    entry = released(tmp_path / "index", FILES)
    record = installed(site, "one", "1", FILES)
    assert proven(entry, record)[1] == []
    if change == "changed":
        (site / "one/a.py").write_text("a = 1.5\n")
    elif change == "added":
        record = installed(site, "one", "1", {**FILES, "one/c.py": "c"}, again=True)
    else:
        record = installed(site, "one", "1", {"one/__init__.py": "", "one/b.py": "b = 2\n"}, again=True)
        (site / "one/a.py").unlink()
    found, notes = proven(entry, record)
    assert [p.name for p in found.packed] == ["one"]
    assert found.entries == []
    assert notes == [
        f"it differs here from the released one in one/{'c' if change == 'added' else 'a'}.py: "
        "the machines get it as it is here"
    ]


@pytest.mark.parametrize("file", ["run.pth", "one/a.so", "one-1.data/purelib/run.pth", "one/more.py"])
def test_a_wheel_with_more_that_runs_than_is_here_is_not_taken(site: Path, tmp_path: Path, file: str) -> None:
    entry = released(tmp_path / "index", {**FILES, file: "import os\n"})
    found, notes = proven(entry, installed(site, "one", "1", FILES))
    assert ([p.name for p in found.packed], found.entries) == (["one"], [])
    assert "it differs here from the released one" in notes[0]
    same = {**FILES, "run.pth": "import os\n"}
    entry = released(tmp_path / "other", same)
    assert proven(entry, installed(site, "one", "1", same, again=True))[1] == []


def test_a_wheel_whose_record_lies_is_found_out_before_it_is_given_on(site: Path, tmp_path: Path) -> None:
    entry = released(tmp_path / "index", FILES)
    record = installed(site, "one", "1", FILES)
    (path,) = (tmp_path / "index").glob("*.whl")
    with zipfile.ZipFile(path) as genuine:
        members = {name: genuine.read(name) for name in genuine.namelist()}
    with zipfile.ZipFile(path, "w") as evil:
        for name, content in members.items():
            evil.writestr(name, b"import os\n" if name == "one/a.py" else content)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry["wheels"][0]["hashes"]["sha256"] = sha256
    found, _ = proven(entry, record)
    assert [e["name"] for e in found.entries] == ["one"]  # by RECORD, of which alone was read
    wheel = Wheel(name="one", version="1", file=path.name, sha256=sha256, url=path.as_uri())
    (tmp_path / "down").mkdir()
    with pytest.raises(OptionsError, match=r"one/a\.py is not what its RECORD says"):
        download(wheel, tmp_path / "down", Indexes())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has another kind of owners")
@pytest.mark.parametrize("attack", ["a folder for all", "a file for all", "a link"])
def test_what_others_can_have_put_into_the_cache_is_not_believed(tmp_path: Path, attack: str) -> None:
    mask = os.umask(0)
    try:
        wheel = tmp_path / "one-1-py3-none-any.whl"
        wheel.write_bytes(b"genuine")
        wheels.keep("key", wheel)
        kept.write(kept.folder("contents") / "hash", b"{}")
    finally:
        os.umask(mask)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    (tmp_path / "target").mkdir()
    assert wheels.find("key", tmp_path / "target") is not None
    assert kept.read(kept.folder("contents") / "hash") == "{}"
    for file in (kept.folder("built") / "key" / wheel.name, kept.folder("contents") / "hash"):
        if attack == "a folder for all":
            file.parent.chmod(0o777)
        elif attack == "a file for all":
            file.chmod(0o666)
        else:
            content = file.read_bytes()
            file.unlink()
            (tmp_path / f"evil-{file.name}").write_bytes(content)
            file.symlink_to(tmp_path / f"evil-{file.name}")
    assert wheels.find("key", tmp_path / "target") is None
    with pytest.raises(OSError, match="not this user's alone"):
        kept.read(kept.folder("contents") / "hash")


@pytest.mark.parametrize("linked", ["prefect-coiled", "prefect-coiled/seen"])
def test_a_link_in_place_of_the_cache_leads_to_nothing_that_is_removed_or_written(
    tmp_path: Path, linked: str
) -> None:
    """Somebody else may write where the cache lies, and knows what the user has elsewhere."""
    cache = tmp_path / "cache" / linked
    own = tmp_path / "documents"
    of_user = own / "seen" if linked == "prefect-coiled" else own
    (of_user / "old").mkdir(parents=True)
    (of_user / "letter").write_text("dear")
    for one in (of_user / "old", of_user / "letter"):
        os.utime(one, (0, 0))
    cache.parent.mkdir(parents=True)
    if linked == "prefect-coiled":
        cache.parent.chmod(0o777)
    cache.symlink_to(own)
    wheels.let_go("seen")
    kept.write(kept.folder("seen") / "note", b"x")
    assert sorted(one.name for one in of_user.iterdir()) == ["letter", "old"]
    with pytest.raises(OSError, match="not this user's alone"):
        kept.read(kept.folder("seen") / "letter")


def test_a_strangers_package_of_that_name_is_never_taken(site: Path, tmp_path: Path) -> None:
    entry = released(tmp_path / "index", {"one/__init__.py": "", "one/evil.py": "x = 1\n"})
    found, notes = proven(entry, installed(site, "one", "1", FILES))
    assert [p.name for p in found.packed] == ["one"]
    assert "the index has another package of that name" in notes[0]


def test_where_the_files_here_cannot_be_taken_a_stranger_is_refused_in_words(
    site: Path, tmp_path: Path
) -> None:
    entry = released(tmp_path / "index", {"one/evil.py": "x = 1\n"})
    record = installed(
        site, "one", "1", {**FILES, "one/native.so": "for conda's libraries"}, installer="conda"
    )
    with pytest.raises(OptionsError, match=r"one==1 of the index is another package.*ignore=\['one'\]"):
        proven(entry, record, origin="conda")


def test_a_package_whose_files_were_removed_is_to_be_installed_anew(site: Path, tmp_path: Path) -> None:
    record = installed(site, "one", "1", FILES)
    for path in FILES:
        (site / path).unlink()
    with pytest.raises(OptionsError, match=r"of one==1 files are missing here.*Install it anew"):
        proven(released(tmp_path / "index", FILES), record)


def test_what_conda_built_of_the_same_release_is_taken_from_the_index_and_told(
    site: Path, tmp_path: Path
) -> None:
    entry = released(tmp_path / "index", FILES)
    files = {
        **FILES,
        "one/b.py": "built = 'by conda'\n",
        "one/n.so": "",
        "one/d.py": "d",
        "one/a.py": "a = 1\n",
    }
    record = installed(site, "one", "1", files, installer="conda")
    found, notes = proven(entry, record, origin="conda")
    assert [e["name"] for e in found.entries] == ["one"]
    assert "differs from what is here in one/b.py, one/d.py" in notes[0]
    with pytest.raises(OptionsError, match="differs from the one that is installed here"):
        proven(entry, record, strict=True, origin="conda")


def test_what_no_index_has_goes_as_it_is_here(site: Path) -> None:
    found, notes = proven(None, installed(site, "one", "1", FILES))
    assert [p.name for p in found.packed] == ["one"]
    assert notes == ["no index that is set up here has it: the machines get it as it is here"]


def test_a_package_without_python_files_is_known_by_what_it_says_of_itself(
    site: Path, tmp_path: Path
) -> None:
    entry = released(tmp_path / "index", {"one/data.json": "{}", "one/__init__.py": ""})
    record = installed(site, "one", "1", {"one/data.json": "{}", "one/__init__.py": ""})
    assert proven(entry, record)[1] == []
    (record / "METADATA").write_text("Name: one\nVersion: 1\nSummary: a company's own\n")
    assert "another package" in proven(entry, record)[1][0]


# -- wheels of what is installed here


def test_a_wheel_of_what_is_here_installs_the_same_again(site: Path, tmp_path: Path) -> None:
    record = installed(
        site,
        "one",
        "1",
        {**FILES, "one/data.json": "{}", "../../../bin/one-tool": "#!/home/me/bin/python3\nprint(1)\n"},
        direct='{"url": "https://canary@host/one.whl"}',
    )
    (record / "entry_points.txt").write_text("[console_scripts]\none-command = one:main\n")
    extra = f"{record.name}/entry_points.txt,,\n../../../share/one/x.txt,,\n../../../bin/one-command,,\n"
    (record / "RECORD").write_text((record / "RECORD").read_text() + extra)
    for place in ("share/one/x.txt", "bin/one-command"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("text")
    package = Package(name="one", version="1", record=str(record))
    assert can_be_packed(package, TARGET.tags)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    wheel = pack(package, tmp_path / "first")
    again = pack(package, tmp_path / "second")
    assert wheel.name == "one-1-py3-none-any.whl"
    assert again.read_bytes() == wheel.read_bytes()
    assert b"canary" not in wheel.read_bytes()
    target = tmp_path / "machine"
    subprocess.run([sys.executable, "-m", "uv", "venv", "-q", "--python", sys.executable, target], check=True)
    command = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--no-index", "--python"]
    subprocess.run([*command, target / "bin/python", wheel], check=True)
    there = target / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    assert (there / "one/a.py").read_text() == "a = 1\n"
    assert (there / "one/data.json").read_text() == "{}"
    assert (target / "share/one/x.txt").read_text() == "text"
    assert (target / "bin/one-command").exists()
    assert (target / "bin/one-tool").read_text() == f"#!{target}/bin/python\nprint(1)\n"
    listed = (there / "one-1.dist-info/RECORD").read_text().splitlines()
    assert not any("canary" in path.read_text() for path in (there / "one-1.dist-info").iterdir())
    assert f"one/a.py,sha256={digest('a = 1' + chr(10))},6" in listed


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("cp311-cp311-manylinux_2_28_x86_64", True),
        ("cp311-cp311-linux_x86_64", True),
        ("cp311-cp311-macosx_11_0_arm64", False),
        ("cp312-cp312-manylinux_2_28_x86_64", False),
        ("cp311-cp311-win_amd64", False),
    ],
)
def test_what_is_made_for_another_system_is_not_packed(site: Path, tag: str, fits: bool) -> None:
    record = installed(site, "one", "1", FILES)
    (record / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
    assert can_be_packed(Package(name="one", version="1", record=str(record)), TARGET.tags) is fits


@pytest.mark.parametrize("lost", ["one/a.py", "one-1.dist-info/RECORD", "one-1.dist-info/METADATA"])
def test_what_is_not_whole_is_not_packed(site: Path, lost: str) -> None:
    record = installed(site, "one", "1", FILES)
    (site / lost).unlink()
    assert not can_be_packed(Package(name="one", version="1", record=str(record)), TARGET.tags)


@pytest.mark.parametrize("folder", ["my-own-1.0.0-rc.1", "My.Own-1", "my_own"])
def test_a_record_of_old_is_packed_under_its_name_in_the_form_of_today(
    site: Path, tmp_path: Path, folder: str
) -> None:
    record = installed(site, "my-own", "1.0.0-rc.1", {"one.py": ""}, record=f"{folder}.dist-info")
    wheel = pack(Package(name="my-own", version="1.0.0rc1", record=str(record)), tmp_path)
    assert wheel.name == "my_own-1.0.0rc1-py3-none-any.whl"
    assert zipfile.ZipFile(wheel).namelist() == [
        "one.py",
        *(f"my_own-1.0.0rc1.dist-info/{file}" for file in ("METADATA", "RECORD", "WHEEL")),
    ]


def test_modules_without_their_sources_are_packed_and_what_python_compiled_is_not(
    site: Path, tmp_path: Path
) -> None:
    files = {"bought/__init__.pyc": "", "bought/part.pyc": "", "bought/open.py": "", "bought/open.pyc": ""}
    files["bought/__pycache__/open.cpython-311.pyc"] = ""
    record = installed(site, "bought", "1.0", files)
    made = pack(Package(name="bought", version="1.0", record=str(record)), tmp_path)
    names = {n for n in zipfile.ZipFile(made).namelist() if n.startswith("bought/")}
    assert names == {"bought/__init__.pyc", "bought/part.pyc", "bought/open.py"}


def test_files_of_1970_are_packed(site: Path, tmp_path: Path) -> None:
    record = installed(site, "one", "1", FILES)
    os.utime(site / "one/a.py", (0, 0))
    assert pack(Package(name="one", version="1", record=str(record)), tmp_path).is_file()


def test_a_version_that_no_wheel_can_have_is_not_packed(site: Path) -> None:
    record = installed(site, "one", "1.0-2004b", FILES)
    assert not can_be_packed(Package(name="one", version="1.0-2004b", record=str(record)), TARGET.tags)


def test_nothing_is_packed_that_a_record_names_outside_of_its_environment(site: Path, tmp_path: Path) -> None:
    (tmp_path.parent / "foreign").mkdir(exist_ok=True)
    foreign = tmp_path.parent / "foreign" / "bin"
    foreign.mkdir(exist_ok=True)
    (foreign / "tool").write_text("another's")
    record = installed(site, "one", "1", {**FILES, "one/own.txt": ""})
    text = (record / "RECORD").read_text().replace("one/own.txt", f"{site}/one/own.txt")
    ways = f'{foreign}/tool,,\none/../../../../../foreign/bin/tool,,\n/etc/hostname,,\n"not closed,,\n\0,,\n'
    (record / "RECORD").write_text(ways + text)
    wheel = pack(Package(name="one", version="1", record=str(record)), tmp_path)
    names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
    assert names == sorted([*FILES, "one/own.txt"])


# -- looking into a wheel of an index


def evil_beside(path: Path, **changed: str) -> Path:
    """Another wheel of that name, with other files and a RECORD that tells the truth of them, in "whole"."""
    info = "one-1.dist-info"
    with zipfile.ZipFile(path) as genuine:
        members = {name: genuine.read(name).decode() for name in genuine.namelist()}
    members |= {name.replace("__", "/").replace("_", "."): content for name, content in changed.items()}
    rows = "".join(
        f"{name},sha256={digest(text)},\n" for name, text in members.items() if "RECORD" not in name
    )
    evil = path.parent.parent / "whole" / path.name
    evil.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(evil, "w") as wheel:
        for name, text in members.items():
            wheel.writestr(name, f"{rows}{info}/RECORD,,\n" if name.endswith("/RECORD") else text)
    return evil


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("evil", [{"one__a_py": "import os\n"}, {"run_pth": "import os\n"}])
def test_an_index_that_gives_another_wheel_than_the_one_that_was_looked_into_is_found_out(
    server: str,
    site: Path,
    tmp_path: Path,
    hashes: bool,
    evil: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gives parts of the genuine one to who looks, and the evil one as a whole, whose hash it has told."""
    entry = released(tmp_path / "parts", FILES, hashes=hashes)
    file = "one-1-py3-none-any.whl"
    path = evil_beside(tmp_path / "parts" / file, **evil)
    monkeypatch.setattr(Ranges, "instead", {"/parts/" + file: "/whole/" + file})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry["wheels"][0] |= {"url": f"{server}/parts/{file}", "hashes": {"sha256": sha256}}
    found, _ = proven(entry, installed(site, "one", "1", FILES))
    if not hashes:  # it was looked into as a whole
        assert ([p.name for p in found.packed], found.entries) == (["one"], [])
        return
    wheel = pick(found.entries[0], TARGET.tags)
    assert wheel is not None
    (tmp_path / "down").mkdir()
    with pytest.raises(OptionsError, match="RECORD is another one than was looked into"):
        download(wheel, tmp_path / "down", Indexes(), sleep=lambda _: None)
    assert not list((tmp_path / "down").iterdir())
    assert wheel.record
    public = wheel.model_copy(update={"url": f"https://files.pythonhosted.org/{file}"})
    lock = Lock(python="3.11.9", architecture="x86_64", wheels=(public,), uv=public)
    assert Lock.parse(lock.text()).wheels[0].record == wheel.record, "machines that fetch it are told"


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({}, ""),
        ({"a/": "", "one-1.dist-info/RECORD.jws": "", "one-1.dist-info/RECORD.p7s": ""}, ""),
        ({"run.pth": "import os\n"}, "run.pth is not in its RECORD"),
        ({"two-1.dist-info/RECORD": ""}, "RECORD is another one than was looked into"),
    ],
)
def test_a_wheel_has_no_more_files_than_the_record_that_was_looked_into(
    tmp_path: Path, more: dict[str, str], wrong: str
) -> None:
    released(tmp_path, FILES)
    path = tmp_path / "one-1-py3-none-any.whl"
    seen = contents_of_file(path)[":RECORD"]
    with zipfile.ZipFile(path, "a") as wheel:
        for name, text in more.items():
            wheel.writestr(name, text)
    assert check_record(path, seen) == wrong
    assert check_record(path) == ""


def test_a_wheel_that_is_read_as_a_whole_is_the_one_of_its_hash(server: str, tmp_path: Path) -> None:
    released(tmp_path / "parts", FILES, hashes=False)
    file = "one-1-py3-none-any.whl"
    told = {"name": "one", "version": "1", "file": file, "url": f"{server}/parts/{file}"}
    with pytest.raises(OptionsError, match="another hash than the index said"):
        contents(Wheel(sha256="0" * 64, **told), Indexes())
    # Without a hash nothing says that it will be this one.
    assert contents(Wheel(sha256="", **told), Indexes()) == {}


TRUE, FALSE = digest("import os\n"), digest("a = 1\n")
RECORDS = {
    "plain": "one/a.py,sha256={0},\n",
    "no name of the hash": "one/a.py,{0},\n",
    "another name of the hash": "one/a.py,SHA256={0},\n",
    "a backslash": "one\\a.py,sha256={0},\n",
    "a quotation mark that is not closed": '"\none/a.py,sha256={0},\n',
    "one that is closed at the end": '"x\none/a.py,sha256={0},\ny",,\n',
    "another end of a line": "x\x0bone/a.py,sha256={0},\n",
    "one of other scripts": "x\u2028one/a.py,sha256={0},\n",
    "an end of a line alone": "x,,\rone/a.py,sha256={0},\r",
    "twice, the truth first": "one/a.py,sha256={1},\none/a.py,sha256={0},\n",
    "twice, the truth last": "one/a.py,sha256={0},\none/a.py,sha256={1},\n",
    "twice, in two ways": "one/a.py,sha256={1},\none\\a.py,sha256={0},\n",
    "a NUL": "one/\0a.py,sha256={0},\n",
    "in base64 with its end": "one/a.py,sha256={0}=,\n",
    "a dot before it": "./one/a.py,sha256={0},\n",
}


@pytest.mark.parametrize("text", RECORDS.values(), ids=RECORDS)
def test_what_is_believed_of_a_record_is_what_is_checked_of_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "one-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("one/a.py", "import os\n")
        wheel.writestr("one-1.dist-info/RECORD", text.format(FALSE, TRUE))
    try:
        believed = contents_of_file(path).get("one/a.py")
        refused = check_record(path)
    except csv.Error:
        return
    assert believed == TRUE or refused


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server; in its folder "parts" it gives parts of files."""

    sent: list[int] = []
    instead: dict[str, str] = {}

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        if not asked:
            self.path = self.instead.get(self.path, self.path)
        if not self.path.startswith("/parts/") or not asked:
            self.sent.append(Path(self.translate_path(self.path)).stat().st_size)
            super().do_GET()
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1, len(content)) if first else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self.wfile.write(content[start:end])
        self.sent.append(end - start)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    Ranges.sent.clear()
    handler = functools.partial(Ranges, directory=str(tmp_path))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("hashes", [True, False])
@pytest.mark.parametrize("folder", ["parts", "whole"])
def test_of_a_large_wheel_the_end_is_read_once(
    server: str, tmp_path: Path, folder: str, hashes: bool
) -> None:
    big = {"one/big.bin": "0123456789" * 200_000, **FILES}
    entry = released(tmp_path / folder, big, hashes=hashes)
    path = tmp_path / folder / "one-1-py3-none-any.whl"
    sha256 = entry["wheels"][0]["hashes"]["sha256"]
    wheel = Wheel(
        name="one", version="1", file=path.name, sha256=sha256, url=f"{server}/{folder}/{path.name}"
    )
    told = contents(wheel, Indexes())
    assert told["one/a.py"] == digest("a = 1\n")
    assert set(told) == {*FILES, ":METADATA", *([":RECORD"] if hashes else [])}
    if folder == "parts" and hashes:  # without hashes all of it is read
        assert sum(Ranges.sent) < 300_000
    asked = len(Ranges.sent)
    assert contents(wheel, Indexes()) == told
    assert len(Ranges.sent) == asked, "what a wheel holds is kept"


def test_what_was_found_out_goes_after_two_months(site: Path, tmp_path: Path) -> None:
    record = installed(site, "one", "1", FILES)
    entry = released(tmp_path / "index", FILES)
    proven(entry, record)
    for kind in ("contents", "seen"):
        (found,) = kept.folder(kind).iterdir()
        os.utime(found, (0, 0))
    proven(None, record)
    assert [list(kept.folder(kind).iterdir()) for kind in ("contents", "seen")] == [[], []]


def test_an_index_that_does_not_give_a_wheel_is_told(server: str, tmp_path: Path) -> None:
    wheel = Wheel(name="one", version="1", file="one.whl", sha256="", url=f"{server}/parts/none.whl")
    with pytest.raises(OptionsError, match=r"looking into one.whl"):
        contents(wheel, Indexes())
