"""A plugin for moto's own tests: what the sandbox corrects of moto holds in their process.

As in the sandbox's process: moto's switches, and every correction but the states of machines, which needs the
supervisor. Rules of AWS that are held before moto is asked are no part of it.
"""

from __future__ import annotations

import os

from prefect_coiled.sandbox.loading import prepare

prepare()

from prefect_coiled.sandbox.corrections import install  # noqa: E402  moto is loaded with its switches set
from prefect_coiled.sandbox.planes import make_plane  # noqa: E402
from prefect_coiled.sandbox.rules.account import History  # noqa: E402
from prefect_coiled.sandbox.settings import Settings  # noqa: E402

settings = Settings()
settings.update({"boot": "none"})
install(settings, make_plane(settings, "one"), History())


def pytest_collection_finish() -> None:
    """moto's tests leave its images out, to be quick; here an image that does not exist is refused."""
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "true"
