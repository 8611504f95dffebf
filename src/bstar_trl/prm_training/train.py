"""Train a process reward model with transformers' `Trainer`: token classification, one label after each step."""

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

from ..engines import pad_rows
from ..errors import BStarError, ConfigurationError
from ..prm.steps import SEPARATOR
from .data import IGNORED, Encoding, encode_rows
from .measures import evaluate_steps

LABELS = {0: "wrong", 1: "right"}
HEADS = ("score", "classifier")  # the classifying layer's name in different architectures


class StepTrainer(Trainer):
    """`Trainer` for step labels that are probabilities; it measures with `evaluate_steps`.

    It overrides `_get_eval_sampler`: evaluation must keep the order of the rows, because the solutions of one prompt
    are measured together; the parent groups rows by length.

    Args:
        model: a token classifier with two classes, the second for "right".
        args (`TrainingArguments`): those of `prm_arguments`, or others.
        train (`Encoding`): training data.
        evaluation (`tuple[Encoding, Dataset]`, *optional*): evaluation data, and the rows that it encodes.
        tokenizer: the model's tokenizer.
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
                raise BStarError("evaluation returned the rows in another order")
            probabilities.append(found[positions].astype(np.float64))
        return evaluate_steps(probabilities, encoding.dataset, rows)


class StepCollator:
    """Pads on the right and puts each step's label at the token that closes the step, `IGNORED` elsewhere."""

    def __init__(self, tokenizer: Any):
        self._pad = next(item for item in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if item is not None)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (B, L), `labels` (B, L) as floats."""
        input_ids, mask = pad_rows([row["input_ids"] for row in rows], self._pad, "right")
        labels = torch.full(mask.shape, IGNORED)
        for index, row in enumerate(rows):
            labels[index, row["positions"]] = torch.tensor(row["targets"], dtype=torch.float32)
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def step_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross-entropy against the distribution (1 - p, p) of each label p, as a mean over labelled steps.

    Args:
        outputs: of a token classifier, with `logits` (B, L, 2).
        labels (`torch.Tensor`, (B, L)): in [0, 1], or `IGNORED`.
        num_items_in_batch (*optional*): labelled steps of all batches of one optimizer step; `None`: those of
            `labels`.
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
    """`TrainingArguments` with defaults for a process reward model; `changes` sets any field.

    3 epochs, learning rate 1e-5 decaying linearly after 3 % of warm-up, bf16 if the GPU supports it, rows of similar
    length in one batch, a checkpoint after every epoch, no report.
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
    """A token classifier from a checkpoint of any kind; a causal language model gets a new head.

    The config stores the separator as `step_separator`, so that `ProcessReward` splits responses at it.

    Raises:
        ConfigurationError: there is no such model, or its architecture has no token classification.
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
    """The classifier with a trainable LoRA and head, both in fp32; all other weights are frozen."""
    own = copy(peft_config)
    own.task_type = TaskType.TOKEN_CLS  # trains the whole head too
    if own.exclude_modules is None:
        own.exclude_modules = list(HEADS)  # "all-linear" would add a LoRA to the head
    adapted = get_peft_model(classifier, own)
    _keep_heads_precise(adapted)
    return adapted


def _keep_heads_precise(model: Any) -> None:
    """Train the new head in fp32, whatever the precision of the frozen weights: bf16 would lose small updates."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for head in module.modules_to_save.values():
                head.float()
                # Without autocast the head's input must have the head's precision.
                head.register_forward_pre_hook(lambda head, inputs: (inputs[0].float(), *inputs[1:]))


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

    The folder loads with `AutoModelForTokenClassification`; LoRA weights are merged first. Checkpoints are written to
    its subfolders `checkpoint-*`.

    Args:
        model (`str`): a checkpoint of a causal language model or a token classifier.
        train_rows, eval_rows (`Dataset`): of `load_rows`.
        args (`TrainingArguments`): of `prm_arguments`, or your own.
        separator (`str`): the text after each step; its last token bears the label.
        max_length (`int`, *optional*): tokens; longer rows lose whole steps. `None`: the model's context.
        peft_config (*optional*): a LoRA.
        resume (`bool`): continue from the last checkpoint in `args.output_dir`.
        on_note: receives a text about the rows and steps that tokenising dropped.
        callbacks (*optional*): for the trainer.

    Returns:
        `dict[str, float]`: figures of `evaluate_steps` on `eval_rows`, and counts of the training data.

    Raises:
        ConfigurationError: the model cannot be loaded, `max_length` exceeds its context, the checkpoint to resume from
            is missing or torn, or the folder holds checkpoints and `resume` is false.
        DatasetError: no row fits.
    """
    checkpoint = _checkpoint_of(str(args.output_dir), resume)
    torch.manual_seed(args.seed)  # decides the weights of the new head
    tokenizer = _load_tokenizer(model)
    classifier = load_classifier(model, separator, peft_config)
    limit = _length_limit(classifier, max_length)

    def encoded(rows: Dataset, name: str) -> Encoding:
        encoding = encode_rows(rows, tokenizer, separator=separator, max_length=limit)
        if encoding.loss_report:
            on_note(f"{name}: {encoding.loss_report}")
        return encoding

    train = encoded(train_rows, "training rows")
    evaluation = None if eval_rows is None else (encoded(eval_rows, "evaluation rows"), eval_rows)
    args.remove_unused_columns = False  # the collator reads them
    args.label_names = ["labels"]
    trainer = StepTrainer(classifier, args, train, evaluation, tokenizer, callbacks=list(callbacks or []))
    trainer.train(resume_from_checkpoint=checkpoint)
    figures = {f"train_{name}": value for name, value in train.figures.items()}
    if evaluation is not None:
        figures |= trainer.evaluate()
    save_prm(trainer, tokenizer, figures)
    return figures


def _load_tokenizer(model: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load a tokenizer from {model}: {error}") from error


def _length_limit(classifier: Any, max_length: int | None) -> int | None:
    context: int | None = getattr(classifier.config, "max_position_embeddings", None)
    if max_length is None:
        return context
    if context is not None and not 1 <= max_length <= context:
        raise ConfigurationError(f"max_length must be in 1..{context}, the model's context, got {max_length}")
    return max_length


def _checkpoint_of(output_dir: str, resume: bool) -> str | None:
    """The checkpoint to resume from, all of whose files can be read; `None` for a new training.

    Raises:
        ConfigurationError: there is no checkpoint to resume from, or a kill during its writing left it torn; or a new
            training would write into a folder with checkpoints.
    """
    checkpoint = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if not resume:
        if checkpoint is not None:
            raise ConfigurationError(f"{checkpoint} is of an earlier training: resume it, or use another folder")
        return None
    if checkpoint is None:
        raise ConfigurationError(f"nothing to resume from: no checkpoint in {output_dir}")
    folder = Path(checkpoint)
    try:
        json.loads((folder / "trainer_state.json").read_text())  # written last
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt"):
                pass
        torn = [file.name for file in folder.glob("*.pt") if not zipfile.is_zipfile(file)]
        if torn:
            raise OSError(f"{', '.join(torn)} cannot be read")
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigurationError(
            f"{folder} is incomplete, and cannot be resumed from ({error}): remove it, then resume from an earlier "
            "checkpoint or start again"
        ) from error
    return checkpoint


def save_prm(trainer: Trainer, tokenizer: Any, figures: Mapping[str, float]) -> None:
    """Write the model (a LoRA merged into it), the tokenizer and `metrics.json`."""
    folder = Path(str(trainer.args.output_dir))
    if isinstance(trainer.model, PeftModel):
        trainer.model = trainer.model.merge_and_unload()
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(folder)
        (folder / "metrics.json").write_text(json.dumps(dict(figures), indent=2) + "\n")
