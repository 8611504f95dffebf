"""`bstar-trl annotate`."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ConfigurationError
from .values import option, positive, seed, unescaped


def add_to(commands: Any) -> None:
    """Add the command."""
    annotate = commands.add_parser(
        "annotate",
        help="label the steps of sampled solutions by the answers of their completions (Math-Shepherd)",
        description="Samples solutions, completes each of their steps several times, and checks the answers. Writes "
        "training data for a process reward model, as parquet. An interrupted run continues.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = annotate.add_argument
    add("--model", required=True, help="samples the solutions: an id on the Hub, or a folder")
    add("--completer", metavar="MODEL", help="samples the completions; default: --model")
    add("--dataset", required=True, help="a file (.jsonl, .parquet, .csv), a folder, or an id on the Hub")
    add("--dataset_config", metavar="NAME", help="configuration of a dataset on the Hub")
    add("--split", default="train", help="split of a dataset on the Hub or of a saved folder")
    add("--prompt_column", default="prompt", metavar="NAME", help="the column of prompts")
    add("--limit", type=positive, metavar="N", help="only the first N queries")
    add("--output_dir", required=True, metavar="DIR", help="where the parquet shards go")
    add("--solutions", type=positive, default=15, metavar="N", help="solutions per query")
    add("--completions", type=positive, default=8, metavar="N", help="completions per step")
    add(
        "--labels",
        choices=("hard", "soft"),
        default="soft",
        help="soft: the share of right completions; hard: whether any is right, which needs fewer completions",
    )
    add("--temperature", type=float, default=1.0, metavar="T", help="of all sampling")
    add("--max_new_tokens", type=positive, default=1024, metavar="N", help="largest length of a solution")
    add("--separator", type=unescaped, default="\\n", metavar="TEXT", help="the text between two steps")
    add(
        "--stop",
        action="append",
        type=unescaped,
        default=[],
        metavar="TEXT",
        help="a text that ends a response, as EOS does; may be given several times",
    )
    add("--chat", action="store_true", help="send text prompts through the chat template")
    add("--verifier", default="answer", help="answer, choice, tests, or module:attribute")
    add("--engine", choices=("transformers", "vllm"), default="transformers", help="the sampling engine")
    add("--batch_size", type=positive, default=128, metavar="N", help="samples drawn at once (transformers)")
    add("--group_size", type=positive, default=16, metavar="N", help="queries per shard, annotated together")
    add(
        "--vllm_option",
        action="append",
        type=option,
        default=[],
        metavar="NAME=VALUE",
        help="passed on to vllm.LLM, like max_model_len=4096; may be given several times",
    )
    add("--seed", type=seed, default=0, help="seed of all sampling")
    annotate.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    from ..inputs.datasets import load_queries
    from ..inputs.rewards import load_verifier
    from ..prm_training.annotate import Recipe
    from ..prm_training.annotation_files import AnnotationFolder
    from ..training.checks import check_columns

    recipe = Recipe(**{field: getattr(parsed, field) for field in Recipe.__dataclass_fields__})
    if parsed.vllm_option and parsed.engine != "vllm":
        raise ConfigurationError(f"--vllm_option needs --engine vllm, got --engine {parsed.engine}")
    verifier = load_verifier(parsed.verifier)
    dataset = load_queries(
        parsed.dataset, config=parsed.dataset_config, split=parsed.split, prompt_column=parsed.prompt_column
    )
    if parsed.limit is not None:
        dataset = dataset.select(range(min(parsed.limit, len(dataset))))
    check_columns([verifier], dataset.column_names)
    names = ("model", "completer", "engine", "verifier", "stop", "batch_size")
    settings = {**{name: getattr(parsed, name) for name in names}, "vllm_option": dict(parsed.vllm_option)}
    folder = AnnotationFolder(parsed.output_dir, dataset, recipe, settings)
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
    from ..engines import TransformersEngine, VLLMEngine

    if parsed.engine == "transformers":
        return TransformersEngine(model, batch_size=parsed.batch_size, stop=parsed.stop)
    options = dict(parsed.vllm_option)
    if parsed.completer:
        options.setdefault("gpu_memory_utilization", 0.45)  # two models share the GPU
    return VLLMEngine(model, stop=parsed.stop, **options)
