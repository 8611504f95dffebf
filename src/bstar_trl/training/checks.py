"""What can be refused or warned about before any weight is loaded."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, IterableDataset

from ..callback import BalanceCallback
from ..config import BSTaRConfig
from ..errors import ConfigurationError, DatasetError, DatasetTypeError, UnsupportedOptionError
from ..rewards.base import RewardFn
from ..rollouts.scoring import check_columns, find_verifier, reward_name


def check_options(
    args: BSTaRConfig, train_dataset: Any, tools: Any, rollout_func: Any, environment_factory: Any
) -> None:
    """Refuse what B-STaR cannot do; warn once of what has no effect on it.

    Raises:
        UnsupportedOptionError: tools, environments, a rollout function.
        DatasetError: no training dataset.
        DatasetTypeError: a training dataset of another kind.
        ConfigurationError: a stream without `max_steps`, or with `dispatch_batches`.
    """
    for name, value in (
        ("tools", tools),
        ("rollout_func", rollout_func),
        ("environment_factory", environment_factory),
    ):
        if value:
            raise UnsupportedOptionError(f"{name} is not supported by BSTaRTrainer: leave it out")
    if train_dataset is None:
        raise DatasetError("`train_dataset` is required: its prompts are the queries that BSTaRTrainer explores")
    if not isinstance(train_dataset, Dataset | IterableDataset):
        raise DatasetTypeError(
            f"`train_dataset` must be a `Dataset` or `IterableDataset`, got `{type(train_dataset).__name__}`"
        )
    is_stream = isinstance(train_dataset, IterableDataset)
    accelerator_config: Any = args.accelerator_config
    if is_stream and accelerator_config.dispatch_batches:
        raise ConfigurationError("Iterable datasets require `dispatch_batches=False` in accelerator_config, as in TRL")
    if is_stream and args.max_steps <= 0:
        raise ConfigurationError(f"a stream of queries has no length: max_steps must be set, got {args.max_steps}")
    without_effect = args.ineffective_options()
    generation_kwargs = args.generation_kwargs if isinstance(args.generation_kwargs, dict) else {}
    if "temperature" in generation_kwargs:
        without_effect.append("generation_kwargs['temperature']")
    if not generation_kwargs.get("do_sample", True):
        without_effect.append("generation_kwargs['do_sample']")
    if without_effect:
        warnings.warn(
            f"these options have no effect on BSTaRTrainer: its loss is a likelihood of selected responses, "
            f"BalanceCallback sets its temperature, and rows need no loader: {', '.join(without_effect)}",
            stacklevel=3,
        )


def find_balance_callback(callbacks: Sequence[Any] | None, args: BSTaRConfig) -> tuple[BalanceCallback, list[Any]]:
    """The one `BalanceCallback` among the callbacks (an instance, or the class) or a default one, and the callbacks
    with it.

    Raises:
        ConfigurationError: there are several.
    """
    mine = list(filter(is_balance_callback, callbacks or []))
    if len(mine) > 1:
        raise ConfigurationError(f"there must be one BalanceCallback, got {len(mine)}")
    given = mine[0] if mine else BalanceCallback
    balance = given() if isinstance(given, type) else given
    if balance.probes and args.temperature != 1.0:
        warnings.warn(
            f"temperature={args.temperature:g} is the temperature of evaluation (and of a static run); the training's "
            "is chosen by BalanceCallback among its temperatures",
            stacklevel=3,
        )
    if not mine:
        return balance, [*(callbacks or []), balance]
    return balance, [balance if item is given else item for item in callbacks or []]


def is_balance_callback(item: Any) -> bool:
    """An instance or the class, of a subclass too."""
    return isinstance(item, BalanceCallback) or (isinstance(item, type) and issubclass(item, BalanceCallback))


def check_rewards(functions: Sequence[Any], args: BSTaRConfig) -> int:
    """Check names and weights of the rewards; returns the verifier's index.

    Functions of equal names are let through, as in TRL, where one's figures hide the other's.

    Raises:
        ConfigurationError: no reward, a `RewardFn` with the name of another reward, no (or no single) verifier, as
            many weights as there are not rewards, a weight or `correct_at` that is no finite number.
    """
    if not functions or functions[0] is None:
        raise ConfigurationError(
            "No reward source provided: BSTaRTrainer needs reward_funcs, at least the verifier of correctness"
        )
    if args.reward_weights is not None and len(args.reward_weights) != len(functions):
        raise ConfigurationError(
            f"reward_weights must hold one weight per reward: got {len(args.reward_weights)}, expected "
            f"{len(functions)} ({', '.join(map(reward_name, functions))})"
        )
    names = [reward_name(function) for function in functions]
    for function, name in zip(functions, names, strict=True):
        if isinstance(function, RewardFn) and names.count(name) > 1:
            raise ConfigurationError(
                f"{names.count(name)} rewards are called {name!r}, and one would hide the other in logs: give this "
                f"{type(function).__name__} a name of its own (name=...)"
            )
    verifier = find_verifier(functions, args.verifier)
    for weight in args.reward_weights or ():
        if not math.isfinite(weight):
            raise ConfigurationError(f"reward_weights must be finite numbers, got {args.reward_weights}")
    if not math.isfinite(getattr(functions[verifier], "correct_at", 1.0)):
        raise ConfigurationError(
            f"correct_at of reward '{reward_name(functions[verifier])}' must be a finite number, got "
            f"{functions[verifier].correct_at}"
        )
    return verifier


def check_datasets(functions: Sequence[Any], args: BSTaRConfig, train_dataset: Any, eval_dataset: Any) -> None:
    """Check that there are prompts and the rewards' columns in what is trained and evaluated on.

    Raises:
        DatasetError: a dataset without rows, without prompts, or without a reward's column.
        UnsupportedOptionError: image prompts.
        ConfigurationError: the best model goes by a figure that several evaluation datasets do not have.
    """
    check_dataset("training dataset", train_dataset, functions, args)
    if not isinstance(eval_dataset, dict):
        if eval_dataset is not None:
            check_dataset("evaluation dataset", eval_dataset, functions, args)
        return
    for name, dataset in eval_dataset.items():
        check_dataset(f"evaluation dataset {name!r}", dataset, functions, args)
    if args.wants_best_model and args.metric_for_best_model in ("pass@1", "eval_pass@1"):
        names = ", ".join(f"eval_{name}_pass@1" for name in eval_dataset)
        raise ConfigurationError(f"with several evaluation datasets metric_for_best_model must name one of: {names}")


def check_dataset(name: str, dataset: Any, functions: Sequence[Any], args: BSTaRConfig) -> None:
    """Check one dataset; `name` is what errors call it. A stream that does not say its columns is asked for a row."""
    columns = dataset.column_names
    if columns is None:
        columns = list(next(iter(dataset), {}))
    if not columns or (isinstance(dataset, Dataset) and not len(dataset)):
        raise DatasetError(f"the {name} holds no rows")
    if "prompt" not in columns:
        raise DatasetError(f"the {name} needs the column 'prompt', but it has {', '.join(columns)}")
    images = [column for column in ("image", "images") if column in columns]
    if images:
        raise UnsupportedOptionError(
            f"image prompts are not supported by BSTaRTrainer yet: remove the column {images[0]!r} of the {name}"
        )
    check_columns(functions, columns, remove_unused=bool(args.remove_unused_columns))
