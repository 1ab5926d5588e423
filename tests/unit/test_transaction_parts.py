"""Tasks in a transaction, as the client has them: when all is undone, and by whom."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.transactions import Transaction, TransactionState, transaction

from prefect_coiled.task_runner.transactions import Part, part_of, stand_for


class Future:
    """A future that ends when it is told to."""

    def __init__(self, name: str) -> None:
        self.task: Any = SimpleNamespace(name=name, on_rollback_hooks=[], on_commit_hooks=[])
        self.part: Any = None
        self.ending: Any = None
        self.is_lost = self.done = False
        self._over = threading.Event()
        self._callbacks: list[Any] = []

    def add_done_callback(self, function: Any) -> None:
        self._callbacks.append(function)

    def end(self, **how: Any) -> None:
        self.done = True
        for name, value in how.items():
            setattr(self, name, value)
        self._over.set()
        for function in self._callbacks:
            threading.Thread(target=function, args=(self,), daemon=True).start()

    def wait(self) -> None:
        assert self._over.wait(60)
        if self.part is not None:
            self.part.wait()


def failed(transaction: bytes | None) -> Any:
    return SimpleNamespace(kind="FAILED", transaction=transaction)


def test_a_hook_that_undoes_by_a_task_may_wait_for_it_though_that_fails() -> None:
    said: list[str] = []

    def undo(whole: Transaction) -> None:
        task = Future("undoes")
        assert Part.begin_one(task) is None, "what undoes is part of nothing that is undone"
        task.end(is_lost=True)
        task.wait()
        said.append("undone")

    def flow() -> None:
        with transaction() as whole:
            whole.stage("x", on_rollback_hooks=[undo])
            task = Future("fails")
            Part.begin_one(task)
            task.end(is_lost=True)
            task.wait()
        said.append(whole.state.name)

    thread = threading.Thread(target=flow, daemon=True)
    thread.start()
    thread.join(60)
    assert said == ["undone", "ROLLED_BACK"]


def test_a_task_that_was_never_sent_and_whose_error_was_seen_undoes_nothing() -> None:
    with transaction() as whole:
        task = Future("unsendable")
        part = Part.begin_one(task)
        assert part is not None
        part.leave()
        task.end(is_lost=True)
        other = Future("other")
        Part.begin_one(other)
        other.end(ending=SimpleNamespace(kind="COMPLETED", transaction=part_of(stand_for({"values": {}}))))
    assert whole.state is TransactionState.COMMITTED
    assert task.part is None


@pytest.mark.parametrize("kind", ["FAILED", "CRASHED"])
def test_a_task_that_was_given_up_before_its_own_transaction_ended_undoes_all(kind: str) -> None:
    with transaction() as whole:
        task = Future("late")
        Part.begin_one(task)
        # By its time limit: its stand-in on the worker has no child, or what its own tasks left there.
        stand_in = stand_for({"values": {}})
        task.end(ending=SimpleNamespace(kind=kind, transaction=part_of(stand_in)))
        task.wait()
    assert whole.state is TransactionState.ROLLED_BACK
