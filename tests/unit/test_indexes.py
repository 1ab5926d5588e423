"""Packages come from where the user's own tool would take them; no other setting of that tool counts.

Each test has a project's files, a package index with secrets, and looks at the lock that comes of it.
"""

from __future__ import annotations

import base64
import io
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from prefect_coiled.environment import DISTRIBUTION, Environment, Package, lock, uv_settings
from prefect_coiled.environment import uv as running
from prefect_coiled.environment.fetch import whole
from prefect_coiled.environment.index_settings import IndexSettings
from prefect_coiled.environment.indexes import Indexes, Trust
from prefect_coiled.environment.lock import Locked
from prefect_coiled.environment.project_settings import read_poetry
from prefect_coiled.environment.target import Target
from prefect_coiled.errors import OptionsError
from tests.unit.package_index import PASSWORD, READERS, USER, Handler, serve, wheel

TARGET = Target(f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}")
OTHER_USER, OTHER_PASSWORD = READERS["second-private"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package index of several parts; gives its address."""
    root = tmp_path_factory.mktemp("index")
    for name, version in ((DISTRIBUTION, "9.9"), ("uv", "9.9"), ("pure", "1.0"), ("pure", "2.0")):
        wheel(root / "public" / name, name, version)
    # A stranger's package has the name of one's own.
    wheel(root / "public" / "ours", "ours", "1.0", requires=["pure"])
    for part in ("private", "refusing"):
        wheel(root / part / "ours", "ours", "1.0")
    wheel(root / "second-private" / "theirs", "theirs", "1.0")
    with serve(root) as address:
        yield address


@pytest.fixture
def environ(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a user without settings; the working directory is empty."""
    Handler.seen.clear()
    for folder in ("home", "elsewhere", "project"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delitem(sys.modules, "__main__")
    return {
        "HOME": str(tmp_path / "home"),
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "XDG_CONFIG_DIRS": "/none",
    }


@pytest.fixture
def ask(environ: dict[str, str]) -> Iterator[Callable[..., dict[str, str]]]:
    """Lock packages as the program's user has set up things; gives the address of each by name."""
    made: list[Locked] = []

    def locked(*pins: str, **more: str) -> dict[str, str]:
        names = [pin.partition("==") for pin in (f"{DISTRIBUTION}==9.9", *pins)]
        packages = tuple(Package(name=name, version=version) for name, _, version in names)
        client = Environment(python=TARGET.python, platform="linux-x86_64", packages=packages)
        made.append(lock(client, TARGET, indexes=Indexes.of({**environ, **more})))
        return {w.name: w.url for w in made[-1].lock.wheels}

    yield locked
    for one in made:
        one.discard()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make a project's files, and the main script in its folder the one that runs."""

    def make(pyproject: str = "", folder: str = "project", text: str = "", **files: str) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        if pyproject:
            (place / "pyproject.toml").write_text(pyproject)
        for name, content in files.items():
            (place / name.replace("_", ".")).write_text(content)
        (place / "flow.py").write_text(text)
        main = type(sys)("__main__")
        main.__file__ = str(place / "flow.py")
        monkeypatch.setitem(sys.modules, "__main__", main)
        return place

    return make


def default(index: str) -> str:
    return f'[[tool.uv.index]]\nname = "all"\nurl = "{index}/public/"\ndefault = true\n'


def private(index: str, more: str = "") -> str:
    return f'[[tool.uv.index]]\nname = "our-own"\nurl = "{index}/private/"\n{more}\n'


def secrets(variable: str = "UV_INDEX_OUR_OWN") -> dict[str, str]:
    return {f"{variable}_USERNAME": USER, f"{variable}_PASSWORD": PASSWORD}


PROJECT = '[project]\nname = "p"\nversion = "0"\n'
SOURCES = '[tool.uv.sources]\nOurs = { index = "our-own" }\n'


# -- uv's projects


def test_an_index_of_the_project_is_asked_with_the_credentials_of_its_variables(ask, script, index) -> None:
    script(PROJECT + private(index) + default(index))
    found = ask("ours==1.0", "pure==1.0", **secrets())
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")


def test_without_the_credentials_it_is_said_that_the_index_did_not_let_in(ask, script, index) -> None:
    script(PROJECT + private(index, "explicit = true") + default(index) + SOURCES)
    with pytest.raises(OptionsError, match=r"ours==1.0 .*(401|credentials|authoriz)"):
        ask("ours==1.0")


def test_what_a_source_names_is_asked_of_that_index_alone(ask, script, index) -> None:
    script(PROJECT + private(index, "explicit = true") + default(index) + SOURCES)
    found = ask("ours==1.0", "pure==1.0", **secrets())
    assert found["ours"].startswith(f"{index}/private/")
    asked = [path for path, _ in Handler.seen]
    assert "/public/ours/" not in asked
    assert "/private/pure/" not in asked


def test_an_explicit_index_is_asked_for_nothing_that_does_not_name_it(ask, script, index) -> None:
    script(PROJECT + private(index, "explicit = true") + default(index))
    assert ask("ours==1.0", **secrets())["ours"].startswith(f"{index}/public/")


def test_a_source_without_its_index_is_an_error_with_what_to_write(ask, script, index) -> None:
    script(PROJECT + default(index) + SOURCES)
    with pytest.raises(OptionsError, match=r'"?our-own.*\[\[tool.uv.index\]\] with name = "our-own"'):
        ask("ours==1.0")


def test_sources_are_left_where_uv_was_told_to_leave_them(ask, script, index) -> None:
    script(PROJECT + private(index, "explicit = true") + default(index) + SOURCES)
    assert ask("ours==1.0", UV_NO_SOURCES="1")["ours"].startswith(f"{index}/public/")


def test_the_marker_of_a_source_is_judged_for_the_machines(ask, script, index) -> None:
    both = (
        '[tool.uv.sources]\nours = [\n{ index = "second", marker = "sys_platform != \'linux\'" },\n'
        '{ index = "our-own", marker = "sys_platform == \'linux\'" },\n]\n'
        f'[[tool.uv.index]]\nname = "second"\nurl = "{index}/second-private/"\nexplicit = true\n'
    )
    script(PROJECT + private(index, "explicit = true") + default(index) + both)
    assert ask("ours==1.0", **secrets())["ours"].startswith(f"{index}/private/")
    assert not any(path.startswith("/second-private") for path, _ in Handler.seen)


def test_of_several_indexes_for_extras_the_one_that_has_it_is_taken(ask, script, index) -> None:
    both = (
        '[tool.uv.sources]\nours = [{ index = "second", extra = "a" }, { index = "our-own", extra = "b" }]\n'
        f'[[tool.uv.index]]\nname = "second"\nurl = "{index}/refusing/nothing/"\nexplicit = true\n'
        "ignore-error-codes = [403]\n"
    )
    script(PROJECT + private(index, "explicit = true") + default(index) + both)
    assert ask("ours==1.0", "pure==1.0", **secrets())["ours"].startswith(f"{index}/private/")


def test_settings_for_uv_pip_say_where_and_change_nothing_else(ask, script, index) -> None:
    settings = (
        f'[tool.uv.pip]\nindex-url = "{index}/public/"\nno-deps = false\npython-platform = "windows"\n'
        'python-version = "3.8"\nno-emit-package = ["pure"]\nonly-binary = ["none"]\nno-binary = ["pure"]\n'
        'exclude-newer = "2001-01-01T00:00:00Z"\nprerelease = "disallow"\nresolution = "lowest"\n'
        'output-file = "stolen.txt"\nextra = ["x"]\ngenerate-hashes = true\nrequire-hashes = true\n'
    )
    place = script(PROJECT + settings)
    assert ask("pure==1.0", "ours==1.0")["pure"].startswith(f"{index}/public/")
    assert not (place / "stolen.txt").exists()


def test_settings_for_uv_pip_are_not_those_of_a_project_with_a_lock(environ, script, index) -> None:
    script(PROJECT + default(index) + f'[tool.uv.pip]\nextra-index-url = ["{index}/x/"]\n', uv_lock="")
    assert [i.url for i in Indexes.of(environ).settings.indexes] == [f"{index}/public/"]


def test_dependencies_that_the_project_overrides_are_those_that_are_installed(ask, script, index) -> None:
    settings = '[tool.uv]\noverride-dependencies = ["pure==2.0"]\nconstraint-dependencies = ["ours<1"]\n'
    script(PROJECT + settings + default(index))
    assert "pure-1.0" in ask("pure==1.0", "ours==1.0")["pure"]


# What would change what is found, or stop uv, if it came through.
MEDDLING = {
    "UV_PYTHON": "3.8",
    "UV_CONSTRAINT": "constraints.txt",
    "UV_OVERRIDE": "constraints.txt",
    "UV_BUILD_CONSTRAINT": "constraints.txt",
    "UV_EXCLUDE": "constraints.txt",
    "UV_EXCLUDE_NEWER": "2001-01-01T00:00:00Z",
    "UV_NO_BINARY": "1",
    "UV_NO_BINARY_PACKAGE": "pure",
    "UV_NO_BUILD": "1",
    "UV_RESOLUTION": "lowest",
    "UV_PRERELEASE": "disallow",
    "UV_SYSTEM_PYTHON": "1",
    "UV_MANAGED_PYTHON": "1",
    "UV_REQUIRE_HASHES": "1",
    "UV_CUSTOM_COMPILE_COMMAND": "x",
    "UV_WORKING_DIR": "/",
    "UV_PROJECT": ".",
    "UV_NO_CONFIG": "1",
    "VIRTUAL_ENV": "/nowhere",
    "CONDA_PREFIX": "/nowhere",
}


def test_no_variable_for_another_use_of_uv_changes_what_is_found(ask, index, monkeypatch) -> None:
    Path("constraints.txt").write_text("pure==2.0\n")
    for name, value in MEDDLING.items():
        monkeypatch.setenv(name, value)
    found = ask("pure==1.0", UV_DEFAULT_INDEX=f"{index}/public/", **MEDDLING)
    assert found["pure"].endswith("pure-1.0-py3-none-any.whl")


def test_the_project_is_the_main_scripts_and_not_the_working_directorys(ask, script, index, tmp_path) -> None:
    Path("pyproject.toml").write_text(PROJECT + '[tool.uv]\nno-index = true\nrequired-version = "==0.1"\n')
    script(PROJECT + private(index) + default(index), folder="project")
    (tmp_path / "project" / "flows").mkdir()
    (tmp_path / "project" / "flows" / "etl.py").write_text("")
    sys.modules["__main__"].__file__ = str(tmp_path / "project" / "flows" / "etl.py")
    assert ask("ours==1.0", **secrets())["ours"].startswith(f"{index}/private/")


def test_a_script_outside_of_any_project_has_that_of_the_working_directory(ask, script, index) -> None:
    script(folder="alone")
    Path("pyproject.toml").write_text(PROJECT + private(index) + default(index))
    assert ask("ours==1.0", **secrets())["ours"].startswith(f"{index}/private/")


def test_an_installed_program_has_the_project_of_the_working_directory(ask, monkeypatch, index) -> None:
    main = type(sys)("__main__")
    main.__file__ = pytest.__file__  # as `prefect` or a kernel of a notebook
    monkeypatch.setitem(sys.modules, "__main__", main)
    Path("uv.toml").write_text(f'index-url = "{index}/public/"\n')
    assert ask("pure==1.0")["pure"].startswith(f"{index}/public/")


def test_a_script_beside_an_environment_in_its_own_folder_is_the_main_script(
    environ, script, index, tmp_path, monkeypatch
) -> None:
    script(PROJECT + default(index))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "project"))
    assert [i.url for i in Indexes.of(environ).settings.indexes] == [f"{index}/public/"]


# -- workspaces, and uv's files

MEMBER = "project/packages/one"


def test_a_members_settings_are_its_workspaces_and_its_sources_its_own(ask, script, index, tmp_path) -> None:
    root = PROJECT + '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/not"]\n'
    (tmp_path / "project" / "pyproject.toml").write_text(
        root
        + private(index, "explicit = true")
        + default(index)
        + '[tool.uv.sources]\ntheirs = { index = "second" }\nours = { index = "absent" }\n'
        + f'[[tool.uv.index]]\nname = "second"\nurl = "{index}/second-private/"\nexplicit = true\n'
    )
    # An index of a member counts for its sources alone.
    own = PROJECT + f'[[tool.uv.index]]\nname = "wrong"\nurl = "{index}/nowhere/"\n' + SOURCES
    script(own, folder=MEMBER)
    more = {"UV_INDEX_SECOND_USERNAME": OTHER_USER, "UV_INDEX_SECOND_PASSWORD": OTHER_PASSWORD}
    found = ask("ours==1.0", "theirs==1.0", "pure==1.0", **secrets(), **more)
    assert found["ours"].startswith(f"{index}/private/")
    assert found["theirs"].startswith(f"{index}/second-private/")
    assert not any(path.startswith("/nowhere") for path, _ in Handler.seen)


def test_a_member_may_describe_the_index_that_its_source_names(ask, script, index, tmp_path) -> None:
    root = PROJECT + '[tool.uv.workspace]\nmembers = ["packages/*"]\n' + default(index)
    (tmp_path / "project" / "pyproject.toml").write_text(root)
    script(PROJECT + private(index) + SOURCES, folder=MEMBER)
    found = ask("ours==1.0", "pure==1.0", **secrets())
    assert found["ours"].startswith(f"{index}/private/")
    assert "/private/pure/" not in [path for path, _ in Handler.seen]


def test_what_other_members_and_projects_by_path_say_of_their_packages_counts(
    ask, script, index, tmp_path
) -> None:
    root = PROJECT + '[tool.uv.workspace]\nmembers = ["packages/*"]\n' + default(index)
    root += '[tool.uv.sources]\nlib = { path = "../lib", editable = true }\n'
    script(root)
    for folder, name, part, package in (
        ("project/packages/one", "our-own", "private", "ours"),
        ("lib", "second", "second-private", "theirs"),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "pyproject.toml").write_text(
            f'{PROJECT}[[tool.uv.index]]\nname = "{name}"\nurl = "{index}/{part}/"\nexplicit = true\n'
            f'[tool.uv.sources]\n{package} = {{ index = "{name}" }}\n'
        )
    more = {"UV_INDEX_SECOND_USERNAME": OTHER_USER, "UV_INDEX_SECOND_PASSWORD": OTHER_PASSWORD}
    found = ask("ours==1.0", "theirs==1.0", "pure==1.0", **secrets(), **more)
    assert found["ours"].startswith(f"{index}/private/")
    assert found["theirs"].startswith(f"{index}/second-private/")


def test_what_a_workspace_excludes_is_a_project_of_its_own(ask, script, index, tmp_path) -> None:
    root = PROJECT + '[tool.uv.workspace]\nmembers = ["packages/*"]\nexclude = ["packages/one"]\n'
    (tmp_path / "project" / "pyproject.toml").write_text(root + "[tool.uv]\nno-index = true\n")
    script(PROJECT + default(index), folder=MEMBER)
    assert ask("pure==1.0")["pure"].startswith(f"{index}/public/")


def test_uv_toml_hides_the_table_in_pyproject_toml_but_not_its_sources(ask, script, index) -> None:
    hidden = PROJECT + private(index, "explicit = true") + SOURCES + "[tool.uv]\nno-index = true\n"
    script(hidden.replace("[tool.uv]\nno-index = true\n", ""), uv_toml=f'index-url = "{index}/public/"\n')
    found = ask("ours==1.0", "pure==1.0", **secrets())
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")


def test_a_projects_file_goes_before_the_users_and_that_before_the_systems(
    environ, script, index, tmp_path
) -> None:
    (tmp_path / "home" / ".config" / "uv").mkdir(parents=True)
    users = f'index-strategy = "unsafe-best-match"\n[[index]]\nurl = "{index}/user/"\n'
    (tmp_path / "home" / ".config" / "uv" / "uv.toml").write_text(users)
    (tmp_path / "etc" / "uv").mkdir(parents=True)
    systems = f'index-strategy = "first-index"\nindex-url = "{index}/system/"\n'
    (tmp_path / "etc" / "uv" / "uv.toml").write_text(systems)
    script(PROJECT + private(index))
    variables = {**environ, "XDG_CONFIG_DIRS": str(tmp_path / "etc"), "UV_INDEX": f"first={index}/first/"}
    found = Indexes.of(variables)
    assert [i.url.removeprefix(index) for i in found.settings.indexes] == [
        "/first/",
        "/private/",
        "/user/",
        "/system/",
    ]
    assert found.settings.strategy == "unsafe-best-match"
    # One file that is named is read instead of all of them.
    one = tmp_path / "named.toml"
    one.write_text(f'index-url = "{index}/named/"\n')
    named = Indexes.of({**environ, "UV_CONFIG_FILE": str(one)})
    assert [i.url for i in named.settings.indexes] == [f"{index}/named/"]
    assert not Indexes.of({**environ, "UV_NO_CONFIG": "1", "PIP_CONFIG_FILE": "/dev/null"}).settings.indexes


def test_a_variable_may_give_an_index_of_the_project_another_address(ask, script, index) -> None:
    script(
        PROJECT + private(index, "explicit = true").replace("/private/", "/gone/") + default(index) + SOURCES
    )
    found = ask("ours==1.0", UV_INDEX=f"our-own={index}/private/", **secrets())
    assert found["ours"].startswith(f"{index}/private/")


def test_a_refusal_of_an_index_is_ignored_where_the_project_says_so(ask, script, index) -> None:
    refusing = f'[[tool.uv.index]]\nname = "r"\nurl = "{index}/refusing/"\nignore-error-codes = [403]\n'
    script(PROJECT + refusing + default(index))
    found = ask("ours==1.0", "pure==1.0")
    assert found["ours"].startswith(f"{index}/refusing/")
    assert found["pure"].startswith(f"{index}/public/")


def test_an_index_that_is_never_told_credentials_is_told_none(environ, script, index) -> None:
    script(PROJECT + private(index, 'authenticate = "never"'))
    found = Indexes.of({**environ, **secrets()})
    assert found.authorization(f"{index}/private/x.whl") == ""
    assert 'authenticate = "never"' in found.text


def test_no_index_and_find_links_are_read_from_the_project(ask, script, index, tmp_path) -> None:
    files = tmp_path / "project" / "files"
    for name, version in ((DISTRIBUTION, "9.9"), ("uv", "9.9"), ("linked", "1.0")):
        wheel(files, name, version)
    script(PROJECT + '[tool.uv]\nno-index = true\nfind-links = ["./files"]\n')
    # Nowhere else is it, and an older uv gives no hash of a file, so that it is taken along.
    assert "linked" in ask("linked==1.0")
    assert not Handler.seen


def test_the_strategy_is_that_of_the_project(ask, script, index) -> None:
    refusing = f'[[tool.uv.index]]\nurl = "{index}/refusing/"\nignore-error-codes = [403]\n'
    # The first index has the name, and not that version.
    wheel_of = "pure==2.0"
    script(PROJECT + '[tool.uv]\nindex-strategy = "unsafe-best-match"\n' + refusing + default(index))
    assert ask(wheel_of, "ours==1.0")["pure"].endswith("pure-2.0-py3-none-any.whl")
    assert 'index-strategy = "unsafe-best-match"' in Indexes.of({"HOME": "/none"}).text


def test_the_keyring_is_left_to_uv(environ, script, index) -> None:
    script(PROJECT + '[tool.uv]\nkeyring-provider = "subprocess"\n' + default(index))
    assert 'keyring-provider = "subprocess"' in Indexes.of(environ).text
    disabled = Indexes.of({**environ, "UV_KEYRING_PROVIDER": "disabled"})
    assert 'keyring-provider = "disabled"' in disabled.text


def test_the_metadata_of_a_script_goes_before_the_project(ask, script, index) -> None:
    lines = [
        "requires-python = '>=3.10'",
        "dependencies = ['ours']",
        *private(index, "explicit = true").splitlines(),
    ]
    lines += SOURCES.splitlines()
    text = "# /// script\n" + "".join(f"# {line}\n" if line else "#\n" for line in lines) + "# ///\nx = 1\n"
    script(PROJECT + default(index), text=text)
    found = ask("ours==1.0", "pure==1.0", **secrets())
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")


def test_a_file_that_is_no_toml_is_named(environ, script) -> None:
    place = script("[project\n")
    with pytest.raises(OptionsError, match=f"{place}/pyproject.toml: it is no TOML"):
        Indexes.of(environ)


# -- credentials


def test_two_indexes_of_one_server_have_passwords_of_their_own(ask, script, index, environ) -> None:
    second = f'[[tool.uv.index]]\nname = "second"\nurl = "{index}/second-private/"\n'
    script(PROJECT + private(index) + second + default(index))
    more = {"UV_INDEX_SECOND_USERNAME": OTHER_USER, "UV_INDEX_SECOND_PASSWORD": OTHER_PASSWORD}
    found = ask("ours==1.0", "theirs==1.0", **secrets(), **more)
    told = Indexes.of({**environ, **secrets(), **more})
    for name, pair in (("ours", (USER, PASSWORD)), ("theirs", (OTHER_USER, OTHER_PASSWORD))):
        wanted = "Basic " + base64.b64encode(":".join(pair).encode()).decode()
        assert told.authorization(found[name]) == wanted
    assert told.authorization(found["theirs"].replace("http:", "https:")) == ""


@pytest.mark.parametrize("where", ["address", "variables", "links"])
def test_no_credential_is_in_an_argument_a_file_or_an_error(ask, script, index, monkeypatch, where) -> None:
    seen: list[str] = []
    real = subprocess.run

    def run(command: list[str], **options: object) -> object:
        seen.extend(command)
        seen.extend(p.read_text() for p in Path(str(options["cwd"])).iterdir())
        return real(command, **options)

    monkeypatch.setattr(running.subprocess, "run", run)
    more = secrets() if where == "variables" else {}
    text = PROJECT + private(index) + default(index)
    with_password = f"{index}/private/".replace("http://", f"http://{USER}:{PASSWORD}@")
    if where == "address":
        text = text.replace(f"{index}/private/", with_password)
    elif where == "links":
        text = PROJECT + f'[tool.uv]\nfind-links = ["{with_password}ours/"]\n' + default(index)
    script(text)
    assert ask("ours==1.0", **more)["ours"]
    with pytest.raises(OptionsError) as caught:
        ask("ours==3.0", **more)
    told = [*seen, str(caught.value), repr(caught.value.__dict__)]
    assert seen
    for secret in (USER, PASSWORD):
        assert not [text for text in told if secret in text]


def test_what_pip_was_told_of_certificates_holds_for_uv_and_for_downloads(environ, tmp_path) -> None:
    (tmp_path / "own.pem").write_text("")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nindex-url = https://a.test/\ncert = {tmp_path}/own.pem\n"
        "trusted-host = a.test b.test:8443\n"
    )
    found = Indexes.of({**environ, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})
    assert 'allow-insecure-host = ["a.test", "b.test:8443"]' in found.text
    assert found.environ["SSL_CERT_FILE"] == found.trust("https://c.test/").certificates
    checked = {
        url: found.trust(url).checked
        for url in ("https://a.test/x", "https://b.test/", "https://b.test:8443/")
    }
    assert list(checked.values()) == [False, True, False]
    assert found.trust("https://a.test/")._replace(certificates="").context().verify_mode == ssl.CERT_NONE
    assert Trust().context().verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_bundle_that_requests_reads_counts_for_tools_that_use_requests(tmp_path, tool) -> None:
    bundles = {f"{name}_CA_BUNDLE": str(tmp_path / f"{name}.pem") for name in ("REQUESTS", "CURL")}
    for path in bundles.values():
        Path(path).write_text("")

    def file(settings: IndexSettings | None = None, **more: str) -> str | None:
        found = Indexes.told(settings or IndexSettings(), {**bundles, **more}, tool)
        return found.environ.get("SSL_CERT_FILE")

    by_requests = tool != "uv"
    assert file() == (bundles["REQUESTS_CA_BUNDLE"] if by_requests else None)
    assert file(REQUESTS_CA_BUNDLE="/none.pem") == (bundles["CURL_CA_BUNDLE"] if by_requests else None)
    own = tmp_path / "own.pem"
    own.write_text("")
    assert file(IndexSettings(certificates=str(own))) == str(own)
    assert file(SSL_CERT_FILE="/first.pem") == "/first.pem"


@pytest.mark.parametrize("folder", ["none", "empty", "full"])
def test_a_python_that_knows_no_authority_takes_those_that_httpx_knows(
    monkeypatch: pytest.MonkeyPatch, tmp_path, folder
) -> None:
    """As python.org's on a Mac; on Linux they lie in a folder often, and are read when they are needed."""
    place = tmp_path / folder
    if folder != "none":
        place.mkdir()
    if folder == "full":
        (place / "0a775a30.0").write_text("")
    paths = ssl.get_default_verify_paths()._replace(capath=str(place) if place.exists() else None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
    known = Trust().context().cert_store_stats()["x509_ca"]
    assert (known > 50) is (folder != "full")


class Proxy(BaseHTTPRequestHandler):
    """Answers whatever it is asked to fetch."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Proxy-Authorization", "")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """It stays quiet."""


def test_pips_proxy_is_the_way_for_uv_and_for_downloads_unless_a_variable_says_another(
    environ, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    Proxy.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        way = f"me:{PASSWORD}@127.0.0.1:{server.server_port}"
        (tmp_path / "pip.conf").write_text(f"[global]\nproxy = {way}\n")
        own = {**environ, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
        for found in (Indexes.of(own), Indexes.of(own).with_more(IndexSettings())):
            assert found.environ["HTTPS_PROXY"] == found.environ["HTTP_PROXY"] == f"http://{way}"
            assert whole("http://index.test/a.whl", found, io.BytesIO())
            assert PASSWORD not in repr(found)
    finally:
        server.shutdown()
        server.server_close()
    basic = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    assert Proxy.asked == [("http://index.test/a.whl", basic)] * 2
    other = Indexes.of({**own, "https_proxy": "http://other.test"})
    assert "HTTP_PROXY" not in other.environ
    assert other.trust("https://index.test/").proxy == ""


def test_a_file_of_settings_that_a_variable_names_stands_for_the_user_s_own(environ, tmp_path) -> None:
    home = Path(environ["HOME"])
    (home / ".config/pip").mkdir(parents=True)
    (home / ".config/pip/pip.conf").write_text("[global]\nextra-index-url = https://own.test/\n")
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://a.test/\n")
    assert [i.url for i in Indexes.of(environ).settings.indexes] == ["https://own.test/"]
    named = {**environ, "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    assert [i.url for i in Indexes.of(named).settings.indexes] == ["https://a.test/"]
    absent = {**environ, "PIP_CONFIG_FILE": str(tmp_path / "absent.conf")}
    assert [i.url for i in Indexes.of(absent).settings.indexes] == ["https://own.test/"]


# -- other tools


def test_poetrys_sources_are_taken(ask, script, index, tmp_path) -> None:
    sources = (
        f'[[tool.poetry.source]]\nname = "all"\nurl = "{index}/public/"\n'
        f'[[tool.poetry.source]]\nname = "our-own"\nurl = "{index}/private/"\npriority = "explicit"\n'
        '[tool.poetry.dependencies]\npython = "^3.10"\nours = { version = "^1", source = "our-own" }\n'
    )
    script(sources)
    found = ask("ours==1.0", "pure==1.0", **secrets("POETRY_HTTP_BASIC_OUR_OWN"))
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")
    # What `poetry config http-basic...` writes where there is no keyring.
    place = tmp_path / "home" / ".config" / "pypoetry"
    place.mkdir(parents=True)
    (place / "auth.toml").write_text(f'[http-basic.our-own]\nusername = "{USER}"\npassword = "{PASSWORD}"\n')
    assert ask("ours==1.0")["ours"].startswith(f"{index}/private/")


def test_poetrys_names_of_sources_hold_in_any_case_and_with_blanks(ask, script, index) -> None:
    sources = (
        f'[[tool.poetry.source]]\nname = "all"\nurl = "{index}/public/"\n'
        f'[[tool.poetry.source]]\nname = "My Corp"\nurl = "{index}/private/"\npriority = "explicit"\n'
        '[tool.poetry.dependencies]\nours = { version = "^1", source = "my corp" }\n'
    )
    script(sources)
    found = ask("ours==1.0", "pure==1.0", **secrets("POETRY_HTTP_BASIC_MY_CORP"))
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")


def test_poetry_knows_the_public_index_without_being_told(index) -> None:
    own = {"name": "own", "url": f"{index}/public/"}
    poetry = {"source": [own], "dependencies": {"pure": {"version": "1", "source": "PyPI"}}}
    said = read_poetry({"tool": {"poetry": poetry}}, {})
    (source,) = said.sources_of("pure")
    (public,) = [i for i in said.indexes if i.name == source.index]
    assert (public.url, public.explicit, public.default) == ("https://pypi.org/simple", True, False)


def test_pdms_sources_are_taken(ask, script, index) -> None:
    sources = (
        f'[[tool.pdm.source]]\nname = "pypi"\nurl = "{index}/public/"\n'
        f'[[tool.pdm.source]]\nname = "our-own"\nurl = "{index.replace("http://", "http://${WHO}:${PW}@")}/private/"\n'
        'include_packages = ["ours", "our-*"]\n'
    )
    script(PROJECT + sources)
    found = ask("ours==1.0", "pure==1.0", WHO=USER, PW=PASSWORD)
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")
    assert "/public/ours/" not in [path for path, _ in Handler.seen]


def test_pip_is_asked_where_uv_was_told_nothing_of_packages_in_general(ask, script, index) -> None:
    script(PROJECT + private(index, "explicit = true") + SOURCES)
    found = ask("ours==1.0", "pure==1.0", PIP_INDEX_URL=f"{index}/public/", **secrets())
    assert found["ours"].startswith(f"{index}/private/")
    assert found["pure"].startswith(f"{index}/public/")
    script(PROJECT + default(index))
    assert ask("pure==1.0", PIP_INDEX_URL=f"{index}/nowhere/")["pure"].startswith(f"{index}/public/")


@pytest.mark.parametrize(
    ("said", "name", "address", "password"),
    [
        ("corp=https://build:c2VjcmV0==@a.example/simple", "corp", "https://a.example/simple", "c2VjcmV0=="),
        ("corp=https://a.example/simple?format=html", "corp", "https://a.example/simple?format=html", ""),
    ],
)
def test_a_name_of_an_index_ends_at_the_first_equals_sign(
    said: str, name: str, address: str, password: str, tmp_path: Path
) -> None:
    found = uv_settings._index(said, tmp_path)
    assert (found.name, found.url) == (name, address)
    assert (found.credentials or ("", ""))[1] == password
    assert not password or password not in repr(found)
