"""`prefect-coiled`, and `python -m prefect_coiled.cli`."""

from __future__ import annotations

import logging
import os
import signal

from prefect_coiled.cli import app, written
from prefect_coiled.cli.interrupted import STATUS


def run() -> None:
    """Run the command line as this process, which is the command's own."""
    # Prefect's remarks on its temporary server are not what was asked for, nor what that server tells of its
    # use: the first time it fails now and then, with a page of traceback, while the database is being made.
    # Here and not in the application, whose callers in other processes keep their environment as it is.
    if "PREFECT_LOGGING_LEVEL" not in os.environ:
        os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"
        # What fails is told once, with its cause and the next step. Prefect would tell the same before, with
        # a traceback for each task and flow around it: that goes to the run's log alone.
        for name in ("prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(name).propagate = False
        # Nor what it says while it sends the last of that.
        for name in ("EventsWorker", "APILogWorker"):
            logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Nor a paragraph on that: https://docs.prefect.io/concepts/telemetry
    os.environ.setdefault("DO_NOT_TRACK", "1")
    output = written.begin()
    try:
        app()
    except SystemExit as ended:
        if not written.is_whole(output) and not ended.code:
            raise SystemExit(1) from None
        if ended.code == STATUS:
            # All is said. Another Ctrl-C ends what still waits, such as threads, without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise


if __name__ == "__main__":
    run()
