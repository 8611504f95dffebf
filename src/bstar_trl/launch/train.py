"""A training from its options to the adapter and its model card."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import ProgressCallback
from trl import get_peft_config, get_quantization_config

from ..callback import DEFAULT_TEMPERATURES, BalanceCallback
from ..errors import ConfigurationError
from ..luck import ESTIMATE
from ..options import BalanceOptions
from ..reports import LiveTable
from ..training.trainer import BSTaRTrainer
from .models import load_start, load_tokenizer
from .parsing import Options
from .prompts import evaluation_rows, training_rows

logger = logging.getLogger(__name__)


def build_trainer(options: Options, *, shows_table: bool = True) -> BSTaRTrainer:
    """The trainer of these options.

    Args:
        options (`Options`): as parsed.
        shows_table (`bool`): a line per iteration.

    Raises:
        ConfigurationError: options that cannot work, or a model that cannot be loaded.
        DatasetError: the data cannot be read, or lacks a column.
    """
    model, args = options.model, options.args
    tokenizer = load_tokenizer(model)
    is_chat = tokenizer.chat_template is not None
    rows = training_rows(options.data, is_chat=is_chat)
    held_out = evaluation_rows(options.data, is_chat=is_chat)
    if held_out is None and str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no":
        raise ConfigurationError("eval_strategy needs rows: set eval_dataset_name or dataset_test_split")
    loading: dict[str, Any] = {
        "dtype": model.dtype,
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
    }
    loading |= dict(args.model_init_kwargs or {})  # type: ignore[arg-type]
    start = load_start(model, loading)
    args.model_init_kwargs = loading if isinstance(start, str) else None
    if options.rewards.weights is not None:
        args.reward_weights = options.rewards.weights
    trainer = BSTaRTrainer(
        model=start,
        reward_funcs=options.rewards.functions,
        args=args,
        train_dataset=rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
        callbacks=[balance_of(options.balance), *([LiveTable()] if shows_table else [])],
    )
    trainer.remove_callback(ProgressCallback)  # its lines would interrupt the table
    return trainer


def balance_of(options: BalanceOptions) -> BalanceCallback:
    """The callback of these options. `ConfigurationError`: they contradict each other."""
    temperatures: Any = options.temperatures or DEFAULT_TEMPERATURES
    if options.paper:
        for name in ("search", "allocation", "reinvest"):
            if getattr(options, name) is not None:
                raise ConfigurationError(f"paper=true sets {name} itself: leave {name} out")
        grid: Any = {} if options.thresholds is None else {"thresholds": options.thresholds}
        return BalanceCallback.paper(temperatures, num_queries=options.search_queries, **grid)
    return BalanceCallback(
        temperatures,
        options.thresholds,
        options.search_queries,
        search=options.search,
        allocation=options.allocation,
        reinvest=options.reinvest,
        chance=_chance(options.chance),
        smooth=options.smooth,
        threshold_on=options.threshold_on,
    )


def run_training(trainer: BSTaRTrainer, dataset_name: str | None) -> None:
    """Train, going on where a killed run was; save the model, its card, and what the Hub is sent."""
    args = trainer.args
    resume: Any = args.resume_from_checkpoint
    if resume is None:
        resume = any(Path(str(args.output_dir)).glob("checkpoint-*/trainer_state.json"))
        if resume:
            logger.warning(
                "%s holds a checkpoint: the run goes on there (--resume_from_checkpoint false starts anew).",
                args.output_dir,
            )
    elif str(resume).lower() in ("true", "false"):
        resume = str(resume).lower() == "true"
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    trainer.create_model_card(dataset_name=dataset_name)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=dataset_name)


def _chance(text: str) -> Any:
    if text == ESTIMATE:
        return ESTIMATE
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"chance must be a number in [0, 1) or 'estimate', got {text!r}") from None
