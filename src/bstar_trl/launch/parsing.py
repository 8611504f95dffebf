"""The words of a command line and a YAML file, as checked options."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import ModelConfig, TrlParser

from ..arguments import meant
from ..config import BSTaRConfig
from ..errors import ConfigurationError
from ..inputs.rewards import Rewards, load_rewards
from ..options import BalanceOptions, DataOptions, RewardOptions

LORA_RATE = 1e-4  # learning rate of adapters, unless it is set
GROUPS = (DataOptions, RewardOptions, BalanceOptions, BSTaRConfig, ModelConfig)
DEFAULT_REWARDS = ({"name": "answer_match"},)


@dataclass(frozen=True)
class Options:
    """Everything that a training is told.

    Args:
        data, balance, args, model: as of their classes.
        rewards (`Rewards`): the reward functions, ready.
    """

    data: DataOptions
    rewards: Rewards
    balance: BalanceOptions
    args: BSTaRConfig
    model: ModelConfig


class _Loader(yaml.SafeLoader):
    """Reads `no` in `save_strategy: no` as the word that it is, as YAML 1.2 does; of YAML 1.1 it is a `false`."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, form) for tag, form in resolvers if tag != _BOOL]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF"))


class Parser(TrlParser):
    """TRL's parser, whose errors are ours: without a usage of several screens."""

    def __init__(self) -> None:
        super().__init__(list[Any](GROUPS), prog="bstar-trl train", allow_abbrev=False)
        self.set_defaults(use_peft=True, lora_target_modules=["all-linear"])

    def error(self, message: str) -> NoReturn:
        """An option has a value that it does not take."""
        raise ConfigurationError(message)


def parse(words: Sequence[str]) -> Options:
    """Read the options of a training.

    Args:
        words (`Sequence[str]`): a YAML file first, or `--config FILE`, or none; then `--key value`, which overrides
            the file.

    Raises:
        ConfigurationError: there is no such file or key, or a value that the key does not take.
    """
    words = list(words)
    path = _take_path(words)
    config = {} if path is None else read_config(path)
    given = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    known = [item.name for group in GROUPS for item in dataclasses.fields(group) if item.init]
    for name in given:
        if name not in known:
            raise ConfigurationError(f"there is no option --{name}{meant(name, known)}")
    for name in config:
        if name not in known:
            raise ConfigurationError(f"{path}: there is no key {name!r}{meant(name, known)}")
    given += list(config)
    parser = Parser()
    typed, untyped = _as_words(config)
    parser.set_defaults_with_config(**untyped)
    try:
        data, rewards, balance, args, model, rest = parser.parse_args_into_dataclasses(
            [*typed, *words], return_remaining_strings=True
        )
    except (ValueError, TypeError) as error:  # of TRL's and transformers' own checks
        raise ConfigurationError(str(error)) from error
    if rest:
        raise ConfigurationError(f"{' '.join(rest)!r} belongs to no option (a value with spaces needs quotes)")
    if isinstance(args.verifier, str):  # an index is taken, too, and a list
        args.verifier = _from_yaml("verifier", args.verifier)
    for name, value in (("model_name_or_path", model.model_name_or_path), ("dataset_name", data.dataset_name)):
        if value is None:
            raise ConfigurationError(f"{name} is missing: name a folder or an id on the Hub")
    if "learning_rate" not in given and model.use_peft:
        args.learning_rate = LORA_RATE
    listed = rewards.rewards if rewards.rewards is not None else DEFAULT_REWARDS
    functions = load_rewards(_from_yaml("rewards", listed) if isinstance(listed, str) else listed)
    return Options(data, functions, balance, args, model)


def read_config(path: str) -> dict[str, Any]:
    """The keys of a YAML file; those below `env` become environment variables.

    Raises:
        ConfigurationError: there is no such file, or it holds something else than keys and values.
    """
    if not Path(path).is_file():
        raise ConfigurationError(f"there is no configuration file {path}")
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{path} must hold lines like 'key: value'")
    variables = config.pop("env", None) or {}
    if not isinstance(variables, dict):
        raise ConfigurationError(f"{path}: env must hold lines like 'NAME: value', got {variables!r}")
    os.environ |= {str(name): str(value) for name, value in variables.items()}
    return {str(name): value for name, value in config.items()}


def _take_path(words: list[str]) -> str | None:
    """Remove the configuration's path from the words."""
    for place, word in enumerate(words):
        if word.startswith("--config="):
            return words.pop(place).partition("=")[2]
        if word == "--config":
            if place + 1 == len(words):
                raise ConfigurationError("--config needs a file")
            return [words.pop(place), words.pop(place)][1]
    return words.pop(0) if words and not words[0].startswith("-") else None


def _as_words(config: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """A file's values as words, which the parser checks like typed ones; and those that cannot be typed."""
    words: list[str] = []
    untyped: dict[str, Any] = {}
    for name, value in config.items():
        if name == "verifier" and isinstance(value, list):  # one word to the parser
            words.append(f"--{name}={yaml.safe_dump(value, default_flow_style=True)}")
        elif isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
            words += [f"--{name}", *map(str, value)]
        elif value is None or isinstance(value, list | dict):
            untyped[name] = value
        else:
            words.append(f"--{name}={value}")
    return words, untyped


def _from_yaml(name: str, text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name} is no YAML: {error}") from error
