"""The command line, `bstar-trl ...`: the only room that prints."""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import __version__
from .errors import BStarError

COLUMNS = (
    ("temperature", "T", "{:.1f}"),
    ("threshold", "tau", "{:.2f}"),
    ("balance_score", "balance", "{:.3f}"),
    ("selected", "selected", "{:d}"),
    ("lucky_share", "lucky", "{:.3f}"),
    ("pass@1", "pass@1", "{:.3f}"),
    ("valid@1", "valid@1", "{:.3f}"),
    ("distinct_valid", "distinct", "{:.2f}"),
    ("valid@1_6", "valid@1_6", "{:.3f}"),
    ("greedy_valid_6", "greedy_6", "{:.3f}"),
    ("seconds", "seconds", "{:.0f}"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if getattr(parsed, "setting", None) is not None and not parsed.static:
        parser.error("--setting is that of a --static run: add --static, or leave it out")
    try:
        return parsed.run(parsed)
    except BStarError as error:
        print(f"bstar-trl: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bstar-trl", description="B-STaR for TRL.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train a tiny policy on sums modulo 10, on the CPU, in minutes",
        description="B-STaR on the testbed: a tiny policy learns to add modulo 10 from its own chains of reasoning. "
        "Writes summary.json and curves.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output-dir", default="demo-out", metavar="DIR", help="where the results go")
    demo.add_argument("--iterations", type=_positive, default=8, metavar="N", help="iterations to train")
    demo.add_argument("--seed", type=_seed, default=0, help="seed of data, sampling and training")
    demo.add_argument(
        "--static",
        action="store_true",
        help="fixed temperature 1 and threshold 0, with as many completions in all as the balanced run",
    )
    demo.add_argument(
        "--reward",
        choices=("checker", "answer"),
        default="checker",
        help="the answer and a noisy step checker, or the answer alone",
    )
    demo.add_argument(
        "--setting",
        type=_setting,
        metavar="T,TAU",
        help="temperature and threshold of a --static run instead of 1.0,0.0",
    )
    demo.set_defaults(run=_demo)
    _add_annotate(commands)
    check = commands.add_parser(
        "sandbox-check",
        help="what this machine gives to the sandbox of UnitTests",
        description="Tries every layer of the sandbox that runs programs for UnitTests, and says what holds and what "
        "this machine lacks. Exit status 1 where a layer is missing.",
    )
    check.set_defaults(run=_sandbox_check)
    return parser


def _add_annotate(commands: Any) -> None:
    annotate = commands.add_parser(
        "annotate",
        help="label the steps of sampled solutions by what becomes of them (Math-Shepherd)",
        description="Samples solutions, completes every step of theirs several times, and checks the answers: data "
        "for a process reward model, as parquet. A run that was interrupted goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = annotate.add_argument
    add("--model", required=True, help="samples the solutions: an id on the Hub, or a folder")
    add("--completer", metavar="MODEL", help="samples the completions, instead of the same model")
    add("--dataset", required=True, help="a file (.jsonl, .parquet, .csv), a saved folder, or an id on the Hub")
    add("--dataset-config", metavar="NAME", help="configuration of a dataset on the Hub")
    add("--split", default="train", help="split of a dataset on the Hub or of a saved folder")
    add("--prompt-column", default="prompt", metavar="NAME", help="the column of prompts")
    add("--limit", type=_positive, metavar="N", help="the first N queries alone")
    add("--output-dir", required=True, metavar="DIR", help="where the parquet shards go")
    add("--solutions", type=_positive, default=15, metavar="N", help="solutions per query")
    add("--completions", type=_positive, default=8, metavar="N", help="completions per step")
    add(
        "--labels",
        choices=("hard", "soft"),
        default="soft",
        help="soft: the share of right completions; hard: whether any is right, which needs fewer of them",
    )
    add("--temperature", type=float, default=1.0, metavar="T", help="of all sampling")
    add("--max-new-tokens", type=_positive, default=1024, metavar="N", help="length of a solution at most")
    add("--separator", type=_unescaped, default="\\n", metavar="TEXT", help="what stands between two steps")
    add(
        "--stop",
        action="append",
        type=_unescaped,
        default=[],
        metavar="TEXT",
        help="what ends a response, beside EOS; may be given several times",
    )
    add("--chat", action="store_true", help="send prompts that are texts through the chat template")
    add("--verifier", default="answer", help="answer, choice, tests, or module:attribute")
    add("--engine", choices=("transformers", "vllm"), default="transformers", help="what samples")
    add("--batch-size", type=_positive, default=128, metavar="N", help="samples drawn at once (transformers)")
    add("--group-size", type=_positive, default=16, metavar="N", help="queries annotated together: a shard")
    add(
        "--vllm-option",
        action="append",
        type=_option,
        default=[],
        metavar="NAME=VALUE",
        help="passed on to vllm.LLM, like max_model_len=4096; may be given several times",
    )
    add("--seed", type=_seed, default=0, help="seed of all sampling")
    annotate.set_defaults(run=_annotate)


def _unescaped(text: str) -> str:
    r"""`\n` and `\t` as typed in a shell."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _option(text: str) -> tuple[str, Any]:
    """`name=value`, the value as JSON where it is that, else as text."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals:
        raise argparse.ArgumentTypeError(f"must be like max_model_len=4096, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _seed(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
    return int(text)


def _setting(text: str) -> tuple[float, float]:
    left, _, right = text.partition(",")
    try:
        temperature, threshold = float(left), float(right)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be two numbers like 1.0,0.0, got {text!r}") from None
    if not 0 < temperature < math.inf or not math.isfinite(threshold):
        raise argparse.ArgumentTypeError(f"temperature must be greater than 0, and both finite, got {text!r}")
    return temperature, threshold


def _demo(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    # The libraries' notes to their own callers would tear the table.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch
    from tqdm.auto import tqdm

    # So small a model gains nothing from a second thread, and every machine gives the same figures with one.
    torch.set_num_threads(1)

    from .report import plot_curves
    from .testbed.demo import run_demo

    rows = 0

    def show(row: dict[str, Any]) -> None:
        nonlocal rows
        cells = [template.format(row[name]) if name in row else "" for name, _, template in COLUMNS]
        tqdm.write(_line("start" if rows == 0 else str(rows), cells))
        rows += 1

    method = "static" if parsed.static else "balanced"
    print(f"B-STaR on sums modulo 10: {method}, reward {parsed.reward}, seed {parsed.seed}")
    print(_line("iteration", [title for _, title, _ in COLUMNS]))
    summary = run_demo(
        parsed.output_dir,
        iterations=parsed.iterations,
        seed=parsed.seed,
        static=parsed.static,
        reward=parsed.reward,
        setting=parsed.setting or (1.0, 0.0),
        on_row=show,
    )
    picture = Path(parsed.output_dir) / "curves.png"
    plot_curves({method: summary}, picture)
    initial, final = summary["initial"]["valid@1"], summary["final"]["valid@1"]
    print(f"valid@1 went from {initial:.3f} to {final:.3f}.")
    print(f"Figures: {Path(parsed.output_dir) / 'summary.json'}\nCurves: {picture}")
    return 0


def _annotate(parsed: argparse.Namespace) -> int:
    from .process_rewards.annotate import Recipe
    from .process_rewards.annotation_files import AnnotationFolder
    from .process_rewards.inputs import load_queries, load_verifier
    from .scoring import check_columns

    recipe = Recipe(**{field: getattr(parsed, field) for field in Recipe.__dataclass_fields__})
    verifier = load_verifier(parsed.verifier)
    dataset = load_queries(
        parsed.dataset, config=parsed.dataset_config, split=parsed.split, prompt_column=parsed.prompt_column
    )
    if parsed.limit is not None:
        dataset = dataset.select(range(min(parsed.limit, len(dataset))))
    check_columns([verifier], dataset.column_names)
    names = ("model", "completer", "engine", "verifier", "stop", "batch_size")
    folder = AnnotationFolder(parsed.output_dir, dataset, recipe, {name: getattr(parsed, name) for name in names})
    if folder.unfinished:
        engine = _load_engine(parsed, parsed.model)
        completer = _load_engine(parsed, parsed.completer) if parsed.completer else None
        folder.fill(engine, verifier, completer=completer)
    counts = folder.counts()
    print(f"{counts.solutions} solutions of {counts.queries} queries, {counts.steps} steps: {folder.path}/*.parquet")
    print(f"right steps: {counts.right_steps / max(counts.steps, 1):.1%}")
    print(
        f"completions: {counts.completions}, of {counts.naive} without savings "
        f"({counts.completions / max(counts.naive, 1):.1%})"
    )
    if counts.without_steps:
        print(f"left out: {counts.without_steps} solutions without a finished step")
    if counts.unjudged:
        print(f"left out: {counts.unjudged} queries that the verifier could not judge")
    return 0


def _load_engine(parsed: argparse.Namespace, model: str) -> Any:
    from .engines import TransformersEngine, VLLMEngine

    if parsed.engine == "transformers":
        return TransformersEngine(model, batch_size=parsed.batch_size, stop=parsed.stop)
    options = dict(parsed.vllm_option)
    if parsed.completer:
        options.setdefault("gpu_memory_utilization", 0.45)  # two models share the GPU
    return VLLMEngine(model, stop=parsed.stop, **options)


def _sandbox_check(parsed: argparse.Namespace) -> int:
    from .sandbox.probe import missing_layers, proofs

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


def _line(first: str, cells: Sequence[str]) -> str:
    return f"{first:>9}" + "".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
