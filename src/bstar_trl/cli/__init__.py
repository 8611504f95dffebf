"""The command line, `bstar-trl ...`: one module per command. No other room prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import BStarError, ConfigurationError, DatasetError
from . import annotate, demo, env, evaluate, report, sandbox_check, train, train_prm
from .values import underscored

FAILED, WRONG_USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 the run failed, 2 wrong usage.

    Options are spelled as TRL spells them (`--output_dir`); hyphens are taken, too.
    """
    words = [underscored(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    try:
        return _run(words)
    except BStarError as error:
        print(f"bstar-trl: {error}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, ConfigurationError | DatasetError) else FAILED


def _run(words: Sequence[str]) -> int:
    for command in (train, evaluate):  # their options are TRL's, and argparse would have to load torch to know them
        if words[:1] == [command.NAME]:
            return command.run(words[1:])
    parser = argparse.ArgumentParser(prog="bstar-trl", description="B-STaR for TRL.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (train, evaluate):
        commands.add_parser(command.NAME, help=command.SUMMARY)
    for command in (report, demo, annotate, train_prm, sandbox_check, env):
        command.add_to(commands)
    parsed = parser.parse_args(words)
    if getattr(parsed, "setting", None) is not None and not parsed.static:
        parser.error("--setting needs --static: add --static, or leave --setting out")
    status: int = parsed.run(parsed)
    return status
