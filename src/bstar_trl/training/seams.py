"""What the package builds on in TRL and transformers beyond their documented interface, checked by signature.

The check looks at what is there, never at a version: a later TRL with the same seams works, and one without a seam is
refused with the name of what is missing.
"""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import version
from typing import Any, NamedTuple

import trl

from ..errors import UnsupportedOptionError, VersionError

TESTED = ("1.15.0", "1.16.0")
PARENT = "trl.trainer.grpo_trainer:GRPOTrainer"
ENGINE = "trl.generation.vllm_generation:VLLMGeneration"
CONSTRUCTOR = (
    "model reward_funcs args train_dataset eval_dataset processing_class reward_processing_classes callbacks "
    "optimizers quantization_config peft_config"
)


class Seam(NamedTuple):
    """A function, and how it is called.

    Attributes:
        owner (`str`): the class or module that has it, as `module:class` or `module`.
        name (`str`): its name.
        positional (`int`): positional arguments of the call, `self` not counted.
        keywords (`str`): keyword arguments of the call.
        of_trl (`bool`): TRL's own version is needed: the base class has one too, which does something else.
    """

    owner: str
    name: str
    positional: int = 0
    keywords: str = ""
    of_trl: bool = False


SEAMS = (
    # What the trainer overrides: called by the parents in this way, or never called at all.
    Seam(PARENT, "_prepare_inputs", 1, of_trl=True),
    Seam(PARENT, "compute_loss", 2, "num_items_in_batch", of_trl=True),
    Seam(PARENT, "training_step", 3),
    Seam(PARENT, "prediction_step", 3),
    Seam(PARENT, "get_train_dataloader"),
    Seam(PARENT, "evaluate", 0, "eval_dataset ignore_keys metric_key_prefix"),
    # What the trainer calls.
    Seam(PARENT, "__init__", 0, CONSTRUCTOR, of_trl=True),
    Seam(PARENT, "_get_per_token_logps_and_entropies", 4, of_trl=True),
    Seam(PARENT, "_set_signature_columns_if_needed", of_trl=True),
    Seam(PARENT, "log", 2, of_trl=True),
    Seam(PARENT, "create_scheduler", 2),
    Seam(PARENT, "add_callback", 1),
    Seam(PARENT, "train", 1),
    Seam(PARENT, "_save_checkpoint", 2),
    Seam(PARENT, "_load_best_model"),
    Seam(PARENT, "_load_optimizer_and_scheduler", 1),
    Seam(PARENT, "_get_output_dir", 0, "trial"),
    Seam(PARENT, "_remove_unused_columns", 1, "description"),
    Seam("trl.models.utils", "unwrap_model_for_generation", 2),
    Seam(ENGINE, "sync_weights"),
)

# What TRL's constructor sets.
ATTRIBUTES = "reward_func_names reward_processing_classes reward_weights _dist _logs"
GENERATE_ATTRIBUTES = "generation_kwargs"  # without vLLM alone
VLLM_ATTRIBUTES = "vllm_generation _last_loaded_step"
ENGINE_ATTRIBUTES = (
    "mode repetition_penalty top_p top_k min_p max_completion_length generation_kwargs structured_outputs_regex"
)
COLOCATED_ATTRIBUTES = "llm enable_sleep_mode _llm_weights_sleeping tensor_parallel_size"
SERVER_ATTRIBUTES = "vllm_client"  # of the main process alone


def check_seams() -> None:
    """Look for every function that the package overrides or calls, before a trainer is built.

    Raises:
        VersionError: a function is missing, or cannot be called as before; the message names it.
        UnsupportedOptionError: Unsloth has replaced TRL's trainer.
    """
    for cls in (*trl.GRPOTrainer.__mro__, *_find(PARENT).__mro__):
        if "unsloth" in f"{cls.__module__}.{cls.__name__}".lower():
            raise UnsupportedOptionError(
                "Unsloth has replaced TRL's GRPOTrainer by a class that it generates, with another loss and other "
                "generation, and BSTaRTrainer builds on TRL's own: do not import unsloth in this process"
            )
    _raise_if([problem for seam in SEAMS if (problem := _problem(seam))])


def check_attributes(trainer: Any) -> None:
    """Look for what a built trainer, and its vLLM engine or client, must hold.

    Raises:
        VersionError: an attribute is missing; the message names it.
    """
    uses_vllm = trainer.args.use_vllm
    missing = _missing(trainer, f"{ATTRIBUTES} {VLLM_ATTRIBUTES if uses_vllm else GENERATE_ATTRIBUTES}")
    if uses_vllm and not missing:
        engine = trainer.vllm_generation
        missing = _missing(engine, ENGINE_ATTRIBUTES)
        if not missing and engine.mode == "colocate":
            missing = _missing(engine, COLOCATED_ATTRIBUTES)
        elif not missing and trainer.accelerator.is_main_process:
            missing = _missing(engine, SERVER_ATTRIBUTES)
    _raise_if(missing)


def _problem(seam: Seam) -> str | None:
    where = seam.owner.rpartition(":")[2]
    try:
        function = getattr(_find(seam.owner), seam.name)
    except (ImportError, AttributeError):
        return f"{where}.{seam.name} is missing"
    if seam.of_trl and not function.__module__.startswith("trl."):
        return f"{where}.{seam.name} is missing (there is only that of {function.__module__})"
    signature = inspect.signature(function)
    owners = 1 if ":" in seam.owner else 0  # a method takes `self`
    try:
        signature.bind(*[None] * (owners + seam.positional), **dict.fromkeys(seam.keywords.split()))
    except TypeError as error:
        names = ", ".join(signature.parameters)
        return f"{where}.{seam.name}({names}) cannot be called as before ({error})"
    return None


def _missing(item: Any, names: str) -> list[str]:
    return [f"{type(item).__name__}.{name} is missing" for name in names.split() if not hasattr(item, name)]


def _find(owner: str) -> Any:
    module, _, name = owner.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise VersionError(
            f"bstar-trl cannot build on TRL {version('trl')} with transformers {version('transformers')}: "
            f"{'; '.join(problems)}. It was tested with TRL {' and '.join(TESTED)}"
        )
