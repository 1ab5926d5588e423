"""Stands for AWS's command line inside a sandbox instance, for the two commands that a boot script needs.

    aws ecr get-login-password
    aws ssm get-parameter --name NAME --with-decryption --query Parameter.Value --output text

Everything else goes to the real one, where the machine has it. Runs by itself: imports nothing of ours.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import sys
from typing import Any


def main() -> int:
    """Answer, or hand on."""
    parser = argparse.ArgumentParser(prog="aws", exit_on_error=False)
    parser.add_argument("--region")
    parser.add_argument("service")
    parser.add_argument("command")
    parser.add_argument("--name")
    parser.add_argument("--with-decryption", action="store_true")
    parser.add_argument("--query")
    parser.add_argument("--output")
    try:
        given, rest = parser.parse_known_args()
    except argparse.ArgumentError:
        return _real()
    if rest or (given.service, given.command) not in (
        ("ecr", "get-login-password"),
        ("ssm", "get-parameter"),
    ):
        return _real()
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client: Any = botocore.session.get_session().create_client(given.service, region_name=given.region)
        if given.service == "ecr":
            (found,) = client.get_authorization_token()["authorizationData"]
            print(base64.b64decode(found["authorizationToken"]).decode().partition(":")[2])
        else:
            reply = client.get_parameter(Name=given.name, WithDecryption=given.with_decryption)
            print(reply["Parameter"]["Value"])
    except (BotoCoreError, ClientError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 254
    return 0


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
