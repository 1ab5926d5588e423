"""Has a worker's process log what the flow's own would, by `PREFECT_LOGGING_LEVEL` and `..._EXTRA_LOGGERS`.

Prefect sets loggers up once a process, by that process's own environment: a worker's, long before it knows of
a flow run. Levels are a process's: where flow runs share one, the lowest that any of them asked for holds.

This module imports nothing that a bare worker lacks.
"""

from __future__ import annotations

import logging
import threading

from prefect.settings import get_current_settings

# Those to which Prefect's own `logging.yml` gives the level of the setting.
_LOGGERS = ("prefect", "prefect.extra", "prefect.client", "prefect.infrastructure")
_asked: set[int] = set()
_lock = threading.Lock()


def log_as_asked() -> None:
    """Set levels and extra loggers as the settings in context say."""
    settings = get_current_settings().logging
    level = logging.getLevelName(str(settings.level).upper())
    with _lock:
        if isinstance(level, int) and level not in _asked:
            _asked.add(level)
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(min(_asked))
        for name in settings.extra_loggers or ():
            logger = logging.getLogger(name)
            for handler in logging.getLogger("prefect.extra").handlers:
                if handler not in logger.handlers:
                    logger.addHandler(handler)
