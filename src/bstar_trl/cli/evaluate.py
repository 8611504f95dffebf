"""`bstar-trl evaluate`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigurationError
from .train import options_text

NAME = "evaluate"
SUMMARY = "measure a model or an adapter on a file of questions and answers"
USAGE = "bstar-trl evaluate [CONFIG.yaml] [--key value ...] [--output_file FILE.json]"
ABOUT = (
    "Samples one greedy and K responses (--num_generations_eval) to every row, at --temperature, and prints "
    "exploration, exploitation, rewards and lengths with 95 % intervals (bootstrap over the queries). Takes the "
    "options and files of 'bstar-trl train'; of these, the rows of eval_dataset_name or dataset_test_split, if they "
    "name any."
)
EXAMPLE = "  bstar-trl evaluate --model_name_or_path out --dataset_name held_out.jsonl --output_file figures.json"
OUTPUT = "--output_file"


def run(words: Sequence[str]) -> int:
    """Evaluate; wrong words raise `ConfigurationError`."""
    if "-h" in words or "--help" in words:
        print(options_text(USAGE, ABOUT, EXAMPLE, shutil.get_terminal_size().columns))
        return 0
    words, path = _take_output(words)
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    from ..launch.evaluate import evaluate
    from ..launch.parsing import parse

    found = evaluate(parse(words))
    k, rows, t = found["num_generations"], found["rows"], found["temperature"]
    print(f"{rows} queries, {k} responses to each at temperature {t:g}; 95 % intervals over queries")
    width = max(map(len, found["figures"]))
    for name, figure in found["figures"].items():
        print(f"{name:<{width}}  {figure['mean']:9.4f}  {figure['low']:9.4f} to {figure['high']:.4f}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        print(f"Figures: {path}", file=sys.stderr)
    return 0


def _take_output(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without `--output_file`, and what it names."""
    rest = list(words)
    for place, word in enumerate(rest):
        if word.startswith(f"{OUTPUT}="):
            return [*rest[:place], *rest[place + 1 :]], Path(word.partition("=")[2])
        if word == OUTPUT:
            if place + 1 == len(rest):
                raise ConfigurationError(f"{OUTPUT} needs a file")
            return [*rest[:place], *rest[place + 2 :]], Path(rest[place + 1])
    return rest, None
