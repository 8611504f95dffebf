"""`bstar-trl report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NAME = "report.html"


def add_to(commands: Any) -> None:
    """Add the command."""
    report = commands.add_parser(
        "report",
        help="draw what one or several runs have logged, as a page that needs no network",
        description="Reads what a training has left in its output folder, whether it is finished, still going on or "
        "was killed, and writes a page with its curves and figures; several runs stand side by side.",
        epilog="example: bstar-trl report out other-out --output_file comparison.html",
    )
    report.add_argument("runs", nargs="+", metavar="RUN_DIR", help="the output_dir of a training, or a checkpoint")
    report.add_argument("--output_file", metavar="FILE", help=f"the page; default: {NAME} in the first RUN_DIR")
    report.add_argument("--png", metavar="FILE", help="the curves as a picture, too (needs bstar-trl[report])")
    report.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from ..reports.curves import load_pyplot, plot_curves
    from ..reports.page import render
    from ..reports.run_files import read_run

    if parsed.png is not None:
        load_pyplot()
    runs = [read_run(folder) for folder in parsed.runs]
    path = Path(parsed.output_file or Path(parsed.runs[0]) / NAME)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(runs), encoding="utf-8")
    print(f"Report: {path}")
    if parsed.png is not None:
        plot_curves({run.name: run.rows for run in runs}, parsed.png)
        print(f"Curves: {parsed.png}")
    return 0
