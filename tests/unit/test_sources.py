"""What is built here: a directory as it is now, a commit wherever it is; and why that fails."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from prefect_coiled.environment import Package
from prefect_coiled.environment.build import build
from prefect_coiled.environment.indexes import Indexes
from prefect_coiled.environment.sources import clone, copied, needs_copy
from prefect_coiled.environment.uv import find_uv
from prefect_coiled.errors import OptionsError

# An isolated build gets nothing from nowhere, so that what is here is what builds.
ALONE = Indexes({"UV_NO_INDEX": "1", "UV_OFFLINE": "1"})


def project(folder: Path, setup: str = "", **files: str) -> Path:
    """A setuptools project named mine, with a package of that name."""
    for path, content in {"mine/__init__.py": "", "mine/now.py": "", **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    (folder / "setup.py").write_text(
        f"from setuptools import setup\n{setup}\nsetup(name='mine', version='1.0', packages=['mine'])\n"
    )
    return folder


def directory(folder: Path) -> Package:
    return Package(name="mine", version="1.0", origin="directory", url=folder.as_uri(), editable=True)


def listing(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.usefixtures("tools")
def test_a_module_that_was_deleted_is_not_in_the_wheel_and_nothing_is_left_beside_the_sources(
    tmp_path: Path,
) -> None:
    source = project(
        tmp_path / "mine",
        **{"build/lib/mine/deleted.py": "", "mine.egg-info/SOURCES.txt": "mine/deleted.py\n"},
    )
    before = listing(source)
    (tmp_path / "out").mkdir()
    wheel = build(directory(source), tmp_path / "out", ALONE)
    names = zipfile.ZipFile(wheel).namelist()
    assert "mine/now.py" in names
    assert "mine/deleted.py" not in names
    assert listing(source) == before


def test_what_tools_leave_in_a_project_is_not_copied(tmp_path: Path) -> None:
    source = project(
        tmp_path / "mine",
        **{
            ".venv/pyvenv.cfg": "",
            "env/pyvenv.cfg": "",
            "env/lib/large.py": "",
            "node_modules/x.js": "",
            ".mypy_cache/x": "",
            "mine/build/__init__.py": "a package of that name",
            "mine/.hidden-setting": "x",
            "dist/old.whl": "",
        },
    )
    (source / "mine" / ".#now.py").symlink_to("me@host.1:2")
    copy = copied(source, tmp_path / "copy")
    assert listing(copy) == [
        "mine",
        "mine/.hidden-setting",
        "mine/__init__.py",
        "mine/build",
        "mine/build/__init__.py",
        "mine/now.py",
        "setup.py",
    ]


@pytest.mark.usefixtures("tools")
def test_a_package_that_only_builds_with_the_environments_own_tools_is_built_with_them(
    tmp_path: Path,
) -> None:
    source = project(tmp_path / "mine", setup="import cloudpickle")
    (tmp_path / "out").mkdir()
    assert build(directory(source), tmp_path / "out", ALONE).name == "mine-1.0-py3-none-any.whl"


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("trap", ["editor", "pipe", "loop"])
def test_what_is_no_file_is_passed_by_whatever_builds_a_project(tmp_path: Path, trap: str) -> None:
    source = tmp_path / "mine"
    (source / "mine").mkdir(parents=True)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    # Like most, it reads all that lies there.
    (source / "backend.py").write_text(
        "import os, zipfile\n"
        "def build_wheel(directory, config_settings=None, metadata_directory=None):\n"
        "    with zipfile.ZipFile(os.path.join(directory, 'mine-1.0-py3-none-any.whl'), 'w') as wheel:\n"
        "        for where, _, files in os.walk('mine', followlinks=True):\n"
        "            for name in files:\n"
        "                wheel.write(os.path.join(where, name))\n"
        "        wheel.writestr('mine-1.0.dist-info/METADATA', 'Name: mine\\nVersion: 1.0\\n')\n"
        "        wheel.writestr('mine-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\n')\n"
        "        wheel.writestr('mine-1.0.dist-info/RECORD', '')\n"
        "    return 'mine-1.0-py3-none-any.whl'\n"
    )
    (source / "mine/now.py").touch()
    if trap == "pipe":
        os.mkfifo(source / "mine/pipe")
    else:
        (source / "mine/link").symlink_to("me@host.1234" if trap == "editor" else "..")
    (tmp_path / "out").mkdir()
    names = zipfile.ZipFile(build(directory(source), tmp_path / "out", ALONE)).namelist()
    assert [n for n in names if ".dist-info/" not in n] == ["mine/now.py"]


@pytest.mark.usefixtures("tools")
def test_links_that_lead_back_end_and_data_is_linked_to_rather_than_copied(tmp_path: Path) -> None:
    source = project(tmp_path / "mine", **{"one/x.py": "", "two/y.py": ""})
    (source / "mine/up").symlink_to("..")
    (source / "one/other").symlink_to("../two")
    (source / "two/other").symlink_to("../one")
    with (source / "data.bin").open("wb") as data:
        data.truncate(2_000_000)
    (tmp_path / "out").mkdir()
    assert "mine/now.py" in zipfile.ZipFile(build(directory(source), tmp_path / "out", ALONE)).namelist()
    copy = copied(source, tmp_path / "copy")
    assert (copy / "data.bin").is_symlink()
    assert not (copy / "mine/up").exists()
    assert listing(copy / "one") == ["other", "other/y.py", "x.py"]


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A repository with two large files: the wheel's own, which Git tracks, and one that only lies there."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")  # a submodule may come from a folder
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    folder = project(tmp_path / "origin", **{"mine/small.csv": "1"})
    with (folder / "mine/model.bin").open("wb") as data:
        data.truncate(2_000_000)
    git("init", "-q", "-b", "main", ".", cwd=folder)
    git("add", ".", cwd=folder)
    git("commit", "-qm", "first", cwd=folder)
    shutil.copy(folder / "mine/model.bin", folder / "mine/scratch.bin")
    return folder


def test_data_that_git_tracks_is_copied_and_other_data_is_linked_to(committed: Path, tmp_path: Path) -> None:
    """Tools such as setuptools-scm take what is tracked, by where it truly lies."""
    (committed / "mine/linked.bin").symlink_to("model.bin")
    git("add", "mine/linked.bin", cwd=committed)
    copy = copied(committed, tmp_path / "copy")
    assert (copy / "mine/model.bin").stat().st_size == 2_000_000
    links = [path.name for path in sorted(copy.rglob("*")) if path.is_symlink()]
    assert links == ["linked.bin", "scratch.bin"]


@pytest.mark.parametrize("kind", ["repository", "submodule", "worktree"])
def test_git_takes_a_copy_for_the_project_that_it_is_a_copy_of(
    committed: Path, tmp_path: Path, kind: str
) -> None:
    source = tmp_path / "above/part"
    if kind == "worktree":
        git("worktree", "add", "-q", str(source), cwd=committed)
    elif kind == "submodule":
        git("init", "-q", str(source.parent), cwd=tmp_path)
        git("submodule", "--quiet", "add", committed.as_uri(), source.name, cwd=source.parent)
    else:
        source = committed
    copy = copied(source, tmp_path / "elsewhere/copy")
    assert git("rev-parse", "--show-toplevel", cwd=copy) == str(copy)
    files = ["mine/__init__.py", "mine/model.bin", "mine/now.py", "mine/small.csv", "setup.py"]
    assert git("ls-files", cwd=copy).splitlines() == files
    assert git("status", "--porcelain", "-uno", cwd=copy) == ""
    assert git("log", "-1", "--format=%s", cwd=copy) == "first"
    assert (copy / "mine/model.bin").is_file()
    assert not (copy / "mine/model.bin").is_symlink()


@pytest.mark.parametrize(
    ("settings", "copy"),
    [
        ('[build-system]\nbuild-backend = "hatchling.build"\n', False),
        ('[build-system]\nbuild-backend = "hatchling.build"\nbackend-path = ["."]\n', True),
        ('[build-system]\nbuild-backend = "poetry.core.masonry.api"\n', False),
        ('[build-system]\nbuild-backend = "poetry.core.masonry.api"\n[tool.poetry]\nbuild = "b.py"\n', True),
        ('[build-system]\nbuild-backend = "pbr.build"\n', True),
        ('[build-system]\nbuild-backend = "own"\nbackend-path = ["build"]\n', True),
        ("", True),
    ],
)
def test_what_may_write_beside_the_sources_builds_in_a_copy(
    tmp_path: Path, settings: str, copy: bool
) -> None:
    (tmp_path / "pyproject.toml").write_text(settings)
    assert needs_copy(tmp_path) is copy


def test_a_build_that_fails_gives_its_own_reason(tmp_path: Path) -> None:
    source = project(tmp_path / "mine", setup="import no_such_tool_at_all")
    with pytest.raises(OptionsError, match=r"building a wheel of mine==1.0: .*no_such_tool_at_all") as caught:
        build(directory(source), tmp_path, Indexes({"UV_NO_INDEX": "1"}))
    assert "package_sync_ignore=['mine']" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "commit"),
    [("{repository}", "--upload-pack=touch {canary};"), ("--upload-pack=touch {canary};", "0" * 40)],
)
def test_what_git_would_take_for_an_option_is_none(tmp_path: Path, url: str, commit: str) -> None:
    canary = tmp_path / "canary"
    places = {"repository": tmp_path.as_uri(), "canary": str(canary)}
    package = Package(
        name="a", version="1", origin="vcs", url=url.format(**places), commit=commit.format(**places)
    )
    with pytest.raises(OptionsError, match="neither an address nor a commit"):
        clone(package, tmp_path / "clone", Indexes())
    assert not canary.exists()


def git(*arguments: str, cwd: Path) -> str:
    own = ["-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *own, *arguments], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def tools() -> None:
    """What is installed here builds: the environment of the suite has setuptools, others need not."""
    pytest.importorskip("setuptools")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = project(tmp_path / "repository")
    git("init", "-q", "-b", "main", ".", cwd=folder)
    git("add", ".", cwd=folder)
    git("commit", "-qm", "first", cwd=folder)
    return folder


def of(repository: Path, commit: str) -> Package:
    return Package(name="mine", version="1.0", origin="vcs", url=repository.as_uri(), commit=commit)


@pytest.mark.parametrize("gives_single_commits", [True, False])
def test_a_commit_that_no_branch_holds_is_fetched(
    repository: Path, tmp_path: Path, gives_single_commits: bool
) -> None:
    git("checkout", "-q", "--detach", cwd=repository)
    (repository / "mine/proposed.py").write_text("")
    git("add", ".", cwd=repository)
    git("commit", "-qm", "of a pull request", cwd=repository)
    commit = git("rev-parse", "HEAD", cwd=repository)
    git("update-ref", "refs/pull/7/head", commit, cwd=repository)
    git("checkout", "-q", "main", cwd=repository)
    allowed = str(gives_single_commits).lower()
    git("config", "uploadpack.allowAnySHA1InWant", allowed, cwd=repository)
    git("config", "uploadpack.allowReachableSHA1InWant", allowed, cwd=repository)
    target = clone(of(repository, commit), tmp_path / "clone", Indexes())
    assert (target / "mine/proposed.py").exists()


def test_a_repository_that_refuses_is_told_in_gits_own_words(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@: Permission denied (publickey)." >&2\nexit 255\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(ssh))
    package = of(repository, "0" * 40).model_copy(update={"url": "ssh://git@host.test/team/r.git"})
    with pytest.raises(OptionsError, match=r"git@host.test.*Permission denied \(publickey\)"):
        clone(package, tmp_path / "clone", Indexes())


def test_a_repository_that_is_gone_is_told(repository: Path, tmp_path: Path) -> None:
    shutil.rmtree(repository)
    with pytest.raises(OptionsError, match=r"fetching mine==1\.0 from"):
        clone(of(repository, "0" * 40), tmp_path / "clone", Indexes())


@pytest.mark.usefixtures("tools")
def test_a_version_that_comes_from_git_is_the_one_that_is_installed(tmp_path: Path) -> None:
    source = project(
        tmp_path / "mine",
        setup="import os; os.environ.setdefault('x', 'y')\n"
        "version = os.environ['SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MINE']",
    )
    setup = (source / "setup.py").read_text().replace("version='1.0'", "version=version")
    (source / "setup.py").write_text(setup)
    (tmp_path / "out").mkdir()
    package = directory(source).model_copy(update={"version": "2.5.dev7"})
    assert build(package, tmp_path / "out", ALONE).name == "mine-2.5.dev7-py3-none-any.whl"


def test_where_the_module_of_uv_has_no_program_the_machines_own_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = find_uv()
    assert Path(own[0]).name.startswith("uv")
    # As on PYTHONPATH, or in a folder that was copied.
    (tmp_path / "uv.py").write_text("def find_uv_bin():\n    raise FileNotFoundError('uv')\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").symlink_to(own[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "uv", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_uv() == [str(tmp_path / "bin/uv")]
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OptionsError, match="pip install uv"):
        find_uv()


@pytest.mark.usefixtures("tools")
def test_a_build_may_read_of_what_lies_beside_its_project_and_above_it(tmp_path: Path) -> None:
    # A member of a workspace that is built with another one, in a repository with one number for all.
    (tmp_path / "all/.git").mkdir(parents=True)
    (tmp_path / "all/NUMBER").write_text("7")
    (tmp_path / "all/pyproject.toml").write_text(
        '[project]\nname = "all"\nversion = "0"\n[tool.uv.workspace]\nmembers = ["parts/*"]\n'
    )
    build_tool = project(tmp_path / "all/parts/tool")
    (build_tool / "setup.py").unlink()
    (build_tool / "tool_of_mine.py").write_text("number = open('../../NUMBER').read()\n")
    (build_tool / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tool"\nversion = "1"\n'
    )
    (build_tool / "backend.py").write_text(
        "import os, zipfile\n"
        "def build_wheel(directory, config_settings=None, metadata_directory=None):\n"
        "    with zipfile.ZipFile(os.path.join(directory, 'tool-1-py3-none-any.whl'), 'w') as wheel:\n"
        "        wheel.write('tool_of_mine.py')\n"
        "        wheel.writestr('tool-1.dist-info/METADATA', 'Name: tool\\nVersion: 1\\n')\n"
        "        wheel.writestr('tool-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\n')\n"
        "        wheel.writestr('tool-1.dist-info/RECORD', '')\n"
        "    return 'tool-1-py3-none-any.whl'\n"
        "build_editable = build_wheel\n"
    )
    source = tmp_path / "all/parts/mine"
    source.mkdir()
    (source / "mine.py").touch()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["tool"]\nbuild-backend = "setuptools_like"\nbackend-path = ["."]\n'
        '[project]\nname = "mine"\nversion = "1.0"\n[tool.uv.sources]\ntool = { workspace = true }\n'
    )
    (source / "setuptools_like.py").write_text(
        "import os, zipfile, tool_of_mine\n"
        "def build_wheel(directory, config_settings=None, metadata_directory=None):\n"
        "    name = f'mine-1.0-{tool_of_mine.number}-py3-none-any.whl'\n"
        "    open('left-by-the-build', 'w').close()\n"
        "    with zipfile.ZipFile(os.path.join(directory, name), 'w') as wheel:\n"
        "        wheel.write('mine.py')\n"
        "        wheel.writestr('mine-1.0.dist-info/METADATA', 'Name: mine\\nVersion: 1.0\\n')\n"
        "        wheel.writestr('mine-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\n')\n"
        "        wheel.writestr('mine-1.0.dist-info/RECORD', '')\n"
        "    return name\n"
    )
    before = listing(tmp_path / "all")
    (tmp_path / "out").mkdir()
    assert build(directory(source), tmp_path / "out", ALONE).name == "mine-1.0-7-py3-none-any.whl"
    assert listing(tmp_path / "all") == before


class _Guarded(SimpleHTTPRequestHandler):
    """A repository that wants a user and a password."""

    asked: ClassVar[list[tuple[int, str]]] = []

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.asked.append((self.server.server_address[1], given))
        if given == "Basic " + base64.b64encode(b"me:p@ss word").decode():
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic realm=repository")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """It stays quiet."""


def test_credentials_of_a_repository_are_in_no_arguments_and_go_to_no_other_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "me")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "me@example.com")

    def git(folder: Path, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (tmp_path / "served").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Guarded, directory=str(tmp_path / "served")))
    other = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Guarded, directory=str(tmp_path)))
    for one in (server, other):
        threading.Thread(target=one.serve_forever, daemon=True).start()
    try:
        source = project(tmp_path / "mine")
        git(source, "init", "--quiet")
        modules = f'[submodule "x"]\n\tpath = x\n\turl = http://127.0.0.1:{other.server_port}/x.git\n'
        (source / ".gitmodules").write_text(modules)
        git(source, "add", ".")
        git(source, "commit", "--quiet", "-m", "one")
        plain = git(source, "rev-parse", "HEAD")
        git(source, "update-index", "--add", "--cacheinfo", f"160000,{plain},x")
        git(source, "commit", "--quiet", "-m", "with somebody else's submodule")
        commit = git(source, "rev-parse", "HEAD")
        git(tmp_path / "served", "clone", "--quiet", "--bare", str(source), "mine.git")
        git(tmp_path / "served" / "mine.git", "update-server-info")
        trace = tmp_path / "trace"
        monkeypatch.setenv("GIT_TRACE", str(trace))
        url = f"git+http://me:p%40ss%20word@127.0.0.1:{server.server_port}/mine.git"

        def package(which: str) -> Package:
            return Package(name="mine", version="1", origin="vcs", url=url, commit=which)

        fetched = clone(package(plain), tmp_path / "one", Indexes())
        assert (fetched / "mine" / "now.py").exists()
        _Guarded.asked.clear()
        with pytest.raises(OptionsError):  # the other host asks for what is not for it
            clone(package(commit), tmp_path / "two", Indexes())
        assert {given for port, given in _Guarded.asked if port == other.server_port} == {""}
        assert any(given for port, given in _Guarded.asked if port == server.server_port)
    finally:
        for one in (server, other):
            one.shutdown()
            one.server_close()
    said = trace.read_text()
    assert "git-remote-http" in said
    for secret in ("p%40ss", "p@ss", "me:"):
        assert secret not in said
        assert secret not in (tmp_path / "one" / ".git" / "config").read_text()
