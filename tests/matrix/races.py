"""Two users at once: the one is held at a call while the other goes as far as he comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

from .lives import action_of, answer, called, changes

__all__ = ["Race"]

# Seconds in which the second makes no new call and changes nothing, after which he counts as one
# that waits for the first; and in which both have to be done.
_WAITS, _BOUND = 3.0, 180.0
_who: ContextVar[str] = ContextVar("who", default="")


class Race:
    """Holds the first at one of his changes, until the second is done or waits for him.

    Args:
        at: The number of the first's change, from 0; none is held if there are fewer.
        after: Whether he is held with its answer, and not before it is made.

    Attributes:
        calls: The changes of the first.
        ended: How each of the two ended: None for well.
    """

    def __init__(self, at: int, *, after: bool) -> None:
        self.calls: list[str] = []
        self.ended: dict[str, BaseException | None] = {}
        self._at, self._after = at, after
        self._held, self._go = threading.Event(), threading.Event()
        self._went_on = 0.0  # when the second did something that he had not done before
        self._tried: set[str] = set()  # his calls since he last changed something
        self._lock = threading.Lock()

    def run(self, first: Callable[[], Any], second: Callable[[], Any]) -> None:
        """Run both to their ends.

        Raises:
            TimeoutError: One of them has no end.
        """
        with called(self._call):
            one = self._begin("first", first)
            end = time.monotonic() + _BOUND
            while one.is_alive() and not self._held.wait(0.02):
                _see(end, one)
            self._went_on = time.monotonic()
            two = self._begin("second", second)
            while two.is_alive() and time.monotonic() - self._went_on < _WAITS:
                two.join(0.02)
                _see(end, two)
            self._go.set()
            for thread in (one, two):
                while thread.is_alive():
                    thread.join(0.1)
                    _see(end, thread)

    def _begin(self, who: str, does: Callable[[], Any]) -> threading.Thread:
        def live() -> None:
            _who.set(who)
            try:
                does()
                self.ended[who] = None
            except BaseException as error:
                self.ended[who] = error

        thread = threading.Thread(target=copy_context().run, args=(live,), name=who, daemon=True)
        thread.start()
        return thread

    def _call(self, client: Any, operation: str, given: dict[str, Any]) -> Any:
        action, who = action_of(client, operation), _who.get()
        meant = False
        if who == "second":
            self._second(f"{client.meta.region_name} {action} {given}")
        elif who == "first" and changes(action):
            with self._lock:
                meant = len(self.calls) == self._at
                self.calls.append(action)
        if meant and not self._after:
            self._hold()
        try:
            reply = answer(client, operation, given)
            if who == "second" and changes(action):
                with self._lock:
                    self._tried.clear()
            return reply
        finally:
            if meant and self._after:
                self._hold()

    def _second(self, call: str) -> None:
        """Note a call of the second: one that is made again and again is one that waits."""
        with self._lock:
            if call not in self._tried:
                self._tried.add(call)
                self._went_on = time.monotonic()

    def _hold(self) -> None:
        self._held.set()
        self._go.wait(_BOUND)


def _see(end: float, thread: threading.Thread) -> None:
    if time.monotonic() > end:
        raise TimeoutError(f"the {thread.name} has no end")
