"""`prefect-coiled`, and `python -m prefect_coiled.cli`."""

from __future__ import annotations

import logging
import os

from prefect_coiled.cli import app


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
    # A paragraph on that would be the first thing that a person reads: https://docs.prefect.io/concepts/telemetry
    os.environ.setdefault("DO_NOT_TRACK", "1")
    app()


if __name__ == "__main__":
    run()
