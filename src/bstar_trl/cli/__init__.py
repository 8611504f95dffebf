"""The command line, `bstar-trl ...`: one module per command. No other room prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import BStarError
from . import annotate, demo, sandbox_check, train_prm


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bstar-trl", description="B-STaR for TRL.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, annotate, train_prm, sandbox_check):
        command.add_to(commands)
    parsed = parser.parse_args(arguments)
    if getattr(parsed, "setting", None) is not None and not parsed.static:
        parser.error("--setting needs --static: add --static, or leave --setting out")
    try:
        status: int = parsed.run(parsed)
        return status
    except BStarError as error:
        print(f"bstar-trl: {error}", file=sys.stderr)
        return 1
