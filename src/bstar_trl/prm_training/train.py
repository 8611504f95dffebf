"""Train a process reward model: token classification with transformers' `Trainer`, a label at each step's end."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from torch.utils.data import Sampler, SequentialSampler
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    EvalPrediction,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from ..errors import BStarError, ConfigurationError
from ..prm.steps import SEPARATOR
from .data import IGNORED, Encoding, encode_rows
from .scorecard import evaluate_steps

LABELS = {0: "wrong", 1: "right"}
HEADS = ("score", "classifier")  # what architectures call the layer that classifies


class StepTrainer(Trainer):
    """`Trainer` for step labels that are probabilities; it measures with `evaluate_steps`.

    Overridden: `_get_eval_sampler`, since the rows' order must survive evaluation (solutions of one prompt belong
    together), which grouping by length would lose.

    Args:
        model: a token classifier with two classes, the second one being "right".
        args (`TrainingArguments`): transformers' own; `prm_arguments` has defaults that suit.
        train (`Encoding`): what to train on.
        evaluation (`tuple[Encoding, Dataset]`, *optional*): what to measure on, and the rows it was made of.
        tokenizer: the model's.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train: Encoding,
        evaluation: tuple[Encoding, Dataset] | None,
        tokenizer: Any,
        **kwargs: Any,
    ):
        self._evaluation = evaluation
        super().__init__(
            model=model,
            args=args,
            train_dataset=train.dataset,
            eval_dataset=None if evaluation is None else evaluation[0].dataset,
            processing_class=tokenizer,
            data_collator=StepCollator(tokenizer),
            compute_loss_func=step_loss,
            preprocess_logits_for_metrics=right_probabilities,
            compute_metrics=self._measure,
            **kwargs,
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        return SequentialSampler(eval_dataset)

    def _measure(self, prediction: EvalPrediction) -> dict[str, float]:
        assert self._evaluation is not None
        encoding, rows = self._evaluation
        probabilities = []
        for found, labels, row in zip(prediction.predictions, prediction.label_ids, encoding.dataset, strict=True):
            positions, targets = np.array(row["positions"]), np.array(row["targets"], dtype=np.float32)
            if not np.array_equal(labels[positions], targets):
                raise BStarError("evaluation returned rows in another order than it was given")
            probabilities.append(found[positions].astype(np.float64))
        return evaluate_steps(probabilities, encoding.dataset, rows)


class StepCollator:
    """Pads on the right; a step's label stands at the token that closes it, `IGNORED` everywhere else."""

    def __init__(self, tokenizer: Any):
        self._pad = next(item for item in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if item is not None)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (B, L), `labels` (B, L) as floats."""
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        batch = {
            "input_ids": torch.full(shape, self._pad),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "labels": torch.full(shape, IGNORED),
        }
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][index, :length] = torch.tensor(row["input_ids"])
            batch["attention_mask"][index, :length] = 1
            batch["labels"][index, row["positions"]] = torch.tensor(row["targets"], dtype=torch.float32)
        return batch


def step_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy against the distribution (1 - p, p) of each label p, as a mean over labelled steps.

    Args:
        outputs: a token classifier's, `logits` (B, L, 2).
        labels (`torch.Tensor`, (B, L)): in [0, 1], or `IGNORED`.
        num_items_in_batch (*optional*): labelled steps of the whole batch that one optimizer step sees; `None`: these.
    """
    is_labelled = labels != IGNORED
    right = labels[is_labelled].float()  # (S,)
    log_odds = outputs["logits"][is_labelled].float().log_softmax(-1)  # (S, 2)
    loss = -((1 - right) * log_odds[:, 0] + right * log_odds[:, 1]).sum()
    return loss / (right.numel() if num_items_in_batch is None else num_items_in_batch)


def right_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The probability of "right" at every token, (B, L)."""
    return logits.float().softmax(-1)[..., 1]


def prm_arguments(output_dir: str | Path, **changes: Any) -> TrainingArguments:
    """`TrainingArguments` with defaults for a process reward model; any field can be changed.

    3 epochs, learning rate 1e-5 decaying linearly after 3 % of warm-up, bf16 where a GPU has it, rows of like length
    together, a checkpoint after every epoch, no report.
    """
    settings: dict[str, Any] = {
        "output_dir": str(output_dir),
        "learning_rate": 1e-5,
        "warmup_steps": 0.03,
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
        "train_sampling_strategy": "group_by_length",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        "logging_steps": 10,
    }
    return TrainingArguments(**{**settings, **changes})


def load_classifier(model: str, separator: str, peft_config: LoraConfig | None = None) -> Any:
    """A token classifier from a checkpoint of any kind; a causal LM's gets a new head.

    The separator is written into its config as `step_separator`, so that whoever scores with it splits alike.

    Raises:
        ConfigurationError: no such model, or an architecture without token classification.
    """
    dtype = torch.bfloat16 if peft_config is not None and torch.cuda.is_available() else torch.float32
    names = {"num_labels": 2, "id2label": LABELS, "label2id": {name: index for index, name in LABELS.items()}}
    try:
        config = AutoConfig.from_pretrained(model, **names)
        config.classifier_dropout = 0.0
        config.step_separator = separator
        classifier = AutoModelForTokenClassification.from_pretrained(model, config=config, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load a token classifier from {model}: {error}") from error
    return classifier if peft_config is None else with_lora(classifier, peft_config)


def with_lora(classifier: Any, peft_config: LoraConfig) -> Any:
    """The classifier with a LoRA and its head to be trained, both in fp32; the rest is frozen as it is."""
    own = copy(peft_config)
    own.task_type = TaskType.TOKEN_CLS  # which trains the head besides, whole
    if own.exclude_modules is None:
        own.exclude_modules = list(HEADS)  # "all-linear" would put a LoRA on it too
    adapted = get_peft_model(classifier, own)
    _keep_heads_precise(adapted)
    return adapted


def _keep_heads_precise(model: Any) -> None:
    """The new head learns in fp32, whatever the frozen weights below it are in: bf16 would lose small updates."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for head in module.modules_to_save.values():
                head.float()
                # In mixed precision autocast does as it likes with both; without it they must agree.
                head.register_forward_pre_hook(lambda head, inputs: (inputs[0].float(), *inputs[1:]))


def _check_checkpoint(checkpoint: str) -> None:
    """See that all files of a checkpoint can be read.

    Raises:
        ConfigurationError: a run that was killed while it wrote left it torn.
    """
    folder = Path(checkpoint)
    try:
        json.loads((folder / "trainer_state.json").read_text())  # what is written last
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt"):
                pass
        torn = [file.name for file in folder.glob("*.pt") if not zipfile.is_zipfile(file)]
        if torn:
            raise OSError(f"{', '.join(torn)} cannot be read")
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigurationError(
            f"{folder} is not whole, and cannot be resumed from ({error}): remove it, to go on from an earlier one or "
            "to start anew"
        ) from error


def train_prm(
    model: str,
    train_rows: Dataset,
    eval_rows: Dataset | None = None,
    *,
    args: TrainingArguments,
    separator: str = SEPARATOR,
    max_length: int | None = None,
    peft_config: LoraConfig | None = None,
    resume: bool = False,
    on_note: Callable[[str], None] = lambda note: None,
    callbacks: Sequence[Any] | None = None,
) -> dict[str, float]:
    """Train a process reward model and save it, its tokenizer and `metrics.json` to `args.output_dir`.

    The folder loads with `AutoModelForTokenClassification`, also after LoRA, whose weights are merged. Checkpoints
    are in folders `checkpoint-*` beside it.

    Args:
        model (`str`): a checkpoint, of a causal LM or a token classifier.
        train_rows, eval_rows (`Dataset`): of `load_rows`.
        args (`TrainingArguments`): of `prm_arguments`, or your own.
        separator (`str`): what closes each step; its last token bears the label.
        max_length (`int`, *optional*): tokens; longer rows lose whole steps. `None`: what the model takes.
        peft_config (*optional*): a LoRA.
        resume (`bool`): go on from the last checkpoint in `args.output_dir`.
        on_note: told, as text, what was lost in tokenising.
        callbacks (*optional*): the trainer's.

    Returns:
        `dict[str, float]`: figures of `evaluate_steps` on `eval_rows`, and the counts of what was trained on.

    Raises:
        ConfigurationError: a model that cannot be loaded, a `max_length` it cannot take, nothing to resume from or a
            torn checkpoint, a folder with checkpoints and no `resume`.
        DatasetError: no row fits.
    """
    checkpoint = get_last_checkpoint(str(args.output_dir)) if resume and Path(str(args.output_dir)).is_dir() else None
    if resume and checkpoint is None:
        raise ConfigurationError(f"nothing to resume from: no checkpoint in {args.output_dir}")
    if checkpoint is not None:
        _check_checkpoint(checkpoint)
    if not resume and Path(str(args.output_dir)).is_dir() and (other := get_last_checkpoint(str(args.output_dir))):
        raise ConfigurationError(f"{other} is of an earlier training: go on from it (resume), or use another folder")
    torch.manual_seed(args.seed)  # of the new head
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load a tokenizer from {model}: {error}") from error
    classifier = load_classifier(model, separator, peft_config)
    context = getattr(classifier.config, "max_position_embeddings", None)
    if max_length is None:
        max_length = context
    elif context is not None and not 1 <= max_length <= context:
        raise ConfigurationError(f"max_length must be in 1..{context}, what {model} takes, got {max_length}")

    def encoded(rows: Dataset, name: str) -> Encoding:
        encoding = encode_rows(rows, tokenizer, separator=separator, max_length=max_length)
        if encoding.loss_report:
            on_note(f"{name}: {encoding.loss_report}")
        return encoding

    train = encoded(train_rows, "training rows")
    evaluation = None if eval_rows is None else (encoded(eval_rows, "evaluation rows"), eval_rows)
    args.remove_unused_columns = False  # the collator reads them
    args.label_names = ["labels"]
    trainer = StepTrainer(classifier, args, train, evaluation, tokenizer, callbacks=list(callbacks or []))
    trainer.train(resume_from_checkpoint=checkpoint)
    figures: dict[str, float] = {
        "train_rows": len(train.dataset),
        "train_steps": sum(map(len, train.dataset["targets"])),
        "train_truncated_rows": train.truncated_rows,
        "train_left_out_rows": train.left_out_rows,
    }
    if evaluation is not None:
        figures |= trainer.evaluate()
    save_prm(trainer, tokenizer, figures)
    return figures


def save_prm(trainer: Trainer, tokenizer: Any, figures: Mapping[str, float]) -> None:
    """Write the model, a LoRA merged into it, the tokenizer and `metrics.json`."""
    folder = Path(str(trainer.args.output_dir))
    if isinstance(trainer.model, PeftModel):
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(folder)
        (folder / "metrics.json").write_text(json.dumps(dict(figures), indent=2) + "\n")
