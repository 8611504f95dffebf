"""Forward passes over laid-out responses: one per response, whatever its number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from ..errors import RewardError
from .formats import Layout


def pack(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Batches of at most `batch_tokens` tokens, padding included (a longer sequence: alone), of like lengths.

    The longest come first, so that what does not fit into memory shows at once.

    Returns:
        `list[list[int]]`: every index once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def padded(sequences: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of a batch, padded on the right; both of shape (B, T)."""
    width = max(map(len, sequences))
    token_ids_BT = torch.full((len(sequences), width), pad_token_id)
    mask_BT = torch.zeros_like(token_ids_BT)
    for row, sequence in enumerate(sequences):
        token_ids_BT[row, : len(sequence)] = torch.tensor(sequence)
        mask_BT[row, : len(sequence)] = 1
    return token_ids_BT, mask_BT


@contextmanager
def head_reads(head: nn.Module, rows_S: torch.Tensor, positions_S: torch.Tensor) -> Iterator[None]:
    """Within, the head sees these positions of these rows alone: its output is (S, classes), not (B, T, classes).

    A vocabulary's logits for every token would cost more than the step scores are worth.
    """
    handle = head.register_forward_pre_hook(lambda module, inputs: (inputs[0][rows_S, positions_S], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def run(
    model: nn.Module,
    head: nn.Module,
    layouts: Sequence[Layout],
    classes: tuple[int, int],
    *,
    device: torch.device,
    pad_token_id: int,
    batch_tokens: int,
) -> tuple[list[np.ndarray], float]:
    """Each step's probability of being right.

    Args:
        model (`nn.Module`): in evaluation mode, on `device`.
        head (`nn.Module`): its last layer.
        layouts (`Sequence[Layout]`): the responses.
        classes (`tuple[int, int]`): which outputs say *wrong* and *right*.
        device (`torch.device`): of the model.
        pad_token_id (`int`): fills batches up.
        batch_tokens (`int`): tokens per forward pass, padding included.

    Returns:
        `(list[np.ndarray], float)`: one array of shape (steps,) per response, in 0..1; and the share of its
            probability that the model gave to these two outputs, a mean over all steps.

    Raises:
        RewardError: the model's output is not finite.
    """
    scores: list[np.ndarray] = [np.empty(0)] * len(layouts)
    shares = []
    for batch in pack([len(item.token_ids) for item in layouts], batch_tokens):
        token_ids_BT, mask_BT = padded([layouts[index].token_ids for index in batch], pad_token_id)
        counts = [len(layouts[index].positions) for index in batch]
        rows_S = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(counts)).to(device)
        positions_S = torch.tensor([place for index in batch for place in layouts[index].positions], device=device)
        with torch.inference_mode(), head_reads(head, rows_S, positions_S):
            outputs = model(input_ids=token_ids_BT.to(device), attention_mask=mask_BT.to(device), use_cache=False)
            logits_SC = outputs[0].float() if isinstance(outputs, tuple) else outputs.logits.float()
            logits_S2 = logits_SC[:, list(classes)]
            scores_S = torch.softmax(logits_S2, dim=-1)[:, 1].cpu().numpy()
            shares.append((logits_S2.logsumexp(-1) - logits_SC.logsumexp(-1)).exp().cpu().numpy())
        if not np.isfinite(scores_S).all():
            raise RewardError(
                "the process reward model gave outputs that are not finite; load it in bf16 or fp32 (dtype=...)"
            )
        for index, part in zip(batch, np.split(scores_S, np.cumsum(counts)[:-1]), strict=True):
            scores[index] = part
    return scores, float(np.concatenate(shares).mean()) if shares else 1.0
