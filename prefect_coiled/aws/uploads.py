"""Large files go into a bucket in parts: what arrived stays there when the line breaks, and the rest follows.

Which upload is under way, and what arrived of it, is written down on this machine; the permission to put
objects is enough for all of it. What nobody finishes goes by the bucket's lifecycle.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError

__all__ = ["LARGE", "PART", "UNFINISHED_DAYS", "put_parts"]

# Bytes of a part: from 5 MB to 5 GB, at most 10,000 of them.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PART = 16 * 1024**2
# What is larger goes in parts.
LARGE = 2 * PART
# Days after which the bucket lets go of the parts of an upload that nobody finished.
UNFINISHED_DAYS = 2
# S3 knows the upload, or one of its parts, no more. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_GONE = ("NoSuchUpload", "InvalidPart")


def put_parts(aws: Aws, bucket: str, key: str, path: Path, notes: Path) -> None:
    """Put a file in parts, without those that an earlier call got through.

    Args:
        aws: The door.
        bucket: The bucket's name.
        key: The file's key, which holds a hash of its content: an earlier upload was of the same content.
        path: The file.
        notes: A folder in which the upload is written down until it is whole.

    Raises:
        AwsError: S3 took a part not, or the line broke; the next call goes on from there.
    """
    where = hashlib.sha256(f"{aws.endpoint_url}\0{aws.number}\0{bucket}\0{key}".encode()).hexdigest()
    note = notes / f"{where}.json"
    upload = _Upload(aws, bucket, key, path, note)
    try:
        upload.run()
    except AwsError as error:
        if not (upload.resumed and error.code in _GONE):
            raise
        _Upload(aws, bucket, key, path, note, anew=True).run()
    note.unlink(missing_ok=True)


class _Upload:
    """One upload in parts: its id, and the ETag of each part that arrived."""

    def __init__(
        self, aws: Aws, bucket: str, key: str, path: Path, note: Path, *, anew: bool = False
    ) -> None:
        self._aws, self._object, self._path, self._note = aws, {"Bucket": bucket, "Key": key}, path, note
        self._what = f"writing s3://{bucket}/{key}"
        self._size = path.stat().st_size
        # The 10,000 parts that S3 takes have to be enough.
        self._part = max(PART, -(-self._size // 10_000))
        told = None if anew else _read(note)
        self.resumed = told is not None and (told["size"], told["part"]) == (self._size, self._part)
        if told is not None and self.resumed:
            self._id, self._etags = told["id"], dict(told["etags"])
        else:
            self._id = aws.call("s3:CreateMultipartUpload", self._what, **self._object)["UploadId"]
            self._etags = {}
            self._write()

    def run(self) -> None:
        """Send what is missing, and put it together."""
        with self._path.open("rb") as file:
            for number in range(1, -(-self._size // self._part) + 1):
                if str(number) in self._etags:
                    continue
                file.seek((number - 1) * self._part)
                reply = self._aws.call(
                    "s3:UploadPart",
                    self._what,
                    **self._object,
                    UploadId=self._id,
                    PartNumber=number,
                    Body=file.read(self._part),
                )
                self._etags[str(number)] = reply["ETag"]
                self._write()
        parts = [{"PartNumber": int(n), "ETag": self._etags[n]} for n in sorted(self._etags, key=int)]
        self._aws.call(
            "s3:CompleteMultipartUpload",
            self._what,
            **self._object,
            UploadId=self._id,
            MultipartUpload={"Parts": parts},
        )

    def _write(self) -> None:
        told = {"id": self._id, "size": self._size, "part": self._part, "etags": self._etags}
        try:
            self._note.parent.mkdir(parents=True, exist_ok=True)
            beside = self._note.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(told))
            beside.replace(self._note)
        except OSError:  # a full disk: an upload that breaks off begins anew
            return


def _read(note: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(note.read_text())
        return told if isinstance(told, dict) and {"id", "size", "part", "etags"} <= told.keys() else None
    except (OSError, ValueError):
        return None
