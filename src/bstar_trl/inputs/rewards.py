"""Reward functions by name: this package's own, `module:attribute`, `file.py:attribute`, reward models."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..arguments import meant
from ..errors import ConfigurationError
from ..rewards import AnswerMatch, MultipleChoice, ProcessReward, UnitTests
from ..rewards.base import RewardFn

VERIFIERS: dict[str, Callable[..., RewardFn]] = {
    "answer_match": AnswerMatch,
    "multiple_choice": MultipleChoice,
    "unit_tests": partial(UnitTests, progress=False),
}
REWARDS: dict[str, Callable[..., Any]] = {**VERIFIERS, "process_reward": ProcessReward}
SHORT = {"answer": "answer_match", "choice": "multiple_choice", "tests": "unit_tests"}  # as `annotate` names them


@dataclass(frozen=True)
class Rewards:
    """Reward functions as the trainer takes them.

    Args:
        functions (`list`): objects, functions, and ids of reward models.
        weights (`list[float]`, *optional*): one for each; `None`: all are 1.
    """

    functions: list[Any]
    weights: list[float] | None


def load_rewards(specs: Any) -> Rewards:
    """The reward functions of a configuration's list.

    Args:
        specs (`Sequence[Mapping]`): each has one of `name` (of this package's rewards), `path` (`module:attribute` or
            `file.py:attribute`) and `model` (a reward model: Hub id or folder), and may have a `weight`. Its `label`
            is the argument `name` of the reward function, what else it has are arguments under their own names.

    Raises:
        ConfigurationError: an entry names no reward function, or an argument that it does not take.
    """
    if not isinstance(specs, Sequence) or isinstance(specs, str) or not specs:
        raise ConfigurationError(
            f"rewards must be a list like [{{name: answer_match}}], with at least one entry; got {specs!r}"
        )
    functions, weights = [], []
    for number, spec in enumerate(specs, start=1):
        where = f"rewards, entry {number}"
        # Beside a name or a path, `model` is an argument of theirs.
        if (
            not isinstance(spec, Mapping)
            or {"name", "path"} <= spec.keys()
            or not {"name", "path", "model"} & spec.keys()
        ):
            raise ConfigurationError(
                f"{where}: must have one of name, path and model, like {{name: answer_match}}; got {spec!r}"
            )
        arguments = dict(spec)
        weight, label = arguments.pop("weight", 1.0), arguments.pop("label", None)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigurationError(f"{where}: weight must be a number, got {weight!r}")
        functions.append(_load(where, arguments, label))
        weights.append(float(weight))
    return Rewards(functions, weights if any(weight != 1 for weight in weights) else None)


def load_verifier(name: str) -> Any:
    """A verifier by its name, or by its path: a `RewardFn` class or object, or a function as in TRL.

    Raises:
        ConfigurationError: there is no such verifier.
    """
    full = SHORT.get(name, name)
    if full in VERIFIERS:
        return VERIFIERS[full]()
    if ":" not in name:
        known = ", ".join([*SHORT, *VERIFIERS])
        raise ConfigurationError(f"a verifier is one of {known}, or module:attribute; got {name!r}")
    return _made("verifier", name, imported(name), {})


def imported(path: str) -> Any:
    """What a path names: `module:attribute`, or `file.py:attribute`. The working directory is searched, too.

    Raises:
        ConfigurationError: it cannot be imported.
    """
    module_name, _, attribute = path.rpartition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"a path is module:attribute or file.py:attribute, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = (
            _from_file(str(Path(module_name).resolve()))
            if module_name.endswith(".py")
            else importlib.import_module(module_name)
        )
        return getattr(module, attribute)
    except (ImportError, AttributeError, OSError) as error:
        raise ConfigurationError(f"cannot import {path!r}: {error}") from error


@functools.cache  # two entries of one file are about one module
def _from_file(path: str) -> Any:
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # of any name that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.setdefault(name, module)  # so that worker processes find what they are sent
    return module


def _load(where: str, arguments: dict[str, Any], label: str | None) -> Any:
    called = {} if label is None else {"name": str(label)}
    if "model" in arguments and "name" not in arguments and "path" not in arguments:
        model = arguments.pop("model")
        if given := arguments | called:
            raise ConfigurationError(f"{where}: a reward model takes a weight alone, got {', '.join(given)}")
        if not isinstance(model, str):
            raise ConfigurationError(f"{where}: model must be a Hub id or a folder, got {model!r}")
        return model
    if "path" in arguments:
        path = str(arguments.pop("path"))
        try:
            found = imported(path)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        return _made(where, path, found, arguments | called)
    name = str(arguments.pop("name"))
    arguments |= called
    full = SHORT.get(name, name)
    if full not in REWARDS:
        raise ConfigurationError(f"{where}: there is no reward {name!r}{meant(name, REWARDS)}; {_known()}")
    _check_arguments(f"{where} ({name})", REWARDS[full], arguments)
    return REWARDS[full](**arguments)


def _made(where: str, path: str, found: Any, arguments: dict[str, Any]) -> Any:
    """The reward function itself: a class is called with its arguments, and so is a function that is given some."""
    if not callable(found):
        raise ConfigurationError(f"{where}: a reward must be callable, {path!r} is {type(found).__name__}")
    if arguments or isinstance(found, type):
        _check_arguments(f"{where} ({path})", found, arguments)
        found = found(**arguments)
    if not callable(found):
        raise ConfigurationError(f"{where}: {path!r} made {type(found).__name__}, which is not callable")
    return found


def _check_arguments(where: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(function).parameters
    if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        for name in arguments:
            if name not in parameters:
                known = ", ".join(parameters)
                raise ConfigurationError(
                    f"{where}: there is no argument {name!r}{meant(name, parameters)}; it takes {known}"
                )
    missing = [
        name
        for name, item in parameters.items()
        if item.default is item.empty and item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
    ]
    missing = [name for name in missing if name not in arguments]
    if missing:
        raise ConfigurationError(f"{where}: needs {', '.join(missing)}")


def _known() -> str:
    return f"there are {', '.join(REWARDS)}; others by path: module:attribute"
