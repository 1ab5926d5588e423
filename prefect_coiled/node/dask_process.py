"""The Dask process of a machine: one scheduler, or the nannies of its workers. Nothing else imports Dask.

The agent starts it early, so that Dask is imported while keys are fetched; then one line of JSON on its
standard input says what to run, and later lines ask for things ("drain"). It answers on a pipe: "ready",
"alive" again and again while its event loop runs, "ended REASON". End of input means that the agent is
gone, and ends it too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from prefect_coiled.plan.node_config import ENDPOINT_VARIABLE, MACHINE_VARIABLE, NodeConfig

logger = logging.getLogger("distributed.node")

# Seconds between two signs of life.
PULSE_S = 10.0
# Dask's settings that nobody overrides: nothing speaks or listens without TLS.
_TLS = "distributed.comm.tls"
_TCP = "distributed.comm.timeouts.tcp"


def main() -> None:
    """Entry point of `python -m prefect_coiled.node.dask_process STATUS_FD`."""
    status = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    os.set_inheritable(status.fileno(), False)
    import distributed  # noqa: F401  # early: this takes longer than all the rest

    line = sys.stdin.readline()
    if not line:
        return
    order = json.loads(line)
    settle(order)
    gc.set_threshold(*(3 * n for n in gc.get_threshold()))  # as dask's own commands do
    from distributed.compatibility import asyncio_run
    from distributed.config import get_loop_factory

    def tell(text: str) -> None:
        # The agent may be gone already.
        try:
            status.write(text + "\n")
        except OSError:
            logger.info("agent is gone: %s", text)

    async def live() -> None:
        # Told before the loop closes, which waits for its threads: one may hang in a call of AWS's. The agent
        # waits no longer than a while from here on.
        tell(f"ended {await _run(order, tell)}")

    asyncio_run(live(), loop_factory=get_loop_factory())


def settle(order: dict[str, Any]) -> None:
    """Put environment and Dask configuration in place, before anything of Dask is made.

    What spawns from here (the worker, and what tasks start) finds the cluster's keys in DASK_* variables,
    so that `get_client()` and `Client(address)` work inside tasks.
    """
    import dask
    from distributed.config import initialize_logging

    files = order["files"]
    # Where the machine's own calls go, whatever the user's variables say.
    order["aws_endpoint"] = os.environ.get("AWS_ENDPOINT_URL", "")
    tls: dict[str, Any] = {f"{_TLS}.ca-file": files["ca"], "distributed.comm.require-encryption": True}
    for role in ("scheduler", "worker", "client"):
        tls[f"{_TLS}.{role}.cert"] = files["cert"]
        tls[f"{_TLS}.{role}.key"] = files["key"]
    os.environ.setdefault("AWS_DEFAULT_REGION", order["config"]["region"])
    os.environ.setdefault("PREFECT_COILED_ACCOUNT", order["config"]["account"])
    os.environ.update(order["environ"])
    os.environ[MACHINE_VARIABLE] = str(order.get("instance_id", ""))
    os.environ[ENDPOINT_VARIABLE] = order["aws_endpoint"]
    for name, value in tls.items():
        os.environ["DASK_" + name.replace(".", "__").replace("-", "_").upper()] = str(value)
    dask.config.refresh()
    dask.config.update(dask.config.config, order["dask_config"])
    dask.config.set(tls)
    dask.config.set(
        {
            "distributed.scheduler.dashboard.tls.cert": files["cert"],
            "distributed.scheduler.dashboard.tls.key": files["key"],
            "distributed.scheduler.dashboard.tls.ca-file": None,
            "temporary-directory": order["scratch"],
            # A worker serves no pages: neither its metrics nor its own dashboard.
            "distributed.worker.http.routes": [],
        }
    )
    if dask.config.get(_TCP) == dask.config.get(_TCP, config=dask.config.merge(*dask.config.defaults)):
        # A peer whose plug was pulled says nothing: how long until that counts as lost. Who said it knows.
        dask.config.set({_TCP: min(30.0, order["config"]["scheduler_lost_timeout"])})
    # Importing Dask has set its logging up; the configuration that came now replaces that.
    for name in logging.Logger.manager.loggerDict:
        logging.getLogger(name).handlers.clear()
    initialize_logging(dask.config.config)


async def _run(order: dict[str, Any], tell: Callable[[str], None]) -> str:
    config = NodeConfig.model_validate(order["config"])
    if config.role == "scheduler":
        from prefect_coiled.node.scheduler_role import SchedulerRole

        role: Any = SchedulerRole(config, order)
    else:
        from prefect_coiled.node.worker import WorkerRole

        role = WorkerRole(config, order)
    loop = asyncio.get_running_loop()
    asked: asyncio.Event = asyncio.Event()
    why = ["closed"]

    def stop(reason: str) -> None:
        if not asked.is_set():
            why[0] = reason
            asked.set()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "drain":
                asyncio.run_coroutine_threadsafe(drain(), loop)
        loop.call_soon_threadsafe(stop, "agent-gone")

    async def drain() -> None:
        await role.drain(order.get("drain_s", 100.0))
        stop("spot")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, "stopped")
    threading.Thread(target=listen, name="orders", daemon=True).start()

    async def live() -> None:
        await role.start()
        tell("ready")
        await role.finished()

    async def pulse() -> None:
        while True:
            tell("alive")
            await asyncio.sleep(order.get("pulse_s", PULSE_S))

    beat = asyncio.create_task(pulse())
    tasks = [asyncio.create_task(live()), asyncio.create_task(asked.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    beat.cancel()
    if asked.is_set():
        await role.close(why[0])
        tasks[0].cancel()
        return why[0]
    tasks[1].cancel()
    await tasks[0]  # raises what made it fail
    return str(role.reason)


if __name__ == "__main__":
    main()
