"""What the README and the docs name is there: commands, make targets, files, error texts."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from typer.main import get_command

import prefect_coiled
from prefect_coiled import install
from prefect_coiled.cli import app
from prefect_coiled.errors import OptionsError
from prefect_coiled.options import elsewhere
from prefect_coiled.options.keywords import KEYWORDS
from prefect_coiled.options.models import BackendOptions

from .conftest import ROOT
from .test_examples import PAGES, blocks, script

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def shell_lines() -> list[str]:
    texts = [*PAGES, ROOT / "CONTRIBUTING.md"]
    lines = [line for page in texts for _, block in blocks(page, "sh") for line in block]
    return sorted({line.partition("  #")[0].strip() for line in lines if line.strip()})


def ours(line: str) -> list[str]:
    """The words of a command line of ours, `uvx` before it or not; none if it is another's."""
    words = shlex.split(line)
    if words[:2] == ["uvx", "--from"]:
        words = words[3:]
    return words if words[0] == "prefect-coiled" else []


@pytest.mark.parametrize("line", [s for s in shell_lines() if ours(s)])
def test_the_command_and_its_options_exist(line: str) -> None:
    words = ours(line)[1:]
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    given = {w for w in words if w.startswith("--")}
    assert given <= known | {"--help"}, line
    assert_whole(line, given)


def assert_whole(line: str, given: set[str]) -> None:
    """A command with `setup iam` says whose policies they are, or it would be refused."""
    if "setup iam" in line:
        assert given & {"--user", "--group", "--role"}, line


def test_a_command_within_a_sentence_is_one_that_is_not_refused() -> None:
    found = 0
    for page in PAGES:
        for line in re.findall(r"`(prefect-coiled setup iam[^`]*--[^`]*)`", page.read_text(encoding="utf-8")):
            found += 1
            if "..." not in line:
                assert_whole(line, set(re.findall(r"--[\w-]+", line)))
    assert found >= 3


@pytest.mark.parametrize("page", [p for p in PAGES if "@flow" in script(p)])
def test_a_flow_of_a_page_is_run_by_who_runs_the_file_and_not_by_who_imports_it(page: Path) -> None:
    # `prefect deploy`, a deployed run and machines import a flow's file.
    module = ast.parse(script(page))
    flows = {
        one.name
        for one in ast.walk(module)
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))
        and any("flow" in ast.unparse(by).split("(")[0].split(".") for by in one.decorator_list)
    }
    assert flows
    run = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    for statement in [one for one in module.body if not isinstance(one, run)]:
        called = {
            c.func.id for c in ast.walk(statement) if isinstance(c, ast.Call) and isinstance(c.func, ast.Name)
        }
        assert not called & flows, ast.unparse(statement)


@pytest.mark.parametrize("line", [s for s in shell_lines() if not ours(s)])
def test_other_commands_are_those_of_make_or_of_prefect(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        target = next(w for w in words[1:] if "=" not in w)
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)
    elif "pip" in words[:2]:
        wanted = Requirement(words[-1].replace(".", install.DISTRIBUTION, 1))
        assert words[-2] == "install"
        assert wanted.extras <= set(extras())
    else:
        known = {"block", "config", "deploy", "deployment", "flow-run", "gcl"}
        known |= {"server", "work-pool", "worker"}
        script = words[1] if words[0] == "python" else ""
        assert (
            (words[0] == "prefect" and words[1] in known)
            or words in (["python3", "-m", "venv", ".venv"], [".", ".venv/bin/activate"])
            or words == ["python", "my_flow.py"]  # the reader's own, of docs/get-started.md
            or (words[:3] == ["python", "-m", "pytest"] and all((ROOT / w).exists() for w in words[3:]))
            or (script.startswith("flows/") and (ROOT / script).is_file())
        )


def extras() -> dict[str, list[str]]:
    """The extras of pyproject.toml, each with what it brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, list[str]] = project["optional-dependencies"]
    return found


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_thing_told_is_how_to_install_it_with_each_extra(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)", text, re.M)[0] == "Install"
    section = text.partition("## Install")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M))
    assert set(rows) == set(extras())
    for extra, brings in rows.items():
        names = {Requirement(one).name for one in extras()[extra]}
        assert {name.strip() for name in brings.split(",")} <= names, extra


def test_no_page_and_no_error_has_another_address_than_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository", "")
    assert install.address() == address
    assert (address in install.how("sandbox")) if address else ("checkout" in install.how("sandbox"))
    texts = [*PAGES, *(ROOT / "prefect_coiled").rglob("*.py")]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            # No index has it, so that its name alone installs nothing, or a stranger's.
            assert not re.search(rf"(install|--from) [\"']?{install.DISTRIBUTION}", line), (path.name, line)
            found = re.search(rf"{install.DISTRIBUTION}\S* @ git\+(\S+)", line)
            assert not found or path.name == "install.py" or found[1].startswith(address or "nowhere"), line


def test_the_page_of_options_says_which_are_keywords_and_what_their_defaults_are() -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8").partition("## Four places")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()]
    table = {row[0].strip(" `"): row for row in rows if len(row) == 4 and row[0].startswith(("`", " `"))}
    assert set(table) == {*BackendOptions.model_fields, "firewall"}
    held = BackendOptions()
    for name, (_, too, default, _) in table.items():
        assert too.startswith("yes") == (name in KEYWORDS), name
        assert set(re.findall(r"`(\w+)`", too)) <= set(KEYWORDS)
        if not too.startswith("yes"):
            with pytest.raises(OptionsError, match=r"Put it into backend_options: "):
                prefect_coiled.Cluster(**{name: "anything"})
        if default.startswith("`"):
            value = held.registry.kind if name == "registry" else getattr(held, name) or False
            assert default.strip("`") == str(value), name


def test_the_page_of_the_command_line_is_that_of_its_help_texts() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_cli_page.py"))
    page: str = script["page"]()
    assert page == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), (
        "run scripts/write_cli_page.py and look at what has changed"
    )


def test_the_page_of_keywords_is_that_of_their_table() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_keywords_page.py"))
    page: str = script["page"]()
    assert page == (ROOT / "docs" / "keywords.md").read_text(encoding="utf-8"), (
        "run scripts/write_keywords_page.py and look at what has changed"
    )


def test_timers_variables_quotas_and_the_picture_of_a_clusters_life_are_those_of_the_code() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_facts_page.py"))
    for made, path in ((script["page"](), script["PAGE"]), (script["picture"](), script["PICTURE"])):
        assert made == path.read_text(encoding="utf-8"), "run scripts/write_facts_page.py"


def test_the_page_of_variables_has_all_that_the_library_reads() -> None:
    told = set(runpy.run_path(str(ROOT / "scripts" / "write_facts_page.py"))["VARIABLES"])
    code = [p for p in (ROOT / "prefect_coiled").rglob("*.py") if not {"node", "sandbox"} & set(p.parts)]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in code)
    ours = {name for name in re.findall(r"PREFECT_COILED_[A-Z_]+", texts) if not name.endswith("_")}
    # These go to a child of ours, and a person's own value means nothing.
    own = {"PREFECT_COILED_GIT_USER", "PREFECT_COILED_GIT_PASSWORD"}
    own |= {"PREFECT_COILED_MACHINE", "PREFECT_COILED_AWS_ENDPOINT"}
    assert {n for n in ours if not n.startswith("PREFECT_COILED_CLUSTER")} - own == {
        n for n in told if n.startswith("PREFECT_COILED_") and not n.startswith("PREFECT_COILED_CLUSTER")
    }


@pytest.mark.parametrize(
    ("module", "heading"),
    [
        ("prefect_coiled.provision", "`prefect_coiled.provision`"),
        ("prefect_coiled.options", "`prefect_coiled.options`"),
        ("prefect_coiled.costs", "`prefect_coiled.costs`"),
        ("prefect_coiled.progress", "`prefect_coiled.progress`"),
    ],
)
def test_signatures_in_the_reference_are_those_of_the_code(module: str, heading: str) -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    section = re.sub(r"```.*?```", "", section, flags=re.S)
    calls = re.findall(r"(?<!\.)`(\w+)\(([^`]*)\)`", section)
    assert calls
    for name, told in calls:
        function = getattr(importlib.import_module(module), name)
        signature = inspect.signature(getattr(function, "fn", function))
        parameters = [one.replace(annotation=one.empty) for one in signature.parameters.values()]
        held = inspect.Signature(parameters)
        assert f"({told})" == str(held).replace("'", '"'), name


def test_the_fields_of_an_account_are_those_of_its_block_with_their_defaults() -> None:
    text = (ROOT / "docs" / "accounts.md").read_text(encoding="utf-8")
    lines = text.partition("## Fields")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    fields = prefect_coiled.Ec2DaskAccount.model_fields
    network = list(fields)[list(fields).index("network_id") :][:5]
    told: set[str] = set()
    for row in [one for one in rows if one[0].startswith("`")]:
        names = re.findall(r"`(\w+)`", row[0])
        told |= {*names, *(network if "the four after it" in row[0] else [])}
        for said, name in zip(re.findall(r"off|`[^`]*`", row[1]), names, strict=False):
            default = {"off": False}.get(said, said.strip('`"'))
            if isinstance(fields[name].default, (str, bool)) and fields[name].default != "":
                assert default == fields[name].default, name
    assert told == set(fields)
    options = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    (zone,) = re.findall(r"^\| `zone` \| yes \| ([^|]+) \|", options, re.M)
    assert f"| `zone` | {zone} |" in text


def test_times_that_pages_tell_of_keywords_are_their_defaults() -> None:
    words = runpy.run_path(str(ROOT / "scripts" / "write_facts_page.py"))
    found = 0
    for page in [one for one in PAGES if one.stem != "facts"]:
        text = page.read_text(encoding="utf-8")
        told = re.findall(r"`(\w+)` \((\d+ \w+)\)", text)
        told += [(name, time) for time, name in re.findall(r"(\d+ minutes?)[^`.\n]{0,40}\(`(\w+)`\)", text)]
        told += [(name, time) for time, name in re.findall(r"(\d+ minutes?)[^.\n]{0,40}\(`(\w+)`\)", text)]
        for name, time in told:
            if name in KEYWORDS and KEYWORDS[name].kind.words.startswith("seconds"):
                found += 1
                assert time == words["words"](words["keyword"](name)), f"{page.name}: {name}"
    assert found >= 3


def test_the_page_of_words_is_short_and_its_older_names_still_work() -> None:
    text = (ROOT / "docs" / "words.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) <= 20
    older: Any = get_command(app)
    assert older.commands["set-up"].hidden


def test_the_page_of_other_tools_keywords_is_that_of_their_table() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "write_elsewhere_page.py"))
    page: str = script["page"]()
    assert page == (ROOT / "docs" / "keywords-elsewhere.md").read_text(encoding="utf-8"), (
        "run scripts/write_elsewhere_page.py and look at what has changed"
    )


def test_the_table_for_those_who_come_from_ec2_clusters_says_of_a_keyword_what_its_refusal_says() -> None:
    text = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    part = text.partition("## From dask-cloudprovider's EC2Cluster")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    tool = "dask-cloudprovider's EC2Cluster"
    seen = set()
    for there, here in rows:
        for name in re.findall(r"`(\w+)`", there):
            seen.add(name)
            if name in elsewhere.SAME[tool]:
                assert f"`{name}`" in here
                continue
            advised = {n for n in re.findall(r"`(\w+)[=`]", elsewhere.TABLES[tool][name]) if n in KEYWORDS}
            assert not advised or advised & set(re.findall(r"`(\w+)[=`]", here)), name
    assert {"instance_type", "ami", "auto_shutdown", "security"} <= seen


def test_every_exported_name_is_in_the_reference() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    for name in prefect_coiled.__all__:
        assert f"`{name}`" in text


def test_every_exported_name_is_described_from_its_docstring() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in set(prefect_coiled.__all__) - {"__version__"}:
        assert re.search(rf"^::: prefect_coiled[\w.]*\.{name}$", text, re.M), name


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in nav


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_the_files_and_sections_that_a_page_links_to_are_there(page: Path) -> None:
    # Of the other pages mkdocs says so.
    for target, section in re.findall(r"\]\(([^)#]+?)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        assert (page.parent / target).exists(), target
        if section:
            text = (page.parent / target).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", text, re.M)
            assert section in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, section


def test_the_quoted_error_texts_are_those_of_the_code() -> None:
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "prefect_coiled").rglob("*.py"))
    plain = re.sub(r'"\s*\n\s*f?"', "", code)  # texts that go over several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        text
        for row in page.splitlines()
        if row.startswith("| `")
        for text in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]
    assert len(quoted) > 20
    for text in quoted:
        assert text.strip() in plain, text


@pytest.fixture(scope="module")
def deployments() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return listed


def test_the_deployed_flows_exist_and_take_their_parameters(deployments: list[dict[str, Any]]) -> None:
    from prefect.flows import load_flow_from_entrypoint

    assert {d["name"] for d in deployments} >= {"quickstart", "nightly-flights", "hourly-sweep", "keep-warm"}
    for deployment in deployments:
        path, _, name = deployment["entrypoint"].partition(":")
        flow = load_flow_from_entrypoint(f"{ROOT / path}:{name}")
        flow.validate_parameters(deployment["parameters"])


def test_the_sweep_flow_sweeps_the_region_of_the_block(environ: dict[str, str]) -> None:
    prefect_coiled.Ec2DaskAccount(region="eu-west-2", sandbox=True).save("swept", overwrite=True)
    sweep_regions = runpy.run_path(str(ROOT / "flows" / "sweep.py"))["sweep_regions"]
    assert sweep_regions("swept") == {"eu-west-2": "nothing"}


def test_the_page_of_the_sandboxs_inside_has_each_of_its_rooms_once() -> None:
    text = (ROOT / "docs/sandbox-inside.md").read_text()
    table = [
        line.split("|")[3] for line in text.splitlines() if line.startswith("| ") and line.count("|") == 4
    ]
    told = [room for cell in table for room in re.findall(r"`(\w+)`", cell)]
    package = ROOT / "prefect_coiled/sandbox"
    there = {p.stem for p in package.iterdir() if p.suffix == ".py" or (p.is_dir() and any(p.iterdir()))}
    assert sorted(told) == sorted(there - {"__init__", "__pycache__"})


def test_what_happens_is_said_once() -> None:
    text = (ROOT / "docs" / "what-happens-when.md").read_text(encoding="utf-8")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        situations = [row.split("|")[1].strip() for row in table.splitlines()]
        assert len(situations) == len(set(situations)), situations
