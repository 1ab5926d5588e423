"""Write docs/img/task-runners.svg: how fast small tasks are by each way to run them, from what was measured.

.venv/bin/python benchmarks/task_runner.py --tasks 1000 --how map --json measured.json
.venv/bin/python scripts/write_runners_picture.py measured.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "docs" / "img" / "task-runners.svg"
NAMES = {
    "plain": "plain Dask",
    "threads": "ThreadPoolTaskRunner",
    "dask": "DaskTaskRunner",
    "ours": "CoiledTaskRunner",
    "relay": "the same, by the relay",
}
PANELS = [
    ("tasks/s", "results here, tasks a second"),
    ("recorded/s", "shown as ended by the API, runs a second"),
]
WIDTH, BAR, GAP, LEFT, TOP = 760, 22, 8, 190, 44


def picture(rows: dict[str, dict[str, float]]) -> str:
    """The picture of one of the benchmark's tables."""
    parts, y = [], 0.0
    for figure, title in PANELS:
        shown = {way: row[figure] for way, row in rows.items() if figure in row}
        scale = (WIDTH - LEFT - 90) / max(shown.values())
        parts.append(f'<text x="20" y="{y + 28:.0f}" font-weight="bold">{title}</text>')
        y += TOP
        for way, value in shown.items():
            fill = "#6366f1" if way == "ours" else "#a5b4fc"
            parts += [
                f'<text x="{LEFT - 10}" y="{y + 16:.0f}" text-anchor="end">{NAMES[way]}</text>',
                f'<rect x="{LEFT}" y="{y:.0f}" width="{max(value * scale, 1):.0f}" height="{BAR}" rx="3" '
                f'fill="{fill}"/>',
                f'<text x="{LEFT + max(value * scale, 1) + 8:.0f}" y="{y + 16:.0f}">{value:.3g}</text>',
            ]
            y += BAR + GAP
        y += 12
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" '
        'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif" font-size="14" fill="#1f2937" '
        'role="img" aria-label="Small tasks by plain Dask, threads, DaskTaskRunner and CoiledTaskRunner">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{y:.0f}" fill="#ffffff"/>', *parts, "</svg>", ""])


def main() -> None:
    """Draw the first table of the file that is named."""
    tables = json.loads(Path(sys.argv[1]).read_text())
    OUT.write_text(picture(next(iter(tables.values()))))


if __name__ == "__main__":
    main()
