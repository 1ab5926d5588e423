"""Replaces a worker's process in which the thread of a task that was given up does not come back.

Python cannot end a thread. It keeps its memory, its locks and its connections, and whatever it does after
all. So a worker with a nanny takes no more work, waits for what else runs there, has its results moved to
other workers, and ends; its nanny starts it anew, under its name. Where the results have nowhere to go, or
something else runs for long, it goes on as it is, and tries again later.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import distributed
from distributed.core import Status
from prefect.logging import get_logger

from prefect_coiled.plan.node_config import RENEWED

# Seconds that a thread has to come back by itself; that other tasks have to end, while no new ones come;
# and between two attempts.
BACK, HELD, AGAIN = 30.0, 60.0, 300.0
_LOOK = 0.5
# Workers that somebody sees to: several threads of one may be stuck.
_seen_to: set[str] = set()


def renew_if_stuck(thread: threading.Thread, flush: Callable[[], object], about: dict[str, str]) -> None:
    """Have the process of this thread's worker replaced, if another thread does not come back.

    Args:
        thread: Runs a task that was given up.
        flush: Sends what the process still holds for the Prefect API; may block.
    """
    worker = distributed.get_worker()
    context = copy_context()

    def say(text: str, *values: object) -> None:
        context.run(get_logger("prefect.task_runs").warning, text, *values, extra=about)

    work: Coroutine[Any, Any, None] = _see_to(worker, thread, flush, say)
    asyncio.run_coroutine_threadsafe(work, worker.loop.asyncio_loop)


async def _see_to(
    worker: Any, thread: threading.Thread, flush: Callable[[], object], say: Callable[..., None]
) -> None:
    if await _until(lambda: not thread.is_alive(), BACK) or worker.nanny is None or worker.id in _seen_to:
        return
    _seen_to.add(worker.id)
    say(
        "A thread of worker %s has not come back for %.0f s after it was given up: the worker's process is "
        "replaced as soon as nothing else runs there and its results are on other workers.",
        worker.name,
        BACK,
    )
    try:
        while thread.is_alive() and worker.status == Status.running:
            # As the scheduler does it itself before it retires a worker: it gets no more tasks.
            worker.status = Status.closing_gracefully
            if await _until(lambda: not worker.state.all_running_tasks, HELD):
                await asyncio.to_thread(flush)
                if await _retire(worker):
                    await worker.close(nanny=False, reason="prefect-coiled-stuck-thread")
                    return
            if worker.status == Status.closing_gracefully:
                worker.status = Status.running
            await asyncio.sleep(AGAIN)
    finally:
        _seen_to.discard(worker.id)


async def _retire(worker: Any) -> bool:
    """Have the scheduler forget a worker, once no result is there alone; False where that cannot be."""
    stimulus = f"{RENEWED}-{time.time()}"
    request = worker.scheduler.retire_workers(
        workers=[worker.address], close_workers=False, remove=True, stimulus_id=stimulus
    )
    return bool(await request)


async def _until(so: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so, at most some seconds; says whether it is."""
    deadline = time.monotonic() + seconds
    while not so():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK)
    return True
