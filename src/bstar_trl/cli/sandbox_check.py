"""`bstar-trl sandbox-check`."""

from __future__ import annotations

import argparse
from typing import Any


def add_to(commands: Any) -> None:
    """Add the command."""
    check = commands.add_parser(
        "sandbox-check",
        help="check which layers of the sandbox work on this machine",
        description="Tries every layer of the sandbox that runs programs for UnitTests, and prints which layers hold "
        "and which ones this machine lacks. The exit status is 1 if a layer is missing.",
    )
    check.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from ..sandbox.probe import missing_layers, proofs

    holds = True
    for proof in proofs():
        holds &= proof.holds
        print(f"{'holds' if proof.holds else 'FAILS':<7}{proof.layer:<22}{proof.detail}")
    missing = missing_layers()
    for item in missing:
        print(f"missing: {item}")
    if not missing and holds:
        print("This machine gives every layer.")
    return int(bool(missing) or not holds)
