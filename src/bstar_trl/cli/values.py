"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any


def underscored(word: str) -> str:
    """An option as TRL spells it: `--output_dir=out` as `--output_dir=out`; other words as they are."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def unescaped(text: str) -> str:
    r"""The text with a typed `\n` or `\t` turned into a line break or tab."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def option(text: str) -> tuple[str, Any]:
    """`name=value`; the value is read as JSON, or else as text."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"must be like max_model_len=4096, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def positive(text: str) -> int:
    """A whole number, at least 1."""
    return _whole_number(text, 1)


def seed(text: str) -> int:
    """A whole number, at least 0."""
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
    return int(text)


def above_zero(text: str) -> float:
    """A finite number greater than 0."""
    return _number(text, "greater than 0", lambda value: 0 < value < math.inf)


def share(text: str) -> float:
    """A number in 0..1."""
    return _number(text, "in 0..1", lambda value: 0 <= value <= 1)


def _number(text: str, wanted: str, is_wanted: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
    if not is_wanted(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}")
    return value


def setting(text: str) -> tuple[float, float]:
    """A temperature and a threshold, `1.0,0.0`."""
    left, _, right = text.partition(",")
    try:
        temperature, threshold = float(left), float(right)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be two numbers like 1.0,0.0, got {text!r}") from None
    if not 0 < temperature < math.inf or not math.isfinite(threshold):
        raise argparse.ArgumentTypeError(f"temperature must be greater than 0, and both finite, got {text!r}")
    return temperature, threshold
