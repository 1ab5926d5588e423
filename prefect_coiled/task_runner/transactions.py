"""Tasks inside of a flow's transaction: what they did is committed with it, or rolled back.

In a thread, a task's own transaction finds the flow's and leaves it what to do. On a worker it finds one that
stands for the flow's, and what it leaves there travels with the news of the task's end:

    worker: a transaction that nobody commits ─▶ what the task's came to ─▶ client: a child of the flow's

So hooks run where the flow runs, as they do with threads: what they undo must be in reach from there.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from inspect import iscoroutine
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ConfigurationError
from prefect.results import get_result_store
from prefect.transactions import (
    CommitMode,
    IsolationLevel,
    Transaction,
    TransactionState,
    get_transaction,
)

from prefect_coiled.internals.prefect import stored_values
from prefect_coiled.task_runner.callbacks import call_apart
from prefect_coiled.task_runner.lost_tasks import Ended, report
from prefect_coiled.task_runner.remote_result import RemoteRecord

# Where the outermost transaction has the lock of who undoes it.
_UNDOING = "_prefect_coiled_undoing"
# Whether this is code of who undoes: what that submits is part of no transaction, and may fail by itself.
_undoes: ContextVar[bool] = ContextVar("prefect_coiled_undoes", default=False)


class _StandIn(Transaction):
    """The flow's transaction on a worker: the outermost one there."""

    def get_parent(self) -> Any:
        """None: what it is in was told with it. Prefect's own would take what is open now, its child."""
        return None


def for_worker() -> dict[str, Any] | None:
    """What a worker needs to know of the transaction that is open here; None if there is none."""
    parent = get_transaction()
    if parent is None:
        return None
    values: dict[str, Any] = {}
    while parent is not None:
        values = {**stored_values(parent), **values}
        parent = parent.get_parent()
    return {"values": values}


def stand_for(told: dict[str, Any]) -> Transaction:
    """On a worker: a transaction to be in the place of the flow's. It is entered and never left."""
    parent = _StandIn(commit_mode=CommitMode.LAZY)
    stored_values(parent).update(told["values"])
    return parent


def part_of(parent: Transaction) -> bytes:
    """On a worker: what a task's transaction came to, for the client."""
    children = [one for one in parent.children if not isinstance(one, _Gate)]
    child = children[-1] if children else None
    if child is None:
        return pickle.dumps(None)
    persisted = child.key if child.write_on_commit and child.is_staged() else None
    values = cloudpickle.dumps(stored_values(child))
    # The lock on the key, which the flow's transaction gives back as it commits; one that failed has done so.
    serial = child.isolation_level == IsolationLevel.SERIALIZABLE and child.store is not None
    lock = (child.key, child._holder) if serial and child.key and not child.is_rolled_back() else None
    return pickle.dumps((child.state.value, persisted, values, lock))


class _Gate(Transaction):
    """The first child of a transaction that tasks are in: what commits all ends before it has begun.

    Prefect commits one child after the other, and undoes nothing that is committed.
    """

    @classmethod
    def put_before(cls, transaction: Any) -> None:
        """See that a transaction has one."""
        if not any(isinstance(child, cls) for child in transaction.children[:1]):
            gate = cls()
            gate.__dict__["before"] = transaction
            transaction.children.insert(0, gate)

    def commit(self) -> bool:
        """Let nothing be committed before all tasks have ended, and nothing if one failed.

        Raises:
            RuntimeError: Some failed, or were lost, and have undone all.
        """
        names = [part.name for part in _parts_of(self.__dict__["before"]) if part.has_failed()]
        if names:
            raise RuntimeError(f"{', '.join(names)} failed, and the transaction was rolled back")
        return False

    def rollback(self) -> bool:
        """There is nothing to undo."""
        return False


def _parts_of(transaction: Any) -> Iterator[Part]:
    """The tasks in a transaction, and in those within it."""
    for child in transaction.children:
        if isinstance(child, Part):
            yield child
        else:
            yield from _parts_of(child)


class Part(Transaction):
    """On the client: a task's transaction, a child of the flow's.

    It is given its future after it was made.
    """

    @classmethod
    def begin_one(cls, future: Any) -> Part | None:
        """A child of the transaction that is open here; None if there is none."""
        around: list[Any] = []
        outer = None if _undoes.get() else get_transaction()
        while outer is not None:
            around.append(outer)
            outer = outer.get_parent()
        if not around:
            return None
        part = cls(commit_mode=around[0].commit_mode, state=TransactionState.ACTIVE)
        part.__dict__.update(
            future=future,
            around=around,
            lock=threading.RLock(),
            seeing=threading.Lock(),
            handled=threading.Event(),
            failed=False,
        )
        # Hooks are the flow's own: they log, and read settings, in its context, whichever thread they run in.
        part.__dict__["context"] = copy_context()
        # Of two tasks that fail at once, the second finds all undone.
        part.__dict__["undoing"] = around[-1].__dict__.setdefault(_UNDOING, threading.RLock())
        future.part = part
        for each in around:
            _Gate.put_before(each)
        around[0].add_child(part)
        future.add_done_callback(part._ended)
        return part

    def get_parent(self) -> Any:
        """The flow's transaction."""
        return self.__dict__["around"][0]

    def _ended(self, future: Any) -> None:
        """A task that failed, or was lost, rolls back all, at once, as in a thread."""
        handled: threading.Event = self.__dict__["handled"]
        with self.__dict__["seeing"]:
            if handled.is_set():
                return
            try:
                if self._take() == TransactionState.ROLLED_BACK:
                    self.__dict__["context"].run(self._undo_all)
            finally:
                handled.set()

    def _undo_all(self) -> None:
        token = _undoes.set(True)
        try:
            with self.__dict__["undoing"]:
                # From the innermost on, as Prefect does when that is left: it may be left by now.
                for each in self.__dict__["around"]:
                    undone = each.rollback()
                    if iscoroutine(undone):  # of `async with atransaction()`
                        asyncio.run(undone)
        finally:
            _undoes.reset(token)

    def leave(self) -> None:
        """Be part of the transaction no more: the task was never sent, and who submits it is told why."""
        self.__dict__["handled"].set()
        siblings: list[Any] = self.__dict__["around"][0].children
        siblings[:] = [one for one in siblings if one is not self]
        self.__dict__["future"].part = None

    def wait(self) -> None:
        """Wait until the end of the task, which has ended, was seen to."""
        handled: threading.Event = self.__dict__["handled"]
        if not handled.is_set():
            # Dask's client tells nothing any more where it has lost its scheduler.
            call_apart(self.__dict__["future"], self._ended)
            handled.wait()

    @property
    def name(self) -> str:
        """The task's."""
        return str(self.__dict__["future"].task.name)

    def has_failed(self) -> bool:
        """Whether the task has failed, or was lost; waits for its end."""
        self.__dict__["future"].wait()
        return bool(self.__dict__["failed"])

    def _take(self) -> TransactionState:
        """Take what the task's transaction came to."""
        future = self.__dict__["future"]
        with self.__dict__["lock"]:
            if self.state == TransactionState.ACTIVE and future.done:
                if future.is_lost:
                    # How far it came is not known.
                    self.state = TransactionState.ROLLED_BACK
                else:
                    self._take_ending(future.ending, future.task)
                self.__dict__["failed"] = self.state == TransactionState.ROLLED_BACK
            return self.state

    def _take_ending(self, ending: Any, task: Any) -> None:
        told = pickle.loads(ending.transaction) if ending is not None and ending.transaction else None
        if told is None:
            # It was given up before its own transaction came to an end: by its time limit, for instance.
            if ending is not None and ending.kind in (StateType.FAILED.value, StateType.CRASHED.value):
                self.state = TransactionState.ROLLED_BACK
            return
        state, self.key, values, lock = told
        stored_values(self).update(cloudpickle.loads(values))
        if lock is not None:
            self.key, self._holder = lock
            self.isolation_level = IsolationLevel.SERIALIZABLE
            self.__dict__["context"].copy().run(self._write_to, task)
        self.__dict__["persists"] = bool(told[1])
        self.state = TransactionState(state)
        if self.state == TransactionState.STAGED:
            self.on_rollback_hooks = [self._tell_rollback, *task.on_rollback_hooks]
            self.on_commit_hooks = list(task.on_commit_hooks)

    def _tell_rollback(self, transaction: Any) -> None:
        future = self.__dict__["future"]
        state: State[Any] = State(
            type=StateType.COMPLETED, name="RolledBack", message="Task rolled back as part of transaction"
        )
        report([Ended(future.task, future.task_run_id, state)])

    def commit(self) -> bool:
        """Commit what the task did; waits for its end.

        Raises:
            RuntimeError: All is undone: Prefect goes on to commit the rest otherwise.
        """
        future = self.__dict__["future"]
        future.wait()
        state = self._take()
        if state == TransactionState.ROLLED_BACK:
            raise RuntimeError("the transaction was rolled back")
        if state != TransactionState.STAGED:
            if self.store is not None and self.key:  # of a task whose result was there already
                with suppress(ValueError, ConfigurationError):  # the lock's manager may be the worker's alone
                    self.store.release_lock(self.key, holder=self._holder)
            return False
        if self.__dict__.get("persists"):
            data = future.state.data
            self._staged_value = data.fetch_now() if isinstance(data, RemoteRecord) else data
            self._write_to(future.task)
            self.write_on_commit = True
        return super().commit()

    def _write_to(self, task: Any) -> None:
        store: Any = get_result_store()
        self.store = store.update_for_task(task, _sync=True)

    def rollback(self) -> bool:
        """Undo what the task did, if it has ended."""
        with self.__dict__["lock"]:
            return self._take() == TransactionState.STAGED and super().rollback()
