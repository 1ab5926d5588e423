"""`python -m prefect_coiled.cli`."""

from prefect_coiled.cli import app

app()
