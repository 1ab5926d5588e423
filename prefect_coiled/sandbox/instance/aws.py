"""Stands for AWS's command line inside a sandbox instance, for the commands that a boot script needs.

    aws ecr get-login-password
    aws ssm get-parameter --name NAME --with-decryption --query Parameter.Value --output text
    aws s3 cp SOURCE TARGET [--recursive --exclude GLOB --include GLOB]     from S3 only

Credentials come from the instance's metadata service, as on AWS, so that its role decides what may be read.
Everything else goes to the real one, where the machine has it. Runs by itself: imports nothing of ours.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

Options = argparse.Namespace


def main() -> int:
    """Answer, or hand on."""
    parser = argparse.ArgumentParser(prog="aws", exit_on_error=False)
    parser.add_argument("--region")
    parser.add_argument("service")
    parser.add_argument("command")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--name")
    parser.add_argument("--with-decryption", action="store_true")
    parser.add_argument("--query")
    parser.add_argument("--output")
    parser.add_argument("--only-show-errors", action="store_true")
    parser.add_argument("--recursive", action="store_true")
    parser.add_argument("--exclude", dest="filters", action="append", type=lambda g: (False, g), default=[])
    parser.add_argument("--include", dest="filters", action="append", type=lambda g: (True, g))
    try:
        given, rest = parser.parse_known_intermixed_args()
    except argparse.ArgumentError:
        return _real()
    answer = _ANSWERS.get((given.service, given.command))
    if answer is None or rest:
        return _real()
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client: Any = botocore.session.get_session().create_client(given.service, region_name=given.region)
        answer(client, given)
    except (BotoCoreError, ClientError, OSError) as error:
        print(f"fatal error: {error}", file=sys.stderr)
        return 1
    return 0


def _password(ecr: Any, given: Options) -> None:
    (found,) = ecr.get_authorization_token()["authorizationData"]
    print(base64.b64decode(found["authorizationToken"]).decode().partition(":")[2])


def _parameter(ssm: Any, given: Options) -> None:
    print(ssm.get_parameter(Name=given.name, WithDecryption=given.with_decryption)["Parameter"]["Value"])


def _copy(s3: Any, given: Options) -> None:
    """An object, or those below a prefix that the filters leave; the last filter that matches counts."""
    source, target = given.paths
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if not given.recursive:
        _download(s3, bucket, key, Path(target))
        return
    prefix = f"{key.rstrip('/')}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [o["Key"].removeprefix(prefix) for page in pages for o in page.get("Contents", ())]
    with ThreadPoolExecutor(10) as pool:
        copies = [
            pool.submit(_download, s3, bucket, prefix + name, Path(target) / name)
            for name in keys
            if _wanted(name, given.filters)
        ]
        for copy in copies:
            copy.result()


def _wanted(name: str, filters: list[tuple[bool, str]]) -> bool:
    wanted = True
    for include, pattern in filters:
        if fnmatchcase(name, pattern):
            wanted = include
    return wanted


def _download(s3: Any, bucket: str, key: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # As the real one does: beside it, then in its place. What was there may be a link that another instance
    # of the same image has too.
    beside = target.with_name(f"{target.name}.part")
    with beside.open("wb") as file:
        for chunk in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(1 << 20):
            file.write(chunk)
    beside.replace(target)


_ANSWERS: dict[tuple[str, str], Callable[[Any, Options], None]] = {
    ("ecr", "get-login-password"): _password,
    ("ssm", "get-parameter"): _parameter,
    ("s3", "cp"): _copy,
}


def _real() -> int:
    own = os.path.dirname(shutil.which("aws") or "")
    path = os.pathsep.join(p for p in os.environ.get("PATH", "").split(os.pathsep) if p != own)
    command = shutil.which("aws", path=path)
    if command is None:
        print("aws: a sandbox instance has no more of it than a boot script needs", file=sys.stderr)
        return 127
    os.execv(command, [command, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
