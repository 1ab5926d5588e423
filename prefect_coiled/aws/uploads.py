"""Large files go into a bucket in parts: what arrived stays there when the line breaks, and the rest follows.

Which upload is under way, and what arrived of it, is written down on this machine; the permission to put
objects is enough for all of it. What nobody finishes goes by the bucket's lifecycle.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prefect_coiled.aws.door import Aws
from prefect_coiled.errors import AwsError

# Bytes of a part: from 5 MB to 5 GB, at most 10,000 of them.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
PART = 16 * 1024**2
# What is larger goes in parts.
LARGE = 2 * PART
# Days after which the bucket lets go of the parts of an upload that nobody finished.
UNFINISHED_DAYS = 2
# S3 knows the upload, or one of its parts, no more. https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_GONE = ("NoSuchUpload", "InvalidPart")


class Notes(NamedTuple):
    """Where uploads are written down, and how: others may be able to write there.

    Attributes:
        read: Gives a file's text; an OSError for one that somebody else can have written.
        write: Puts a file there, through no link of somebody else's; a full disk is no error.
    """

    folder: Path
    read: Callable[[Path], str]
    write: Callable[[Path, bytes], None]


def put_parts(aws: Aws, bucket: str, key: str, path: Path, notes: Notes) -> None:
    """Put a file in parts, without those that an earlier call got through.

    Args:
        key: The file's key, which holds a hash of its content: an earlier upload was of the same content.

    Raises:
        AwsError: S3 took a part not, or the line broke; the next call goes on from there.
    """
    where = hashlib.sha256(f"{aws.endpoint_url}\0{aws.number}\0{bucket}\0{key}".encode()).hexdigest()
    note = notes.folder / f"{where}.json"
    upload = _Upload(aws, bucket, key, path, notes, note)
    try:
        upload.run()
    except AwsError as error:
        # Also one that was begun here: another program of this machine may have gone on with it, to its end.
        if error.code not in _GONE:
            raise
        _Upload(aws, bucket, key, path, notes, note, anew=True).run()
    note.unlink(missing_ok=True)


class _Upload:
    """One upload in parts: its id, and the ETag of each part that arrived."""

    def __init__(
        self, aws: Aws, bucket: str, key: str, path: Path, notes: Notes, note: Path, *, anew: bool = False
    ) -> None:
        self._aws, self._object, self._path = aws, {"Bucket": bucket, "Key": key}, path
        self._notes, self._note = notes, note
        self._what = f"writing s3://{bucket}/{key}"
        self._size = path.stat().st_size
        # The 10,000 parts that S3 takes have to be enough.
        self._part = max(PART, -(-self._size // 10_000))
        told = None if anew else _read(notes, note)
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
        self._notes.write(self._note, json.dumps(told).encode())


def _read(notes: Notes, note: Path) -> dict[str, Any] | None:
    try:
        told = json.loads(notes.read(note))
    except (OSError, ValueError, RecursionError):
        return None
    if not (isinstance(told, dict) and isinstance(told.get("id"), str) and {"size", "part"} <= told.keys()):
        return None
    etags = told.get("etags")
    # Of no other form is one written; an upload of another begins anew.
    whole = isinstance(etags, dict) and all(n.isdecimal() and isinstance(e, str) for n, e in etags.items())
    return told if whole else None
