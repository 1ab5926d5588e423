"""The user data under bash: straight to the node, from a bare machine or an image, and every way to fail."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest

from prefect_coiled.environment import Lock, Wheel
from prefect_coiled.environment.contents import contents_of_file
from prefect_coiled.node.packages import as_recorded
from prefect_coiled.plan.node_config import NodeConfig
from prefect_coiled.plan.user_data import Place, bake_data, user_data
from tests.node.conftest import until

CONFIG = NodeConfig(
    account="default",
    region="eu-west-1",
    cluster="c1",
    role="worker",
    scheduler_host="10.0.0.4",
    secrets_parameter="/prefect-coiled/default/c1/node/worker",
    log_group="default",
)
_COMMANDS = (
    *("bash", "sh", "cat", "chmod", "comm", "cp", "date", "grep", "kill", "mkdir", "mv", "rm", "sed"),
    *("sha256sum", "sleep", "sort", "touch", "wc"),
)
BASE = "/opt/prefect-coiled"


class Machine:
    """A directory that plays a bare machine: its root, a bucket, and commands that record their calls."""

    def __init__(self, directory):
        self.directory = directory
        self.root = directory / "root"
        self.bin = directory / "bin"
        self.bucket = directory / "bucket"
        for folder in (self.root, self.bin, self.bucket):
            folder.mkdir()
        self.calls_path = directory / "calls"
        for name in _COMMANDS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.command("shutdown")
        self.command("systemctl")
        self.command("dnf", 'for last; do :; done; cp "$MACHINE/pythonX" "$MACHINE/bin/$last"')
        self.command("pythonX", where=directory)
        # `aws ... s3 cp SOURCE TARGET`, from a folder; what it would filter, it copies all of.
        self.command(
            "aws",
            """
            case "$6" in
              --recursive) cp -r "$MACHINE/bucket/${7#s3://*/}/." "$8" ;;
              *) cp "$MACHINE/bucket/${6#s3://*/}" "$7" ;;
            esac
            """,
        )
        self.aws_by_filter = """
            [ "$6" = --recursive ] || { cp "$MACHINE/bucket/${6#s3://*/}" "$7"; exit; }
            while [ $# -gt 0 ]; do
              if [ "$1" = --include ]; then
                mkdir -p "wheels/${2%/*}"; cp "$MACHINE/bucket/wheels/$2" "wheels/$2"
              fi
              shift
            done
            """
        # `python3 -m zipfile -e WHEEL DIR` unpacks a uv, which makes the rest.
        own = f'[ "$1" != -c ] || exec {sys.executable} "$@"'
        unpack = 'mkdir -p "$5/uv-1.data/scripts"; cp "$MACHINE/uv" "$5/uv-1.data/scripts/uv"'
        self.command("python3", f"{own}\n{unpack}")
        self.command(
            "uv",
            """
            for last; do :; done
            if [ "$1" = venv ]; then
              mkdir -p "$last/bin"; cp "$MACHINE/pythonX" "$last/bin/python"
            elif [ "$2" = install ]; then
              cp "$last" "$MACHINE/packages"
              cp "$MACHINE/node" "${5%/python}/prefect-coiled-node"
            else
              cp "$last" "$MACHINE/uninstalled"
            fi
            """,
            where=directory,
        )
        self.command("node", 'cat >"$MACHINE/told"; echo "node speaks"', where=directory)

    def put(self, *names, public=(), **bodies):
        """Wheels into the bucket, but for public ones, and the lock of them; gives its place."""
        wheels = [self.wheel(name) for name in names]
        wheels += [self.public(name, **bodies) for name in public]
        lock = Lock(python="3.11.9", architecture="x86_64", wheels=tuple(wheels), uv=self.wheel("uv-0.9"))
        path = self.bucket / lock.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lock.text())
        return Place("a-bucket", lock.key, lock.python)

    def wheel(self, name, content=b""):
        name, _, version = name.partition("-")
        content = content or f"{name} {version}".encode()
        made = Wheel(
            name=name,
            version=version,
            file=f"{name}-{version}-py3-none-any.whl",
            sha256=hashlib.sha256(content).hexdigest(),
        )
        path = self.bucket / made.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return made

    def public(self, name, body=b"x = 1", content=b"", seen=""):
        """A wheel that only its index has, and whose record speaks of another file if there is a body."""
        made = self.wheel(name, content or wheel_of({"x.py": body}, SEEN))
        path = self.bucket / made.key
        at_index = self.directory / "index" / made.file
        at_index.parent.mkdir(exist_ok=True)
        path.rename(at_index)
        url = f"https://files.pythonhosted.org/packages/{made.file}"
        return made.model_copy(update={"url": url, "record": seen})

    @property
    def packages(self):
        """The names of the wheels that were installed last."""
        lines = (self.directory / "packages").read_text().split()
        return [line.rpartition("/")[2].removesuffix("-py3-none-any.whl") for line in lines]

    def command(self, name, body="", where=None):
        path = (where or self.bin) / name
        path.unlink(missing_ok=True)
        path.write_text(
            f'#!/bin/bash\nMACHINE={self.directory}\necho "${{0##*/}} $*" >>{self.calls_path}\n{body}\n'
        )
        path.chmod(0o755)

    def fails(self, name, code=9, where=None):
        self.command(name, f"echo {name} is out of order; exit {code}", where)

    @property
    def home(self):
        return self.directory / "home"

    def start(self, text, **environ):
        script = self.directory / "user-data"
        script.write_text(text)
        script.chmod(0o755)
        home = {"HOME": str(self.home), "PREFECT_COILED_ROOT": str(self.root)}
        env = {"PATH": str(self.bin), **home, **environ}
        return subprocess.Popen(
            [str(script)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, text, **environ):
        process = self.start(text, **environ)
        try:
            output, _ = process.communicate(timeout=300)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        # Nothing of it stays, the guard neither: communicate() would have waited for its output.
        return process.returncode, output

    @property
    def calls(self):
        text = self.calls_path.read_text() if self.calls_path.exists() else ""
        return [line.replace(str(self.root), "") for line in text.splitlines()]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_where_the_image_holds_the_node_it_starts_at_once(machine):
    machine.command("prefect-coiled-node", 'cat >"$MACHINE/told"')
    code, output = machine.run(user_data(CONFIG))
    assert (code, machine.calls) == (0, ["prefect-coiled-node --config -"])
    assert NodeConfig.from_json((machine.directory / "told").read_text()) == CONFIG
    assert "starting node" in output


def test_a_node_that_fails_takes_the_machine_with_it(machine):
    machine.fails("prefect-coiled-node", 7)
    code, output = machine.run(user_data(CONFIG))
    assert code == 7
    assert machine.calls[-1] == "shutdown -h now"
    assert 'reason=node-ended step="starting node" rc=7; powering off' in output.splitlines()[-1]


def test_a_signal_is_handed_to_the_node_which_ends_in_its_own_time(machine):
    machine.command(
        "prefect-coiled-node",
        'trap "echo ending; sleep 0.3; echo ended; exit 0" TERM; echo up; while :; do sleep 0.05; done',
    )
    process = machine.start(user_data(CONFIG))
    while "up" not in process.stdout.readline():
        pass
    process.terminate()
    output, _ = process.communicate(timeout=300)
    assert output.split() == ["ending", "ended"]
    assert process.returncode == 0


def test_a_bare_machine_installs_from_the_bucket_and_starts_a_unit(machine):
    (machine.root / "run/systemd/system").mkdir(parents=True)
    place = machine.put("dask-2026.1", "mine-1")
    code, output = machine.run(user_data(CONFIG, place))
    assert code == 0, output
    fetch = "aws --region eu-west-1 s3 cp --only-show-errors"
    listed, wheels, *others = machine.calls
    assert listed == f"{fetch} s3://a-bucket/{place.key} pylock.toml"
    assert wheels.startswith(f"{fetch} --recursive s3://a-bucket/wheels wheels --exclude * --include ")
    assert wheels.count("--include") == 3
    uv = machine.wheel("uv-0.9").key
    assert others == [
        f"python3 -m zipfile -e {uv} uv",
        "dnf install -y -q python3.11",
        f"uv venv --quiet --relocatable --python {machine.bin}/python3.11 {BASE}/env",
        f"uv pip install --quiet --python {BASE}/env/bin/python --no-config --no-index --no-deps"
        " --reinstall -r new",
        "systemctl daemon-reload",
        "systemctl enable prefect-coiled-node.service",
        "systemctl start --no-block prefect-coiled-node.service",
    ]
    assert sorted(machine.packages) == ["dask-2026.1", "mine-1", "uv-0.9"]
    assert NodeConfig.from_json((machine.root / "etc/prefect-coiled/node.json").read_text()) == CONFIG
    unit = (machine.root / "etc/systemd/system/prefect-coiled-node.service").read_text()
    for line in ("ExecStopPost=/usr/sbin/shutdown -h now", "Restart=no", "WantedBy=multi-user.target"):
        assert line in unit.splitlines()
    steps = ["fetching the list", "fetching 3 wheels", "making Python 3.11.9", "installing 3 packages"]
    assert [output.index(step) for step in steps] == sorted(output.index(step) for step in steps)
    assert not (machine.root / f"{BASE}/wheels".lstrip("/")).exists()


CURL = """
    address=
    while read -r line; do
      value=${line#*=}; value=${value//\\"/}
      case "$line" in
        url=*) address=$value ;;
        output=*) mkdir -p "${value%/*}"; cp "$MACHINE/index/${address##*/}" "$value" ;;
      esac
    done <"$2"
    """


def test_what_the_bucket_lacks_comes_from_its_index_by_the_address_of_the_list(machine):
    machine.command("curl", CURL)
    machine.command("aws", machine.aws_by_filter.replace("cp ", "cp 2>/dev/null "))
    place = machine.put("mine-1", public=["dask-2026.1", "b.c_d-1.0+x"])
    code, output = machine.run(user_data(CONFIG, place))
    assert code == 0, output
    assert sorted(machine.packages) == ["b.c_d-1.0+x", "dask-2026.1", "mine-1", "uv-0.9"]
    assert "fetching 2 wheels from their index" in output
    (curl,) = [call for call in machine.calls if call.startswith("curl")]
    assert "--proto =https --proto-redir =https" in curl


def test_what_its_index_gives_with_another_content_is_not_installed(machine):
    machine.command("curl", CURL)
    machine.command("aws", machine.aws_by_filter.replace("cp ", "cp 2>/dev/null "))
    place = machine.put("mine-1", public=["dask-2026.1"])
    (machine.directory / "index/dask-2026.1-py3-none-any.whl").write_text("a stranger's")
    code, output = machine.run(user_data(CONFIG, place))
    assert code == 1
    assert "dask-2026.1-py3-none-any.whl: FAILED" in output
    assert not any(call.startswith("uv") for call in machine.calls)


def test_a_wheel_of_an_index_whose_record_lies_is_not_installed(machine):
    machine.command("curl", CURL)
    machine.command("aws", machine.aws_by_filter.replace("cp ", "cp 2>/dev/null "))
    code, output = machine.run(user_data(CONFIG, machine.put("mine-1", public=["dask-2026.1"], body=b"evil")))
    assert code == 1
    assert "dask-2026.1-py3-none-any.whl: x.py is not what its RECORD says" in output
    assert not any(call.startswith("uv") for call in machine.calls)


def wheel_of(files, record):
    """A wheel, with what its RECORD says in bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, body in files.items():
            archive.writestr(name, body)
        if record is not None:
            archive.writestr("x-1.dist-info/RECORD", record)
    return content.getvalue()


HASH = as_recorded(hashlib.sha256(b"x = 1").digest())
EVIL = as_recorded(hashlib.sha256(b"evil").digest())
SEEN = f"x.py,sha256={HASH},\nx-1.dist-info/RECORD,,\n".encode()
ANOTHER = {
    "the one that was looked into": ({"x.py": b"x = 1"}, SEEN, ""),
    "with a folder and signatures": (
        {"x.py": b"x = 1", "a/": b"", "x-1.dist-info/RECORD.jws": b"", "x-1.dist-info/RECORD.p7s": b""},
        SEEN,
        "",
    ),
    "another, that tells the truth": (
        {"x.py": b"evil"},
        SEEN.replace(HASH.encode(), EVIL.encode()),
        "RECORD is another one than was looked into",
    ),
    "one more file": ({"x.py": b"x = 1", "run.pth": b"evil"}, SEEN, "run.pth is not in its RECORD"),
    "one more RECORD": (
        {"x.py": b"x = 1", "y-1.dist-info/RECORD": f"run.pth,sha256={EVIL},".encode(), "run.pth": b"evil"},
        SEEN,
        "RECORD is another one than was looked into",
    ),
    "no RECORD": ({"x.py": b"evil"}, None, "it has no RECORD"),
    "a lie": ({"x.py": b"evil"}, SEEN, "x.py is not what its RECORD says"),
}


@pytest.mark.parametrize("what", ANOTHER)
def test_a_wheel_of_an_index_is_the_one_that_the_client_looked_into(machine, what):
    files, record, refused = ANOTHER[what]
    machine.command("curl", CURL)
    machine.command("aws", machine.aws_by_filter.replace("cp ", "cp 2>/dev/null "))
    place = machine.put(
        "mine-1",
        public=["dask-2026.1"],
        content=wheel_of(files, record),
        seen=hashlib.sha256(SEEN).hexdigest(),
    )
    code, output = machine.run(user_data(CONFIG, place))
    assert code == (1 if refused else 0), output
    assert refused in output
    assert any(call.startswith("uv") for call in machine.calls) is not bool(refused)


@pytest.mark.parametrize(
    "record",
    [
        '"\nx.py,sha256={0},\n',
        '"y\nx.py,sha256={0},\nz",,\n',
        "x.py,{0},\n",
        "y\x0bx.py,sha256={0},\n",
        ".\\x.py,sha256={0},\n",
    ],
)
def test_a_record_that_is_read_in_two_ways_is_not_believed_by_the_client(tmp_path, record):
    """What the machine does not see in it, the client does not take for granted either."""
    path = tmp_path / "x-1-py3-none-any.whl"
    path.write_bytes(wheel_of({"x.py": b"evil"}, record.format(HASH)))
    assert contents_of_file(path)["x.py"] == EVIL


def test_an_index_that_does_not_answer_powers_the_machine_off_and_is_named(machine):
    machine.command("curl", 'echo "curl: (6) Could not resolve host: files.pythonhosted.org"; exit 6')
    machine.command("aws", machine.aws_by_filter.replace("cp ", "cp 2>/dev/null "))
    code, output = machine.run(user_data(CONFIG, machine.put(public=["dask-2026.1"])))
    assert code == 6
    assert "Could not resolve host" in output
    assert 'step="fetching 1 wheels from their index"' in output.splitlines()[-1]


def test_a_list_with_another_content_than_the_script_says_is_not_installed(machine):
    place = machine.put("dask-1")
    path = machine.bucket / place.key
    path.write_text(path.read_text().replace("dask", "evil"))
    code, output = machine.run(user_data(CONFIG, place))
    assert code == 1
    assert "pylock.toml: FAILED" in output
    assert 'step="fetching the list of packages"' in output.splitlines()[-1]
    assert not any(call.startswith(("uv", "python3")) for call in machine.calls)


def test_a_bare_machine_without_systemd_runs_the_node_itself(machine):
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1")))
    assert code == 0, output
    assert "node speaks" in output
    assert machine.calls[-1] == "prefect-coiled-node --config -"
    assert NodeConfig.from_json((machine.directory / "told").read_text()) == CONFIG


def bake(machine, *names):
    """Run the recipe of an image on the machine, and forget its calls."""
    machine.command("python", where=machine.directory)
    of_a_user = machine.home / ".cache/uv/kept"
    of_a_user.parent.mkdir(parents=True, exist_ok=True)
    of_a_user.write_text("")
    code, output = machine.run(bake_data(machine.put(*names), "eu-west-1", 60))
    assert code == 0, output
    assert machine.calls[-1] == "shutdown -h now"
    assert "prefect-coiled: baked wheels/environments/" in output.splitlines()[-1]
    machine.calls_path.unlink()
    assert of_a_user.exists(), "what is removed at the end is the installation's own"
    return output


def test_an_image_with_all_packages_installs_nothing(machine):
    bake(machine, "dask-1", "mine-1")
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1", "mine-1")))
    assert code == 0, output
    assert [call.split()[0] for call in machine.calls] == ["aws", "prefect-coiled-node"]
    assert "installing 0 packages" in output


def test_an_image_with_most_packages_gets_the_difference(machine):
    bake(machine, "dask-1", "mine-1", "old-1")
    machine.command("aws", machine.aws_by_filter)
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1", "mine-2", "new-1")))
    assert code == 0, output
    assert sorted(machine.packages) == ["mine-2", "new-1"]
    assert (machine.directory / "uninstalled").read_text().split() == ["old"]
    assert "fetching 2 wheels" in output
    assert not any(call.startswith(("dnf", "uv venv", "python3")) for call in machine.calls)


def test_a_baked_environment_is_taken_as_it_is_where_no_list_is_given(machine):
    baked = machine.root / "opt/prefect-coiled/env/bin"
    baked.mkdir(parents=True)
    machine.command("prefect-coiled-node", 'echo "baked node"', where=baked)
    code, output = machine.run(user_data(CONFIG))
    assert (code, machine.calls) == (0, ["prefect-coiled-node --config -"]), output


def test_a_python_that_the_distribution_lacks_is_downloaded(machine):
    machine.fails("dnf", 1)
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1")._replace(python="3.10.4")))
    assert code == 0, output
    assert f"uv venv --quiet --relocatable --managed-python --python 3.10.4 {BASE}/env" in machine.calls
    assert "the distribution has no Python 3.10; downloading one" in output


def refuse(machine, text):
    """Have uv install nothing into the distribution's Python, for a reason."""
    uv = (machine.directory / "uv").read_text()
    refusing = f"""
            if [ "$2" = install ] && [ ! -e "$MACHINE/managed" ]; then
              echo "{text}" >&2; exit 1
            fi
            case "$*" in *--managed-python*) touch "$MACHINE/managed" ;; esac
            """
    shebang, record, rest = uv.split("\n", 2)
    (machine.directory / "uv").write_text("\n".join([shebang, record, refusing, rest]))


def test_packages_that_need_a_later_patch_of_python_than_the_distribution_has_get_it(machine):
    refuse(machine, "error: Python 3.11.2 does not satisfy Python>=3.11.5")
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1")))
    assert code == 0, output
    assert f"uv venv --quiet --relocatable --managed-python --python 3.11.9 {BASE}/env" in machine.calls
    assert "Python 3.11.2 does not satisfy Python>=3.11.5" in output
    assert "dask-1" in machine.packages


def test_a_package_that_is_refused_for_another_reason_gets_no_other_python(machine):
    refuse(machine, "error: Failed to install: dask-1 (the wheel is invalid)")
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1")))
    assert code == 1
    assert "the wheel is invalid" in output
    assert 'step="installing ' in output.splitlines()[-1]
    assert not [call for call in machine.calls if "--managed-python" in call]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("aws", "fetching the list of packages"),
        ("python3", "fetching 2 wheels"),
        ("uv", "making Python 3.11"),
        ("node", "starting node"),
        ("systemctl", "starting node"),
    ],
)
def test_whatever_fails_on_a_bare_machine_is_named_and_powers_it_off(machine, name, step):
    where = machine.directory if name in ("uv", "node") else None
    machine.fails(name, 9, where)
    if name == "systemctl":
        (machine.root / "run/systemd/system").mkdir(parents=True)
    code, output = machine.run(user_data(CONFIG, machine.put("dask-1")))
    assert code == 9, output
    assert machine.calls[-1] == "shutdown -h now"
    assert machine.calls.count("shutdown -h now") == 1
    last = output.splitlines()[-1]
    assert f'step="{step}' in last
    assert "rc=9; powering off" in last
    assert f"{name} is out of order" in output


def test_a_wheel_that_the_bucket_lacks_is_named(machine):
    place = machine.put("dask-1", "mine-1")
    key = machine.wheel("mine-1").key
    (machine.bucket / key).unlink()
    code, output = machine.run(user_data(CONFIG, place))
    assert code == 3
    assert f"error: {key} is not in the bucket a-bucket" in output


def test_a_wheel_with_another_content_is_not_installed(machine):
    place = machine.put("dask-1", "mine-1")
    (machine.bucket / machine.wheel("mine-1").key).write_text("something else")
    code, output = machine.run(user_data(CONFIG, place))
    assert code == 1
    assert "mine-1-py3-none-any.whl: FAILED" in output
    assert not any(call.startswith("uv") for call in machine.calls)


def test_an_image_that_should_hold_the_node_and_does_not_powers_off(machine):
    code, output = machine.run(user_data(CONFIG))
    assert (code, machine.calls) == (127, ["shutdown -h now"])
    assert "finding prefect-coiled-node in the image" in output


def test_nothing_is_installed_into_the_machine_that_a_sandbox_runs_on(machine):
    here = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1", "PREFECT_COILED_ROOT": ""}
    code, _ = machine.run(user_data(CONFIG, machine.put("dask-1")), **here)
    assert (code, machine.calls) == (127, ["shutdown -h now"])


def test_a_boot_that_takes_too_long_powers_off(machine):
    machine.command("aws", "sleep 30")
    config = CONFIG.model_copy(update={"boot_timeout": 1})
    process = machine.start(user_data(config, machine.put("dask-1")))
    try:
        until(lambda: "shutdown -h now" in machine.calls, 10, "power-off")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=300)
    assert "reason=boot-timeout after 1 s" in output


def test_the_script_holds_nothing_but_its_configuration(machine):
    text = user_data(CONFIG, machine.put("dask-1"))
    line = next(line for line in text.splitlines() if line.startswith("{"))
    assert json.loads(line) == json.loads(CONFIG.to_json())
    assert not any(word in text for word in ("PRIVATE KEY", "AWS_SECRET", "password"))
