"""`ProcessReward`, the scorer that rates the steps of a response with a process reward model."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..errors import ConfigurationError, RewardError
from ..prm.formats import StepFormat
from ..prm.model import StepModel
from ..prm.steps import Split, prompt_text, split_steps
from .base import RewardFn, Score, text_of

logger = logging.getLogger(__name__)

Reduce = Callable[[np.ndarray], float]

REDUCTIONS: dict[str, Reduce] = {
    "min": np.min,
    "prod": np.prod,
    "mean": np.mean,
    "last": lambda scores_S: scores_S[-1],
}
LOWEST = -1.0
LOW_SHARE = 0.1  # a trained causal reward model gives nearly all its probability to its two answers


class ProcessReward(RewardFn):
    r"""A scorer: the lowest step score of a response, in [-1, 1], from a process reward model.

    A response is split into steps; one forward pass gives each step's probability p of being right; the lowest p
    (`reduce`) becomes the reward 2p - 1 (paper, section 2.3 and appendix C). Together with a verifier the total is
    `1[answer correct] + PRM`.

    Four public families work as published: token classifiers (TRL's format), Math-Shepherd, RLHFlow and
    Qwen2.5-Math-PRM; see `bstar_trl.prm.formats`. A response without steps (only white space and the family's own
    marks), or longer than the model's context, gets the lowest reward, -1, and a reason.

    Every training process has its own copy of the model, on its own GPU. The constructor loads the weights. Only one
    thread at a time uses them.

    Args:
        model (`str` or `PreTrainedModel`): Hub id, folder, or a loaded model.
        format (`str` or `StepFormat`): `"auto"`, `"token-classification"`, `"math-shepherd"`, `"rlhflow"`, `"qwen"`,
            or a `StepFormat` object.
        reduce (`str` or callable): `"min"`, `"prod"`, `"mean"`, `"last"`, or a function of the step scores, an array
            of shape (steps,) in 0..1, to one number in 0..1.
        split (`str` or callable, *optional*): the text between two steps, or a function from a response to its steps.
            None: the family's (a line break, or a blank line for RLHFlow and Qwen).
        question (callable, *optional*): from a prompt of the dataset to the question for the model. None: a text
            unchanged; of a conversation, the user's last message.
        tokenizer (*optional*): the model's tokenizer. None: loaded from the model's name.
        name (`str`, *optional*): the name in logs.
        device (`str` or `torch.device`, *optional*): the device that scores. None: this process's GPU, or the CPU; a
            loaded model stays on its device.
        dtype (`torch.dtype`, *optional*): precision of the weights. None: bf16 on a GPU, fp32 on the CPU; a loaded
            model keeps its precision.
        load_in_4bit (`bool`): NF4 weights; needs bitsandbytes. `model_kwargs` takes any other `quantization_config`.
        offload (`bool`): keep the model on the CPU while the policy generates. The responses of a round are then
            scored together after the last one is sampled.
        batch_tokens (`int`, *optional*): tokens per forward pass, padding included. None: 16,384 on a GPU, 4,096 on
            the CPU, where smaller batches are faster.
        max_length (`int`, *optional*): longest sequence, in tokens. None: the limit in the model's configuration.
        trust_remote_code (`bool`): run code published with the weights. None of the families needs it.
        model_kwargs (`dict`, *optional*): for `from_pretrained`.

    Raises:
        ConfigurationError: an unknown family or reduction, a tokenizer of another family, bitsandbytes missing (all
            before the weights are loaded); weights that cannot be loaded, or lack the family's head.
    """

    def __init__(
        self,
        model: Any,
        *,
        format: str | StepFormat = "auto",
        reduce: str | Reduce = "min",
        split: Split | None = None,
        question: Callable[[Any], str] = prompt_text,
        tokenizer: Any = None,
        name: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        load_in_4bit: bool = False,
        offload: bool = False,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
    ):
        super().__init__(name)
        if not callable(reduce) and (not isinstance(reduce, str) or reduce not in REDUCTIONS):
            raise ConfigurationError(f"reduce must be one of {', '.join(REDUCTIONS)} or a function, got {reduce!r}")
        if split == "":
            raise ConfigurationError("split must be a text of at least one character, or a function; got ''")
        for option, value in (("batch_tokens", batch_tokens), ("max_length", max_length)):
            if value is not None and not isinstance(value, int):
                raise ConfigurationError(f"{option} must be a whole number, got {value!r}")
            if value is not None and value < 1:
                raise ConfigurationError(f"{option} must be at least 1, got {value}")
        if split is not None and not isinstance(split, str) and not callable(split):
            raise ConfigurationError(f"split must be a text or a function, got {split!r}")
        if not callable(question):
            raise ConfigurationError(f"question must be a function from a prompt to a text, got {question!r}")
        self.reduce: Reduce = reduce if callable(reduce) else REDUCTIONS[reduce]
        self.question = question
        self.beside_generation = not offload
        self.model = StepModel(
            model,
            format=format,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
            offload=offload,
            trust_remote_code=trust_remote_code,
            model_kwargs=model_kwargs,
        )
        self.split: Split = split if split is not None else self.model.format.split
        self.batch_tokens = batch_tokens or (4_096 if self.model.device.type == "cpu" else 16_384)
        self.max_length = max_length or self.model.context_length
        self._lock = threading.Lock()
        self._warned: set[str] = set()

    def score(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Score]:
        """One score per completion in [-1, 1]; the reason names its weakest step.

        Raises:
            RewardError: an output of the model is not finite, or a result of `reduce` is outside 0..1.
        """
        return [self._reduced(scores_S) for scores_S in self.step_scores(prompts, completions)]

    def step_scores(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[np.ndarray]:
        """Every step's probability of being right.

        Args:
            prompts (`Sequence`): text, or messages.
            completions (`Sequence[str]`): the responses.

        Returns:
            `list[np.ndarray]`: one array of shape (steps,) per completion, in 0..1; empty for a completion without
            steps, NaN for one longer than `max_length`. A step that holds the separator of the model (possible with a
            `split` of your own) counts as several, as in training.

        Raises:
            RewardError: an output of the model is not finite.
        """
        clean = self.model.format.cleaner(self.model.tokenizer)
        steps = [
            [step for step in split_steps(text_of(completion), self.split) if clean(step)]
            for completion in completions
        ]
        # Equal responses share one forward pass.
        keys = [(self.question(prompt), *part) for prompt, part in zip(prompts, steps, strict=True)]
        different = [key for key in dict.fromkeys(keys) if len(key) > 1]
        scores = self._scores([key[0] for key in different], [key[1:] for key in different]) if different else []
        known = dict(zip(different, scores, strict=True))
        return [known.get(key, np.empty(0)) for key in keys]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}  # locks cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def close(self) -> None:
        """Free the GPU: weights that this object loaded move to the CPU until the next call."""
        with self._lock:
            self.model.rest()

    def _scores(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[np.ndarray]:
        layouts = self.model.format.lay_out(self.model.tokenizer, questions, steps)
        split = sum(len(layout.positions) != len(part) for layout, part in zip(layouts, steps, strict=True))
        if split:
            self._warn_once(
                "separator",
                f"{split} of {len(layouts)} responses have steps that hold the separator of the model of "
                f"'{self.name}': they are split there, as in training, and each part has a score (split=...)",
            )
        limit = math.inf if self.max_length is None else self.max_length
        fitting = [place for place, layout in enumerate(layouts) if len(layout.token_ids) <= limit]
        if len(fitting) < len(layouts):
            self._warn_once(
                "length",
                f"{len(layouts) - len(fitting)} of {len(layouts)} responses and their questions are longer than the "
                f"{limit} tokens that '{self.name}' reads: each gets the lowest reward, {LOWEST:g}",
            )
        scores = [np.full(len(part), np.nan) for part in steps]
        if fitting:
            with self._lock:
                found, share = self.model.scores([layouts[place] for place in fitting], self.batch_tokens)
            if share < LOW_SHARE:
                self._warn_once(
                    "share",
                    f"the model of '{self.name}' gives only {share:.1%} of its probability to its two answers, right "
                    f"and wrong: does it belong to the family {type(self.model.format).__name__}? (format=...)",
                )
            for place, scores_S in zip(fitting, found, strict=True):
                scores[place] = scores_S
        return scores

    def _reduced(self, scores_S: np.ndarray) -> Score:
        if not len(scores_S):
            return Score(LOWEST, "no steps: the response holds nothing but white space and marks")
        if np.isnan(scores_S).any():
            return Score(LOWEST, f"too long: the model reads {self.max_length} tokens, question included")
        value = float(self.reduce(scores_S))
        if not 0.0 <= value <= 1.0:
            raise RewardError(f"reduce of '{self.name}' must give a number in 0..1, got {value} for {scores_S}")
        weakest = int(scores_S.argmin())
        reason = f"weakest of {len(scores_S)} steps: {weakest + 1}, right at {scores_S[weakest]:.3f}"
        return Score(2 * value - 1, reason)

    def _warn_once(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning(message)
