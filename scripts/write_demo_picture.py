"""Write docs/img/demo.svg: what a real run of the demo prints, as a picture.

Runs flows/quickstart.py with a console that records. Prefect's own log lines, which go to stderr, are not in
it; the dashboard's token is blacked out.
"""

from __future__ import annotations

import io
import os
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "img" / "demo.svg"
WIDTH = 104
_FONT = "DejaVu Sans Mono, Menlo, Consolas, monospace"


def main() -> None:
    """Run the demo, write the picture."""
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    import rich.console
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.terminal_theme import MONOKAI

    from prefect_coiled import progress

    take = progress.Board.__call__
    progress.Board.__call__ = (  # type: ignore[method-assign]
        lambda board, event: take(board, replace(event, text=re.sub(r"token=.*", "token=…", event.text)))
    )

    # Not a terminal: of the live board, which is drawn over and over, only the last state is recorded.
    console = rich.console.Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=False)
    console.print("[bold green]$[/] make demo")
    rich.console.Console = lambda *args, **kwargs: console  # type: ignore[misc, assignment]
    sys.argv = ["quickstart.py"]
    runpy.run_path(str(ROOT / "flows" / "quickstart.py"), run_name="__main__")

    # Nothing is fetched from elsewhere when the picture is looked at.
    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)
    form = form.replace("Fira Code", _FONT).replace("font-family: arial", "font-family: sans-serif")
    svg = console.export_svg(title="make demo", theme=MONOKAI, code_format=form, unique_id="demo")
    PICTURE.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)} written: {len(svg):,} characters")


if __name__ == "__main__":
    main()
