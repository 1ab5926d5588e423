"""The board that shows how a cluster comes up."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from prefect_coiled import events, progress

LINK = "https://198.51.100.1:8787/status"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_token_of_the_dashboard_goes_to_terminals_alone(terminal: bool) -> None:
    written = StringIO()
    with progress.live_board(Console(file=written, force_terminal=terminal, width=200)):
        events.tell(events.Event("dashboard", f"{LINK}?token=secret", step="dashboard"))
    assert LINK in written.getvalue()
    assert ("token=secret" in written.getvalue()) == terminal
    assert not events.here().is_shown
