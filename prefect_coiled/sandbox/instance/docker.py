"""Stands for Docker inside a sandbox instance: login, pull and run against the sandbox's own registry.

What it judges is real: who may log in, with which password, and whether the image is there for the machine's
role. What an image holds is not unpacked: `run` starts the command in the environment of the client, with
the variables of the container alone, and without the machine's power commands. An image whose manifest has
the annotation "sandbox.lacks" lacks the commands that it names. Errors have Docker's own words and codes.
Docker Hub is what the sandbox's settings say. Runs by itself: imports nothing of ours.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com")
_HUB = ("docker.io", "https://index.docker.io/v1/")
# What a container of this machine has of the machine, besides what it is given.
_KEPT = ("LANG", "TMPDIR", "PYTHONPATH", "PREFECT_COILED_SANDBOX", "PREFECT_COILED_SANDBOX_INSTANCE")


class DaemonError(Exception):
    """What the daemon answers."""


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="docker")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info")
    login = commands.add_parser("login")
    login.add_argument("--username", required=True)
    login.add_argument("--password-stdin", action="store_true", required=True)
    login.add_argument("host", nargs="?", default=_HUB[0])
    commands.add_parser("logout").add_argument("host", nargs="?", default=_HUB[0])
    pull = commands.add_parser("pull")
    pull.add_argument("--quiet", action="store_true")
    pull.add_argument("image")
    remove = commands.add_parser("rm")
    remove.add_argument("--force", action="store_true")
    remove.add_argument("name")
    run = commands.add_parser("run")
    for flag in ("--rm", "--interactive"):
        run.add_argument(flag, action="store_true")
    for option in ("--name", "--network", "--ipc", "--gpus", "--log-driver", "--entrypoint"):
        run.add_argument(option)
    for option in ("--ulimit", "--log-opt", "--tmpfs"):
        run.add_argument(option, action="append")
    run.add_argument("-e", "--env", action="append", default=[])
    run.add_argument("image")
    run.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    try:
        return {"info": _info, "login": _login, "logout": _logout, "pull": _pull, "rm": _remove, "run": _run}[
            given.command
        ](given)
    except DaemonError as error:
        before = "docker: " if given.command == "run" else ""
        print(f"{before}Error response from daemon: {error}", file=sys.stderr)
        return 125 if given.command == "run" else 1


def _info(_given: Any) -> int:
    print("Server: the sandbox")
    return 0


def _login(given: Any) -> int:
    password = sys.stdin.read().rstrip("\n")
    if _ECR.fullmatch(given.host):
        if given.username != "AWS" or password != _ecr_password(given.host):
            raise DaemonError(
                f"login attempt to https://{given.host}/v2/ failed with status: 400 Bad Request"
            )
    elif _settings()["hub_tokens"].get(given.username) != password:
        raise DaemonError(
            'Get "https://registry-1.docker.io/v2/": unauthorized: incorrect username or password'
        )
    auths = _kept("config.json")
    auths[given.host] = base64.b64encode(f"{given.username}:{password}".encode()).decode()
    _keep("config.json", auths)
    print("Login Succeeded")
    return 0


def _logout(given: Any) -> int:
    auths = _kept("config.json")
    if auths.pop(given.host, None) is None:
        print(f"Not logged in to {given.host}")
    _keep("config.json", auths)
    return 0


def _pull(given: Any) -> int:
    host, _, rest = given.image.partition("/")
    lacks = _pull_ecr(given.image, host, rest) if _ECR.fullmatch(host) else _pull_hub(given.image, host, rest)
    images = _kept("images.json")
    images[given.image] = lacks
    _keep("images.json", images)
    print(given.image)
    return 0


def _pull_ecr(image: str, host: str, rest: str) -> str:
    """Ask for manifest and layers as Docker does; returns which commands the image lacks."""
    if host not in _kept("config.json"):
        raise DaemonError(f'Head "https://{host}/v2/{rest}": no basic auth credentials')
    name, at, digest = rest.partition("@")
    name, _, tag = name.partition(":")
    client = _client("ecr", host)
    from botocore.exceptions import BotoCoreError, ClientError

    wanted = {"imageDigest": digest} if at else {"imageTag": tag or "latest"}
    try:
        reply = client.batch_get_image(repositoryName=name, imageIds=[wanted])
        if not reply["images"]:
            raise DaemonError(f"manifest for {image} not found: manifest unknown: Requested image not found")
        manifest = json.loads(reply["images"][0]["imageManifest"])
        for layer in manifest.get("layers", ()):
            client.get_download_url_for_layer(repositoryName=name, layerDigest=layer["digest"])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "RepositoryNotFoundException":
            words = f"name unknown: {error.response['Error']['Message']}"
            raise DaemonError(f"repository {host}/{name} not found: {words}") from error
        words = f"denied: {error.response['Error']['Message']}"
        raise DaemonError(
            f"pull access denied for {host}/{name}, repository does not exist or may require authorization: "
            f"server message: {words}"
        ) from error
    except BotoCoreError as error:
        raise DaemonError(f'Head "https://{host}/v2/{rest}": {error}') from error
    return str(manifest.get("annotations", {}).get("sandbox.lacks", ""))


def _pull_hub(image: str, host: str, rest: str) -> str:
    settings = _settings()
    user = rest.partition("/")[0]
    known = host in _HUB and rest in settings["hub_images"]
    auth = base64.b64decode(_kept("config.json").get(host, "")).decode()
    private = user in settings["hub_tokens"] and auth != f"{user}:{settings['hub_tokens'][user]}"
    if private or not known:
        name = image.rpartition(":")[0].removeprefix("docker.io/")
        raise DaemonError(
            f"pull access denied for {name}, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied"
        )
    return ""


def _remove(given: Any) -> int:
    raise DaemonError(f"No such container: {given.name}")


def _run(given: Any) -> int:
    images = _kept("images.json")
    if given.image not in images:
        print(f"Unable to find image '{given.image}' locally", file=sys.stderr)
        _pull(given)
        images = _kept("images.json")
    own = os.path.dirname(shutil.which("shutdown") or "")
    path = os.pathsep.join(p for p in os.environ.get("PATH", "").split(os.pathsep) if p != own)
    environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environ.update(PATH=path, HOME=os.environ.get("HOME", "/"))
    for item in given.env:
        name, equals, value = item.partition("=")
        if equals or name in os.environ:
            environ[name] = value if equals else os.environ[name]
    words = [*([given.entrypoint] if given.entrypoint else []), *given.arguments]
    program = shutil.which(words[0], path=path) if words else None
    if program is None or words[0] in images[given.image].split():
        print(
            "docker: Error response from daemon: failed to create task for container: failed to create shim "
            "task: OCI runtime create failed: runc create failed: unable to start container process: exec: "
            f'"{words[0] if words else ""}": executable file not found in $PATH: unknown.',
            file=sys.stderr,
        )
        return 127
    container = subprocess.Popen([program, *words[1:]], env=environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: container.send_signal(n))
    code = container.wait()
    return 128 - code if code < 0 else code


def _client(service: str, host: str) -> Any:
    import botocore.session

    match = _ECR.fullmatch(host)
    return botocore.session.get_session().create_client(service, region_name=match[2] if match else None)


def _ecr_password(host: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        (found,) = _client("ecr", host).get_authorization_token()["authorizationData"]
    except (BotoCoreError, ClientError) as error:
        raise DaemonError(f"login attempt to https://{host}/v2/ failed: {error}") from error
    return base64.b64decode(found["authorizationToken"]).decode().partition(":")[2]


def _settings() -> dict[str, Any]:
    url = f"{os.environ['AWS_EC2_METADATA_SERVICE_ENDPOINT']}/hub"
    with urllib.request.urlopen(url, timeout=10) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def _folder() -> Path:
    folder = Path(os.environ.get("HOME", "/")) / ".docker"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _kept(name: str) -> dict[str, str]:
    file = _folder() / name
    found: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return found


def _keep(name: str, values: dict[str, str]) -> None:
    (_folder() / name).write_text(json.dumps(values))


def _exit() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _exit()
