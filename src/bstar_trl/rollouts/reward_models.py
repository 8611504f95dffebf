"""The values of reward models: sequence-classification models with one logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from trl.data_utils import apply_chat_template


def model_values(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Any],
    answers: Sequence[Any],
    *,
    conversational: bool,
    template_kwargs: Mapping[str, Any],
    batch_size: int,
) -> list[float]:
    """The model's logit for each prompt and answer; sorted by length, so that little is padded."""
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
        with torch.inference_mode():
            values[rows] = model(**inputs).logits[:, 0].float().cpu().numpy()
    return values.tolist()
