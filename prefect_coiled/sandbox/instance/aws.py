"""Stands for `aws s3 cp` inside a bare sandbox instance.

Credentials come from the instance's metadata service, as on AWS, so that its role decides what may be read.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


def main() -> int:
    """Copy an object, or those below a prefix that the filters leave; the last filter that matches counts."""
    parser = argparse.ArgumentParser(prog="aws")
    parser.add_argument("--region", required=True)
    parser.add_argument("service", choices=["s3"])
    parser.add_argument("verb", choices=["cp"])
    parser.add_argument("source")
    parser.add_argument("target", type=Path)
    parser.add_argument("--only-show-errors", action="store_true")
    parser.add_argument("--recursive", action="store_true")
    parser.add_argument("--exclude", dest="filters", action="append", type=lambda g: (False, g), default=[])
    parser.add_argument("--include", dest="filters", action="append", type=lambda g: (True, g))
    options = parser.parse_intermixed_args()
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    s3: Any = boto3.client("s3", region_name=options.region)
    bucket, _, key = options.source.removeprefix("s3://").partition("/")
    try:
        if not options.recursive:
            s3.download_file(bucket, key, str(options.target))
            return 0
        prefix = f"{key.rstrip('/')}/"
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [o["Key"] for page in pages for o in page.get("Contents", ())]
        with ThreadPoolExecutor(10) as pool:
            copies = [
                pool.submit(_copy, s3, bucket, prefix, name, options.target)
                for name in keys
                if _wanted(name.removeprefix(prefix), options.filters)
            ]
            for copy in copies:
                copy.result()
    except (BotoCoreError, ClientError, OSError) as error:
        print(f"fatal error: {error}", file=sys.stderr)
        return 1
    return 0


def _wanted(name: str, filters: list[tuple[bool, str]]) -> bool:
    wanted = True
    for include, pattern in filters:
        if fnmatchcase(name, pattern):
            wanted = include
    return wanted


def _copy(s3: Any, bucket: str, prefix: str, key: str, target: Path) -> None:
    path = target / key.removeprefix(prefix)
    path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(bucket, key, str(path))


if __name__ == "__main__":
    sys.exit(main())
