"""Ships lines to CloudWatch Logs from a thread of its own.

Whoever hands in a line never waits: the buffer is bounded, and when CloudWatch is down the oldest lines
go, counted. `close` sends what is left within a bounded time.
Limits: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

BATCH_BYTES = 1_000_000  # AWS allows 1,048,576 with 26 for each event
BATCH_EVENTS = 10_000
BATCH_MS = 24 * 3600 * 1000  # first to last; lines may have waited for longer
EVENT_BYTES = 200_000  # AWS allows 262,144
EVENT_OVERHEAD = 26
_OF_NOW_MS = 60_000
BUFFER_BYTES = 16 * 1024 * 1024
_LOST = "log lines were lost: CloudWatch could not be reached, or refused them)"


class LogShipper:
    """Sends lines to one log stream.

    Args:
        client: Makes a CloudWatch Logs client; called in the thread.
        group: The log group; it exists.
        stream: The log stream; made when it does not exist.
        start: Whether to start now; else lines wait for `start()`.
        clock: The time of day, in seconds.
        chance: Gives numbers from 0 to 1, for pauses.
    """

    def __init__(
        self,
        client: Callable[[], Any],
        group: str,
        stream: str,
        *,
        interval_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        buffer_bytes: int = BUFFER_BYTES,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._chance = chance
        self._make_client = client
        self._client: Any = None
        self.group = group
        self.stream = stream
        self._interval_s = interval_s
        self._clock = clock
        self._buffer_bytes = buffer_bytes
        self._lines: deque[tuple[int, str, int]] = deque()
        self._size = 0
        self._dropped = 0
        self._last_time = 0
        self._made = False
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)

    def start(self) -> None:
        """Begin to send, if it has not begun; lines handed in before wait until then."""
        if self._thread.ident is None:
            self._thread.start()

    def line(self, text: str) -> None:
        """Hand in one line; never waits."""
        raw = text.encode("utf-8", "replace")
        parts = [raw[i : i + EVENT_BYTES].decode("utf-8", "ignore") for i in range(0, len(raw), EVENT_BYTES)]
        with self._lock:
            # Events of one call must be in order of time, and clocks are set back at times.
            self._last_time = max(self._last_time, int(self._clock() * 1000))
            for part in parts or [""]:
                message = part if part.strip() else " "
                size = len(message.encode()) + EVENT_OVERHEAD
                self._lines.append((self._last_time, message, size))
                self._size += size
            while self._size > self._buffer_bytes and self._lines:
                self._size -= self._lines.popleft()[2]
                self._dropped += 1

    def close(self, timeout_s: float) -> bool:
        """Send what is left.

        Returns:
            Whether everything was sent.
        """
        self._deadline = time.monotonic() + timeout_s
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._lines

    def _run(self) -> None:
        pause = self._interval_s
        while True:
            closing = self._closing
            try:
                while self._send_batch():
                    pass
                pause = self._interval_s
                failed = False
            except Exception:  # whatever AWS or the network does, the next attempt follows, later
                self._client = None
                # Many machines that were refused together do not come back together.
                pause = min(pause * 2, 30.0) * (0.5 + self._chance())
                failed = True
            if closing and (not failed or time.monotonic() > self._deadline):
                return
            if closing:
                time.sleep(0.2)
            else:
                self._wake.wait(pause)

    def _batch(self) -> list[tuple[int, str, int]]:
        with self._lock:
            if self._dropped:
                note = f"({self._dropped} {_LOST}"
                at = self._lines[0][0] if self._lines else self._last_time
                self._lines.appendleft((at, note, len(note) + EVENT_OVERHEAD))
                self._size += len(note) + EVENT_OVERHEAD
                self._dropped = 0
            batch: list[tuple[int, str, int]] = []
            size = 0
            while self._lines and len(batch) < BATCH_EVENTS and size + self._lines[0][2] <= BATCH_BYTES:
                if batch and self._lines[0][0] - batch[0][0] >= BATCH_MS:
                    break
                item = self._lines.popleft()
                size += item[2]
                batch.append(item)
            self._size -= size
            return batch

    def _send_batch(self) -> bool:
        """Send one batch; says whether there was one."""
        batch = self._batch()
        if not batch:
            return False
        try:
            if self._client is None:
                self._client = self._make_client()
            self._put(batch)
        except BaseException:
            with self._lock:  # back to the front, for the next attempt
                self._lines.extendleft(reversed(batch))
                self._size += sum(item[2] for item in batch)
            raise
        return True

    def _put(self, batch: list[tuple[int, str, int]]) -> None:
        from botocore.exceptions import ClientError

        events = [{"timestamp": at, "message": message} for at, message, _ in batch]
        names = {"logGroupName": self.group, "logStreamName": self.stream}
        if not self._made:
            self._make_stream(names)
            self._made = True
        try:
            reply = self._client.put_log_events(**names, logEvents=events)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "InvalidParameterException":  # would be refused again and hold up all that follows
                with self._lock:
                    self._dropped += sum(not message.endswith(_LOST) for _, message, _ in batch)
                return
            if code == "DataAlreadyAcceptedException":
                return
            if code != "ResourceNotFoundException":
                raise
            self._make_stream(names)
            reply = self._client.put_log_events(**names, logEvents=events)
        self._left_out(batch, (reply or {}).get("rejectedLogEventsInfo") or {})

    def _left_out(self, batch: list[tuple[int, str, int]], info: Mapping[str, int]) -> None:
        """See to events that AWS left out of a call that it took: too old, or of the future.

        That is what lines are that were written before the machine's clock was set. They are sent again as of
        now; what is of now already is lost, and counted.
        """
        end = max(info.get("tooOldLogEventEndIndex", 0), info.get("expiredLogEventEndIndex", 0))
        begin = info.get("tooNewLogEventStartIndex", len(batch))
        out = [item for number, item in enumerate(batch) if number < end or number >= begin]
        if not out:
            return
        now = int(self._clock() * 1000)
        again = [item for item in out if abs(item[0] - now) > _OF_NOW_MS]
        with self._lock:
            self._last_time = now
            self._lines = deque((now, message, size) for _, message, size in (*again, *self._lines))
            self._size += sum(size for _, _, size in again)
            lost = (message for at, message, _ in out if abs(at - now) <= _OF_NOW_MS)
            self._dropped += sum(not message.endswith(_LOST) for message in lost)

    def _make_stream(self, names: dict[str, str]) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.create_log_stream(**names)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code", "") != "ResourceAlreadyExistsException":
                raise
