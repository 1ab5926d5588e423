"""Environments as people have them, on machines that install: two, each with many kinds of packages at once.

A user's own script, which runs in the user's environment, asks a worker what is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from tests.unit.package_index import PASSWORD, USER, serve, wheel

ROOT = Path(__file__).resolve().parents[2]
GIT = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "commit.gpgsign=false"]
# Stands for a host of repositories: lets in the user git, and nobody else.
SSH = """#!/bin/bash
while [ $# -gt 0 ]; do
  case "$1" in -o|-p) shift 2 ;; -*) shift ;; *) host=$1; shift; break ;; esac
done
case "$host" in
  git@*) eval exec "$*" ;;
  *) echo "$host: Permission denied (publickey)." >&2; exit 255 ;;
esac
"""
ASKED = """
import importlib, importlib.metadata, importlib.util, json, sys, tempfile
from pathlib import Path

def there():
    found = {}
    names = ["six", "mine", "unreleased", "committed", "setuptools", "mambapy", "odd_build", "pip"]
    for name in [*names, "secretive", "local_build", "linked", "by_ssh"]:
        try:
            found[name] = importlib.metadata.version(name.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    import by_ssh, committed, helper_in_the_root, linked, local_build, mine, odd_build, secretive, six
    import speedups, unreleased
    found["says"] = [mine.says, unreleased.says, committed.says, odd_build.says, six.changed_here]
    found["says"] += [secretive.version, local_build.version, helper_in_the_root.says]
    found["says"] += [linked.says, by_ssh.says, speedups.websocket_mask(b"abcd", b"abcd").hex()]
    import mine.__main__ as main
    found["beside"] = sorted(p.name for p in Path(main.__file__).parent.iterdir() if p.name[0] == ".")
    for name in ("deleted", "tried"):
        found[name] = importlib.util.find_spec(f"mine.{name}") is not None
    return found

def came_later(cluster):
    # What is said of an object of a package that was installed after the cluster had started.
    from prefect import flow, task
    from prefect_coiled import CoiledTaskRunner
    import six
    site = Path(six.__file__).parent
    (site / "later.py").write_text("class Row: ...")
    info = site / "later-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: later\\nVersion: 1.2\\n")
    (info / "RECORD").write_text("later.py,,\\nlater-1.2.dist-info/METADATA,,\\n")
    importlib.invalidate_caches()

    @task
    def echo(x):
        return x

    @flow(task_runner=CoiledTaskRunner(cluster=cluster))
    def sends():
        return echo.submit(importlib.import_module("later").Row()).result()

    try:
        sends()
    except Exception as error:
        return str(error)

if __name__ == "__main__":
    from dask.distributed import Client
    from prefect_coiled import Cluster
    from prefect_coiled.sandbox import Sandbox, control
    with Sandbox({"image": "bare", "grace": 3, "iam": "on"}) as sandbox:
        control.ensure_started = lambda: sandbox.info
        said = []
        with (
            Cluster(n_workers=1, wait_for_workers=True, report=lambda _, text: said.append(text)) as cluster,
            Client(cluster) as client,
        ):
            answer = client.submit(there).result()
            later = came_later(cluster)
        print("ANSWER", json.dumps({"here": there(), "there": answer, "said": said, "later": later}))
"""


# The client says of itself that it is a Mac: its packages are a Mac's.
OF_A_MAC = """
import importlib.metadata as metadata, json, sys
from types import SimpleNamespace

NAMES = ("flame", "flame-parts", "flame-for-macs", "glow", "six")

def there():
    import ember, flame, six
    found = {}
    for name in (*NAMES, "ember"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["tag"] = metadata.distribution("flame").read_text("WHEEL").split("Tag: ")[1].split()[0]
    found["says"] = [ember.version, six.__version__]
    import by_a_pth_file, common, on_the_path
    found["own"] = [common.says, on_the_path.says, by_a_pth_file.says]
    return found

if __name__ == "__main__":
    from dask.distributed import Client
    from prefect_coiled import Cluster
    from prefect_coiled.sandbox import Sandbox, control
    module = sys.modules["prefect_coiled.environment.capture"]
    module.sys = SimpleNamespace(platform="darwin")
    module.platform = SimpleNamespace(machine=lambda: "arm64", python_version=module.platform.python_version)
    with Sandbox({"image": "bare", "grace": 3}) as sandbox:
        control.ensure_started = lambda: sandbox.info
        said = []
        with (
            Cluster(n_workers=1, wait_for_workers=True, report=lambda _, text: said.append(text)) as cluster,
            Client(cluster) as client,
        ):
            answer = client.submit(there).result()
        print("ANSWER", json.dumps({"here": there(), "there": answer, "said": said}))
"""


def project(folder: Path, name: str, says: str, *, setup: str = "", version: str = "1.0") -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"says = {says!r}\n")
    (folder / "setup.py").write_text(
        f"{setup}\nfrom setuptools import setup\n"
        f"setup(name={name!r}, version={version!r}, packages=[{name!r}])\n"
    )
    return folder


def answered(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a script of this file said."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    assert lines, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(lines[0].removeprefix("ANSWER "))
    return found


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def answer(
    patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, prefect_server: None
) -> dict[str, Any]:
    """What the script says of the packages here, and of those on a worker."""
    folder = tmp_path_factory.mktemp("user")
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    python = str(folder / "venv/bin/python")

    def install(*what: str) -> None:
        command = [*uv, "pip", "install", "-q", "--link-mode", "copy", "--python", python]
        subprocess.run([*command, *what], check=True, timeout=300)

    install(f"{ROOT}[sandbox]", "setuptools<81", "pip", "six==1.16.0")
    install("--no-deps", "mambapy")
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    # An upgrade that broke off, and one changed by hand after it.
    (site / "six-1.16.0.dist-info").rename(site / "~ix-1.16.0.dist-info")
    install("six==1.17.0")
    with (site / "six.py").open("a") as six:
        six.write("changed_here = 'a line of my own'\n")
    # Editable, with the name of nobody's package, a stale build and the script in its root.
    mine = project(folder / "mine", "mine", "editable")
    (mine / "mine" / "deleted.py").write_text("")
    install("--no-build-isolation", "-e", str(mine))
    (mine / "build/lib/mine").mkdir(parents=True)
    (mine / "mine" / "deleted.py").rename(mine / "build/lib/mine/deleted.py")
    # A directory that was changed after it was installed: what is imported here is the installed one.
    unreleased = project(folder / "unreleased", "unreleased", "as installed")
    install("--no-build-isolation", str(unreleased))
    (unreleased / "unreleased/__init__.py").write_text("says = 'later'\n")
    # A commit that no branch holds, of a repository that is not there any more.
    committed = project(folder / "committed", "committed", "of a commit")
    for command in (["init", "-q", "."], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*GIT, *command], cwd=committed, check=True)
    install("--no-build-isolation", f"git+file://{committed}")
    committed.rename(folder / "moved")
    # Installed by `setup.py develop`, as years ago: a link and a line of easy-install.pth.
    linked = project(folder / "linked", "linked", "by a link")
    (linked / "linked.egg-info").mkdir()
    (linked / "linked.egg-info/PKG-INFO").write_text("Metadata-Version: 1.0\nName: linked\nVersion: 1.0\n")
    (site / "linked.egg-link").write_text(f"{linked}\n.")
    (site / "easy-install.pth").write_text(f"{linked}\n")
    # By ssh, as the user git: the host here lets nobody else in.
    ssh = folder / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    patch.setenv("GIT_SSH_COMMAND", str(ssh))
    patch.setenv("GIT_SSH_VARIANT", "ssh")
    by_ssh = project(folder / "by_ssh", "by_ssh", "of a host")
    for command in (["init", "-q", "."], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*GIT, *command], cwd=by_ssh, check=True)
    install("--no-build-isolation", f"git+ssh://git@example.test{by_ssh}")
    # Records of nothing: what an upgrade left, and one that says nothing.
    (site / "nothing-1.0.dist-info").mkdir()
    (site / "empty-1.0.dist-info").mkdir()
    (site / "empty-1.0.dist-info/METADATA").write_text("")
    # An editor's lock, keys and a compiled module beside the sources.
    (mine / "mine/__main__.py").write_text("")
    (mine / "mine/.#__init__.py").symlink_to("me@nowhere.1234:5678")
    (mine / "mine/.env").write_text("TOKEN=secret")
    # A module of it that shall stay here.
    (mine / "mine/tried.py").write_text("")
    (mine / ".coiledignore").write_text("tried.py\n")
    (compiled,) = site.glob("tornado/speedups.abi3.so")
    shutil.copy(compiled, mine / compiled.name)
    # Builds with the environment's own tools alone.
    odd = project(folder / "odd", "odd_build", "built here", setup="import six")
    install("--no-build-isolation", "-e", str(odd))
    # A build with a label that no index has, and an index that the project names, with a password.
    wheel(folder / "wheels", "local-build", "1.0+cpu")
    install("--no-index", "--find-links", str(folder / "wheels"), "local-build==1.0+cpu")
    wheel(folder / "index/private/secretive", "secretive", "1.0")
    (mine / "helper_in_the_root.py").write_text("says = 'beside an editable'\n")
    script = mine / "flow.py"
    script.write_text(ASKED)
    environ = {**os.environ, "UV_INDEX_TEAM_USERNAME": USER, "UV_INDEX_TEAM_PASSWORD": PASSWORD}
    with serve(folder / "index") as index:
        there = index.replace("://", f"://{USER}:{PASSWORD}@")
        install("--no-deps", "--index", f"{there}/private/", "secretive")
        (mine / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[[tool.uv.index]]\nname = "team"\nurl = "{index}/private/"\nexplicit = true\n'
            '[tool.uv.sources]\nsecretive = { index = "team" }\n'
        )
        command = [python, str(script)]
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=400, check=False
        )
    assert PASSWORD not in done.stdout + done.stderr
    found = answered(done)
    # What Python itself writes beside a module that a script imports does not count.
    found["beside"] = sorted(p.name for p in mine.iterdir() if p.name != "__pycache__")
    return found


@pytest.fixture(scope="module", autouse=True)
def default_account() -> None:
    """The script has a sandbox of its own."""


def test_workers_have_what_is_imported_here(answer: dict[str, Any]) -> None:
    stays = {"beside": None, "tried": None}
    assert {**answer["there"], **stays} == {**answer["here"], **stays}
    assert answer["there"]["six"] == "1.17.0"
    assert answer["there"]["says"] == [
        "editable",
        "as installed",
        "of a commit",
        "built here",
        "a line of my own",
        "1.0",
        "1.0+cpu",
        "beside an editable",
        "by a link",
        "of a host",
        "00000000",
    ]
    assert None not in answer["there"].values()


def test_secrets_and_an_editors_lock_stay_here(answer: dict[str, Any]) -> None:
    # The worker's own copy; that of the client has both.
    assert answer["there"]["beside"] == []
    assert answer["here"]["beside"] == [".#__init__.py", ".env"]


def test_what_our_ignore_file_names_stays_here_also_of_an_editable_package(answer: dict[str, Any]) -> None:
    assert (answer["here"]["tried"], answer["there"]["tried"]) == (True, False)
    assert [text for text in answer["said"] if "not sent, by" in text and "mine/tried.py" in text]


def test_a_package_that_came_after_the_start_is_named_where_workers_lack_it(answer: dict[str, Any]) -> None:
    assert "No module named 'later'" in answer["later"]
    assert "It comes with later 1.2, which is installed here." in answer["later"]
    assert "out of memory" not in answer["later"]


def test_a_deleted_module_is_not_there_and_no_trace_is_left(answer: dict[str, Any]) -> None:
    assert answer["there"]["deleted"] is False
    assert answer["beside"] == [
        ".coiledignore",
        "build",
        "flow.py",
        "helper_in_the_root.py",
        "mine",
        "pyproject.toml",
        "setup.py",
        "speedups.abi3.so",
    ]


def test_what_is_not_as_released_was_said_before_the_launch(answer: dict[str, Any]) -> None:
    said = [text for text in answer["said"] if "six==1.17.0" in text]
    assert said == [
        "six==1.17.0: it differs here from the released one in six.py: the machines get it as it is here"
    ]


@pytest.fixture(scope="module")
def of_a_mac(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> dict[str, Any]:
    """The same of a client with a Mac's packages, run by `uv run --with`.

    Packages like torch: one version, whose wheel for Linux needs parts that the one for a Mac does not; and a
    build for the CPU alone, of an index that the project names for Linux, as in uv's guide for PyTorch.
    """
    folder = tmp_path_factory.mktemp("mac")
    index = folder / "index"
    mac, linux = "py3-none-macosx_11_0_arm64", "py3-none-manylinux_2_17_x86_64"
    on_linux = 'platform_system == "Linux" and platform_machine == "x86_64"'
    for tag, needs in ((mac, ("glow",)), (linux, ("glow", f"flame-parts==12.1; {on_linux}"))):
        on_mac = ("flame-for-macs; sys_platform == 'darwin'",)
        wheel(index / "team/flame", "flame", "2.3.0", tag, (*needs, *on_mac))
    wheel(index / "team/flame-parts", "flame-parts", "12.1", linux)
    wheel(index / "team/flame-parts", "flame-parts", "12.4", linux)
    wheel(index / "team/flame-for-macs", "flame-for-macs", "1.0", mac)
    wheel(index / "team/glow", "glow", "1.0")
    common = {"embers/__init__.py": "", "embers/one.py": "x = 1\n", "embers/two.py": "x = 2\n"}
    wheel(index / "team/ember", "ember", "1.0", mac, files=common)
    wheel(index / "cpu/ember", "ember", "1.0+cpu", linux, files=common)

    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    into = ["pip", "install", "-q", "--link-mode", "copy", "--python", str(folder / "venv/bin/python")]
    subprocess.run([*uv, *into, f"{ROOT}[sandbox]", "six==1.17.0"], check=True, timeout=300)
    # Run as `python -m flows.etl`, with modules in the root and in folders that the search path leads to.
    root = folder / "project"
    files = {"flows/etl.py": OF_A_MAC, "common.py": "says = 'in the root'\n"}
    files["on_path/on_the_path.py"] = "says = 'on PYTHONPATH'\n"
    files["by_pth/by_a_pth_file.py"] = "says = 'by a .pth file'\n"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "mine.pth").write_text(f"{root / 'by_pth'}\n")
    environ = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    environ["PYTHONPATH"] = str(root / "on_path")
    with serve(index) as address:
        wanted = [
            "--no-deps",
            "--default-index",
            f"{address}/team/",
            "flame",
            "ember",
            "flame-for-macs",
            "glow",
        ]
        subprocess.run([*uv, *into, "--python-platform", "aarch64-apple-darwin", *wanted], check=True)
        # What is for another use of uv changes nothing.
        (root / "pyproject.toml").write_text(
            '[tool.uv.pip]\npython-platform = "windows"\nno-deps = true\n'
            f'[[tool.uv.index]]\nname = "team"\nurl = "{address}/team/"\n'
            f'[[tool.uv.index]]\nname = "cpu"\nurl = "{address}/cpu/"\nexplicit = true\n'
            '[tool.uv.sources]\nember = { index = "cpu", marker = "sys_platform == \'linux\'" }\n'
        )
        run = [find_uv_bin(), "run", "-q", "--no-project", "--python", folder / "venv/bin/python"]
        command = [*run, "--with", "six==1.16.0", "python", "-m", "flows.etl"]
        done = subprocess.run(
            command, cwd=root, env=environ, capture_output=True, text=True, timeout=400, check=False
        )
    return answered(done)


def test_a_macs_packages_are_those_for_linux_there_with_what_they_need_there(
    of_a_mac: dict[str, Any],
) -> None:
    here, there = of_a_mac["here"], of_a_mac["there"]
    assert here["tag"].endswith("macosx_11_0_arm64")
    assert there["tag"].endswith("manylinux_2_17_x86_64")
    assert (here["flame-parts"], there["flame-parts"]) == (None, "12.1")
    assert (here["flame-for-macs"], there["flame-for-macs"]) == ("1.0", None)
    assert (there["flame"], there["glow"]) == (here["flame"], here["glow"]) == ("2.3.0", "1.0")
    said = "; ".join(of_a_mac["said"])
    assert "Linux needs, beyond what is installed here: flame-parts==12.1" in said
    assert "flame-for-macs==1.0 is left out: what requires it does so on another system only" in said


def test_the_build_for_the_cpu_comes_from_the_index_that_the_project_names_for_linux(
    of_a_mac: dict[str, Any],
) -> None:
    assert (of_a_mac["here"]["ember"], of_a_mac["there"]["ember"]) == ("1.0", "1.0+cpu")
    assert of_a_mac["there"]["says"][0] == "1.0+cpu"
    assert "ember==1.0 is ember==1.0+cpu on the machines" in "; ".join(of_a_mac["said"])


def test_what_uv_run_lays_over_an_environment_is_what_the_machines_have(of_a_mac: dict[str, Any]) -> None:
    assert of_a_mac["here"]["six"] == of_a_mac["there"]["six"] == "1.16.0"
    assert of_a_mac["there"]["says"][1] == "1.16.0"


def test_modules_travel_wherever_the_program_found_them(of_a_mac: dict[str, Any]) -> None:
    assert of_a_mac["there"]["own"] == ["in the root", "on PYTHONPATH", "by a .pth file"]
