"""The model that a run starts with: a folder, an id on the Hub, or an adapter upon one of these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, get_quantization_config

from ..errors import ConfigurationError

ADAPTER = "adapter_config.json"


def load_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer saved with a model, or with an adapter. `ConfigurationError`: there is none."""
    name = str(model.model_name_or_path)
    if Path(name).is_dir() and not any((Path(name) / file).is_file() for file in ("config.json", ADAPTER)):
        found = sorted(path.name for path in Path(name).glob("checkpoint-*"))
        raise ConfigurationError(
            f"the folder {name} holds no model (config.json) and no adapter ({ADAPTER})"
            + (f", but checkpoints: name one of {', '.join(f'{name}/{item}' for item in found)}" if found else "")
        )
    try:
        return AutoTokenizer.from_pretrained(name, revision=model.model_revision)
    except (OSError, ValueError) as error:
        where = "" if Path(name).exists() else "there is no such folder, and as an id on the Hub: "
        raise ConfigurationError(f"cannot load the tokenizer of {name!r}: {where}{error}") from error


def check_start(model: ModelConfig) -> None:
    """`ConfigurationError`: an adapter is to be trained upon an adapter. Its files would name the base alone."""
    name = str(model.model_name_or_path)
    if model.use_peft and (Path(name) / ADAPTER).is_file():
        raise ConfigurationError(
            f"{name} is an adapter. Another one trained upon it would name its base alone, and so lose what this one "
            "has learned: merge it (model.merge_and_unload()), save the result with its tokenizer, and start there"
        )


def load_start(model: ModelConfig, loading: dict[str, Any]) -> Any:
    """What the trainer takes as its model: the name, or of a folder with an adapter the base with the adapter in it.

    Args:
        model (`ModelConfig`): its `model_name_or_path`, and how it is quantised.
        loading (`dict`): further arguments of `from_pretrained`.

    Raises:
        ConfigurationError: the adapter's base cannot be loaded, or is quantised: merging would change its weights.
    """
    name = str(model.model_name_or_path)
    if not (Path(name) / ADAPTER).is_file():
        return name
    from peft import PeftConfig, PeftModel

    base = str(PeftConfig.from_pretrained(name).base_model_name_or_path)
    if get_quantization_config(model) is not None:
        raise ConfigurationError(
            f"{name} is an adapter of {base}, which is not merged into a quantised model: merge it first "
            "(model.merge_and_unload()), or leave load_in_4bit and load_in_8bit out"
        )
    try:
        loader: Any = AutoModelForCausalLM
        loaded = loader.from_pretrained(base, **loading)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load {base!r}, the base of the adapter {name!r}: {error}") from error
    merged = PeftModel.from_pretrained(loaded, name).merge_and_unload()
    merged.requires_grad_(True)  # as of a loaded model: PEFT has frozen it
    return merged
