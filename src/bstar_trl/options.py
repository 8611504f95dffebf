"""What users set, as dataclasses for the command line; light, so that `--help` does not wait for torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class DataOptions:
    """Which rows to train on, and how a row becomes a prompt.

    Args:
        dataset_name (`str`):
            A file (`.jsonl`, `.json`, `.parquet`, `.csv`), a folder of such files, or an id on the Hub.
        dataset_config (`str`, *optional*):
            Configuration of a dataset on the Hub.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            Split of a dataset on the Hub, or of a saved folder.
        eval_dataset_name (`str`, *optional*):
            The same for evaluation (`eval_strategy`). `None`: `dataset_test_split` of the training data.
        dataset_test_split (`str`, *optional*):
            Split to evaluate on.
        max_rows (`int`, *optional*):
            Only the first rows, of training and of evaluation.
        row_function (`str`, *optional*):
            `module:attribute` or `file.py:attribute` of a function that is given each row, a `dict`, and returns the
            columns to add or to change. It comes first.
        prompt_column (`str`, *optional*):
            The column with the question. `None`: `prompt`, `question` or `problem`, the first that is there.
        answer_column (`str`, *optional*):
            The column that becomes `answer`, which the verifiers of this package read. `None`: `answer`, or `solution`
            where there is no `answer`.
        prompt_template (`str`, *optional*):
            The prompt with the names of columns in braces, like `"Question: {question}\nAnswer:"`. `None`: the
            question itself.
        system_prompt (`str`, *optional*):
            What stands before the question in a conversation.
        chat (`bool`, *optional*):
            Whether a text prompt is sent as a conversation. `None`: where the tokenizer has a chat template.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "File (.jsonl, .json, .parquet, .csv), folder of files, or id on the Hub."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a dataset on the Hub."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_dataset_name: str | None = field(default=None, metadata={"help": "Rows for evaluation, as dataset_name."})
    dataset_test_split: str | None = field(default=None, metadata={"help": "Split to evaluate on."})
    max_rows: int | None = field(default=None, metadata={"help": "Only the first rows of the data."})
    row_function: str | None = field(
        default=None, metadata={"help": "file.py:function that is given a row and returns columns to add or change."}
    )
    prompt_column: str | None = field(
        default=None, metadata={"help": "The column with the question; by default prompt, question or problem."}
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "The column with the right answer; by default answer, or solution."}
    )
    prompt_template: str | None = field(
        default=None, metadata={"help": "The prompt, with columns in braces: 'Question: {question}'."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "What stands before the question in a chat."})
    chat: bool | None = field(
        default=None, metadata={"help": "Send prompts as a conversation; by default if the tokenizer has a template."}
    )


@dataclass
class BalanceOptions:
    """How temperature and threshold are chosen: the arguments of [`BalanceCallback`], where each is described.

    Args:
        temperatures, thresholds, search, allocation, reinvest, chance, smooth, threshold_on:
            As of [`BalanceCallback`].
        search_queries (`int`, *optional*):
            Its `num_queries`.
        paper (`bool`, *optional*, defaults to `False`):
            The method of the paper, `BalanceCallback.paper()`; of the other options it takes temperatures, thresholds
            and search_queries.
    """

    temperatures: list[float] | None = field(
        default=None, metadata={"help": "Candidates; by default 0.5 to 1.2 in steps of 0.1. One: it is fixed."}
    )
    thresholds: list[float] | None = field(
        default=None, metadata={"help": "Candidates; by default all that make a difference. One: it is fixed."}
    )
    search_queries: int | None = field(default=None, metadata={"help": "Queries that the temperature is chosen on."})
    search: Literal["slices", "grid"] | None = field(
        default=None, metadata={"help": "slices: each of them at one temperature; grid: each at every temperature."}
    )
    allocation: Literal["rounds", "fixed"] | None = field(
        default=None, metadata={"help": "rounds: sample until enough are good; fixed: K responses for every query."}
    )
    reinvest: Literal["hard"] | None = field(
        default=None, metadata={"help": "hard: what rounds save goes to queries without a good response."}
    )
    chance: str = field(
        default="estimate", metadata={"help": "How often wrong reasoning is accepted: a number in [0, 1)."}
    )
    smooth: bool = field(default=True, metadata={"help": "Share strength between neighbouring temperatures."})
    threshold_on: Literal["all", "probe"] = field(
        default="all", metadata={"help": "Responses that the threshold is chosen on."}
    )
    paper: bool = field(default=False, metadata={"help": "Search as the paper does: a grid, and K for every query."})


@dataclass
class RewardOptions:
    """What judges the responses.

    Args:
        rewards (`list[dict]` or `str`, *optional*):
            A list with an entry for each reward function: `name` (answer_match, multiple_choice, unit_tests,
            process_reward), `path` (`module:attribute` or `file.py:attribute`) or `model` (a reward model); `weight`;
            `label` (its name in logs and for `verifier`); and the function's arguments. On the command line as YAML:
            `"[{name: answer_match}]"`. `None`: the final answer (answer_match).
    """

    rewards: None | str | list[dict[str, Any]] = field(  # noqa: RUF036 - as `verifier` below
        default=None, metadata={"help": "YAML list of rewards, like [{name: answer_match}], which is the default."}
    )


@dataclass
class IterationOptions:
    """What B-STaR adds to GRPO's configuration; [`BSTaRConfig`] describes each of these options."""

    iteration_steps: int | None = field(default=None, metadata={"help": "Optimizer steps of one iteration."})
    queries_per_iteration: int | None = field(
        default=None, metadata={"help": "Queries explored in one iteration (N in the paper)."}
    )
    samples_per_iteration: int | None = field(
        default=None, metadata={"help": "Selected responses trained on in one iteration (M in the paper)."}
    )
    balance_target: float | None = field(
        default=None, metadata={"help": "Correct responses wanted per query (n*), in 1..num_generations."}
    )
    verifier: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser reads the type in second place
        default=None,
        metadata={"help": "Name or index of the reward function that says correct or not, or a list: [a, b]."},
    )
    correct_at: float | None = field(
        default=None, metadata={"help": "The smallest value of a verifier for a correct response."}
    )
    inheritance: Literal["online", "iterative", "restart"] = field(
        default="online", metadata={"help": "What an iteration takes over from the one before."}
    )
    generation_chunk_size: int | None = field(
        default=None, metadata={"help": "Completions in flight per process; by default 512 with vLLM, 128 without."}
    )
    merge_for_sampling: str = field(
        default="auto",
        metadata={"help": "Without vLLM: whether adapters are merged into a copy: auto, always or never."},
    )
