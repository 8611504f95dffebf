"""The values of reward models: sequence-classification models with one logit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from trl.data_utils import apply_chat_template

from ..engines import context_length
from ..errors import RewardError


def model_values(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Any],
    answers: Sequence[Any],
    *,
    name: str,
    conversational: bool,
    template_kwargs: Mapping[str, Any],
    batch_size: int,
) -> list[float]:
    """The model's logit for each prompt and answer; sorted by length, so that little is padded.

    Raises:
        RewardError: a text holds a token that the model has no embedding for, or more tokens than it takes; names the
            reward.
    """
    if conversational:
        texts = [
            apply_chat_template({"messages": list(prompt) + answer}, tokenizer, **template_kwargs)["text"]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
    else:
        texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    device = next(model.parameters()).device
    values = np.empty(len(texts), dtype=np.float64)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        inputs = tokenizer(
            text=[texts[row] for row in rows],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=False,
        ).to(device)
        _check_inputs(model, inputs["input_ids"], name)
        with torch.inference_mode():
            values[rows] = model(**inputs).logits[:, 0].float().cpu().numpy()
    return values.tolist()


def _check_inputs(model: Any, input_ids_BT: torch.Tensor, name: str) -> None:
    num_embeddings = getattr(model.get_input_embeddings(), "num_embeddings", math.inf)
    largest = int(input_ids_BT.max())
    if largest >= num_embeddings:
        raise RewardError(
            f"the tokenizer of the reward model '{name}' gave the token id {largest}, but the model has embeddings "
            f"for {num_embeddings} tokens: call its resize_token_embeddings, or use its own tokenizer"
        )
    takes = context_length(model)
    if takes is not None and input_ids_BT.shape[1] > takes:
        raise RewardError(
            f"a prompt and its response have {input_ids_BT.shape[1]} tokens for the reward model '{name}', which "
            f"takes {takes}: shorten the prompts, lower max_completion_length, or use another reward model"
        )
