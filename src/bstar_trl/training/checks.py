"""Checks before any weight is loaded: what is refused, and what is warned about."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, IterableDataset
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from trl import GRPOConfig

from ..callback import BalanceCallback
from ..config import BSTaRConfig, IterationPlan, as_bstar_config
from ..errors import ConfigurationError, DatasetError, DatasetTypeError, UnsupportedOptionError
from ..rewards.base import RewardFn
from ..rollouts.chance import chance_told
from ..rollouts.judging import COLUMN, Verifiers
from ..rollouts.scoring import TRL_KEYWORDS, reward_name
from .prompts import named_datasets
from .seams import check_seams
from .weights import refuse_8_bit

WHERE_THE_TRAINER_IS_BUILT = 4  # frames up: the check, `prepare`, the constructor, the user's script

PASS_METRICS = ("pass@1", "eval_pass@1")  # the default of `metric_for_best_model`
FIRST_ROWS = 32  # of a dataset, which are looked at before any weight is loaded


@dataclass(frozen=True)
class Prepared:
    """A trainer's arguments, checked and completed."""

    args: BSTaRConfig
    reward_funcs: list[Any]
    verifiers: Verifiers
    balance: BalanceCallback  # stands among the callbacks, too
    callbacks: list[Any]
    plan: IterationPlan


def prepare(
    model: Any,
    reward_funcs: Any,
    args: Any,
    train_dataset: Any,
    eval_dataset: Any,
    callbacks: Sequence[Any] | None,
    *,
    unsupported: Mapping[str, Any],
    quantization_config: Any = None,
) -> Prepared:
    """Check what can be checked before any weight is loaded, and decide the numbers of an iteration."""
    check_seams()
    model_id = model if isinstance(model, str) else str(model.config._name_or_path)
    warn_of_learning_rate(args)
    args = as_bstar_config(args, model_id.rstrip("/").split("/")[-1] or "model")
    check_options(args, train_dataset, unsupported)
    if args.use_vllm:
        refuse_8_bit(model, quantization_config, args.model_init_kwargs)
    balance, callbacks = find_balance_callback(callbacks, args)
    functions = list(reward_funcs) if isinstance(reward_funcs, list | tuple) else [reward_funcs]
    verifiers = check_rewards(functions, args)
    check_datasets(functions, args, train_dataset, eval_dataset, verifiers)
    plan = args.plan(len(train_dataset) if isinstance(train_dataset, Dataset) else None)
    balance.setup(
        plan,
        num_generations=args.num_generations,
        temperature=args.temperature,
        seed=args.seed,
        in_rounds=not verifiers.are_relative,
        ranked=len(functions) > len(verifiers.indices),
    )
    return Prepared(args, functions, verifiers, balance, callbacks, plan)


def warn_of_learning_rate(args: Any) -> None:
    """Warn of a `GRPOConfig` whose learning rate is GRPO's default: it is meant for policy gradients."""
    policy_gradient, likelihood = (
        next(item.default for item in dataclasses.fields(kind) if item.name == "learning_rate")
        for kind in (GRPOConfig, BSTaRConfig)
    )
    if isinstance(args, GRPOConfig) and not isinstance(args, BSTaRConfig) and args.learning_rate == policy_gradient:
        warnings.warn(
            f"learning_rate={policy_gradient:g} is GRPOConfig's default, for policy gradients; BSTaRTrainer's loss is "
            f"a likelihood, and the default of BSTaRConfig is {likelihood:g}. Set learning_rate, or use BSTaRConfig",
            stacklevel=WHERE_THE_TRAINER_IS_BUILT,
        )


def check_options(args: BSTaRConfig, train_dataset: Any, unsupported: Mapping[str, Any]) -> None:
    """Refuse options that B-STaR cannot honour; warn once of options without effect.

    Raises:
        UnsupportedOptionError: tools, environments, a rollout function.
        DatasetError: no training dataset.
        DatasetTypeError: a training dataset of another kind.
        ConfigurationError: a stream without `max_steps`, or with `dispatch_batches`.
    """
    for name, value in unsupported.items():
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
            stacklevel=WHERE_THE_TRAINER_IS_BUILT,
        )


def find_balance_callback(callbacks: Sequence[Any] | None, args: BSTaRConfig) -> tuple[BalanceCallback, list[Any]]:
    """The `BalanceCallback` among the callbacks (an instance, or the class) or a default one; and all callbacks."""
    mine = list(filter(is_balance_callback, callbacks or []))
    if len(mine) > 1:
        raise ConfigurationError(f"there must be one BalanceCallback, got {len(mine)}")
    given = mine[0] if mine else BalanceCallback
    balance = given() if isinstance(given, type) else given
    if balance.probes and args.temperature != 1.0:
        warnings.warn(
            f"temperature={args.temperature:g} is the temperature of evaluation (and of a static run); the training's "
            "is chosen by BalanceCallback among its temperatures",
            stacklevel=WHERE_THE_TRAINER_IS_BUILT,
        )
    if not mine:
        return balance, [*(callbacks or []), balance]
    return balance, [balance if item is given else item for item in callbacks or []]


def is_balance_callback(item: Any) -> bool:
    """An instance or the class, of a subclass too."""
    return isinstance(item, BalanceCallback) or (isinstance(item, type) and issubclass(item, BalanceCallback))


def check_rewards(functions: Sequence[Any], args: BSTaRConfig) -> Verifiers:
    """Check names and weights of the rewards; returns the verifiers among them.

    Functions of equal names are let through, as in TRL, where one's figures hide the other's.

    Raises:
        ConfigurationError: no reward, a `RewardFn` with the name of another reward, no verifier, a number of
            weights that differs from the number of rewards, a weight or `correct_at` that is not finite.
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
    indices = find_verifiers(functions, args.verifier)
    given: Any = args.correct_at
    limits = given if isinstance(given, dict) else {} if given is None else {names[indices[0]]: given}
    if not (limits.keys() <= {names[index] for index in indices} and all(map(_is_number, limits.values()))):
        raise ConfigurationError(f"correct_at must be a number, or numbers by the names of verifiers, got {given!r}")
    verifiers = Verifiers.of(functions, names, indices, given)
    for weight in args.reward_weights or ():
        if not math.isfinite(weight):
            raise ConfigurationError(f"reward_weights must be finite numbers, got {args.reward_weights}")
    for name, limit in zip(verifiers.names, verifiers.limits, strict=True):
        if limit is not None and not math.isfinite(limit):
            raise ConfigurationError(f"correct_at of reward '{name}' must be a finite number, got {limit}")
    return verifiers


def check_datasets(
    functions: Sequence[Any], args: BSTaRConfig, train_dataset: Any, eval_dataset: Any, verifiers: Verifiers
) -> None:
    """Check that there are prompts and the rewards' columns in what is trained and evaluated on.

    Raises:
        DatasetError: a dataset without rows, without prompts, or without a reward's column.
        UnsupportedOptionError: image prompts.
        ConfigurationError: the best model goes by a figure that does not exist.
    """
    for name, dataset in named_datasets(train_dataset, eval_dataset).items():
        check_dataset(name, dataset, functions, args, verifiers)
    if verifiers.are_relative and args.wants_best_model and "pass@" in str(args.metric_for_best_model):
        raise ConfigurationError(
            "a reward model alone does not say which responses are correct, so there is no pass@1: set "
            "metric_for_best_model, for example to 'eval_reward'"
        )
    if isinstance(eval_dataset, dict) and args.wants_best_model and args.metric_for_best_model in PASS_METRICS:
        names = ", ".join(f"eval_{name}_pass@1" for name in eval_dataset)
        raise ConfigurationError(f"with several evaluation datasets metric_for_best_model must name one of: {names}")


def check_dataset(name: str, dataset: Any, functions: Sequence[Any], args: BSTaRConfig, verifiers: Verifiers) -> None:
    """Check one dataset, its first rows and the first that fill a column; `name` is what errors call it."""
    columns = dataset.column_names
    is_empty = isinstance(dataset, Dataset) and not len(dataset)
    rows = [] if is_empty else list(itertools.islice(dataset, FIRST_ROWS))
    if not rows:
        raise DatasetError(f"the {name} holds no rows")
    columns = list(rows[0]) if columns is None else columns  # a stream may not know its columns
    if "prompt" not in columns:
        raise DatasetError(f"the {name} needs the column 'prompt', but it has {', '.join(columns)}")
    images = [column for column in ("image", "images") if column in columns]
    if images:
        raise UnsupportedOptionError(
            f"image prompts are not supported by BSTaRTrainer yet: remove the column {images[0]!r} of the {name}"
        )
    check_columns(functions, columns, remove_unused=bool(args.remove_unused_columns))
    if verifiers.are_several and COLUMN in columns and args.remove_unused_columns:
        raise DatasetError(
            f"the column {COLUMN!r} of the {name} says who judges a row, but remove_unused_columns=True takes it "
            "away: leave it at False"
        )
    if verifiers.are_several and COLUMN in columns and isinstance(dataset, Dataset):
        for value in dataset.unique(COLUMN):
            verifiers.of_row({COLUMN: value})
    for row in [*rows, *_first_filled(dataset, functions)]:
        judge = verifiers.of_row(row)
        for index, function in enumerate(functions):
            if isinstance(function, RewardFn) and (judge in (None, index) or index not in verifiers.indices):
                function.check_row(row)
        for index, verifier in zip(verifiers.indices, verifiers.names, strict=True):
            if judge in (None, index):
                chance_told(functions[index], verifier, row)


def _first_filled(dataset: Any, functions: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """The first row with a value in each column that a reward needs: a column may begin with many times `None`."""
    if not isinstance(dataset, Dataset):
        return  # a stream is read no further than its first rows
    needed = [column for function in functions if isinstance(function, RewardFn) for column in function.columns]
    for column in dict.fromkeys(needed):
        place = next((place for place, value in enumerate(dataset[column]) if value is not None), None)
        if place is not None:
            yield dataset[place]


def check_trainable(model: nn.Module) -> None:
    """Refuse a model without a parameter to train, as `PeftModel.from_pretrained` loads it.

    Raises:
        ConfigurationError: no parameter requires a gradient.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        return
    remedy = (
        "load the adapter with PeftModel.from_pretrained(..., is_trainable=True)"
        if any(isinstance(module, BaseTunerLayer) for module in model.modules())
        else "pass a peft_config, or set requires_grad on what is to be trained"
    )
    raise ConfigurationError(f"the model has no parameter that requires a gradient, so nothing would learn: {remedy}")


def find_verifiers(functions: Sequence[Any], wanted: Any) -> list[int]:
    """Which reward functions say *correct or not*.

    One function alone is the verifier. Among several, `wanted` names it (name or index), or lists those that each
    judge rows of their own; or exactly one of them is a verifier of the package.

    Raises:
        ConfigurationError: none, or more than one without being asked for, can be it.
    """
    names = [reward_name(function) for function in functions]
    listed = ", ".join(f"{index} {name!r}" for index, name in enumerate(names))
    if wanted is not None:
        found = [_place_of(item, names) for item in (wanted if isinstance(wanted, list | tuple) else [wanted])]
        places = [place for place in found if place is not None]
        if not found or len(set(places)) < len(found):
            raise ConfigurationError(
                f"verifier must be the name or index of one of the rewards ({listed}), or a list of some, got "
                f"{wanted!r}"
            )
        return places
    if len(functions) == 1:
        return [0]
    verifiers = [index for index, item in enumerate(functions) if isinstance(item, RewardFn) and item.is_verifier]
    if len(verifiers) != 1:
        raise ConfigurationError(
            "with several rewards exactly one must be the verifier, which says correct or not; "
            f"{len(verifiers) or 'none'} of these declare is_verifier=True: {listed}. Name the verifier: "
            "BSTaRConfig(verifier=...), or a list of names where each judges rows of its own"
        )
    return verifiers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _place_of(wanted: Any, names: Sequence[str]) -> int | None:
    if str(wanted).lstrip("-").isdigit() and str(wanted) not in names:
        return int(wanted) if 0 <= int(wanted) < len(names) else None
    return names.index(str(wanted)) if names.count(str(wanted)) == 1 else None


def check_columns(functions: Sequence[Any], columns: Sequence[str], *, remove_unused: bool = False) -> None:
    """Look for every column a reward needs: those a `RewardFn` names, and a function's parameters without default.

    With `remove_unused` (TRL's `remove_unused_columns`) rewards see no column but the prompt.

    Raises:
        DatasetError: a column is missing; the message names the reward and what the dataset has.
    """
    for function in functions:
        if isinstance(function, str | nn.Module):
            continue
        needed = function.columns if isinstance(function, RewardFn) else _required_parameters(function)
        if needed and remove_unused:
            raise DatasetError(
                f"reward '{reward_name(function)}' needs the dataset column(s) {', '.join(needed)}, which "
                "remove_unused_columns=True takes away: leave it at False"
            )
        missing = [name for name in needed if name not in columns]
        if missing:
            raise DatasetError(
                f"reward '{reward_name(function)}' needs the dataset column(s) {', '.join(missing)}, but the dataset "
                f"has {', '.join(columns)}"
            )


def _required_parameters(function: Any) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin: it does not say
        return ()
    return tuple(
        item.name
        for item in parameters
        if item.default is item.empty
        and item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
        and item.name not in TRL_KEYWORDS
        and item.name != "prompt"
    )
